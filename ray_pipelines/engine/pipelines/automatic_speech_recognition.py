"""automatic-speech-recognition whose batches give what each recording gives by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers.pipelines.automatic_speech_recognition import rescale_stride

from ray_pipelines.engine.batching import hide_mask, restore_mask
from ray_pipelines.engine.pipelines._frames import check_length, frames_of
from ray_pipelines.engine.pipelines._generated import end_tokens, own_length

__all__ = ["SpeechRecognitionPipeline"]

CONFIDENCE = "confidence"
CTC = ("ctc", "ctc_with_lm")


class SpeechRecognitionPipeline(transformers.AutomaticSpeechRecognitionPipeline):  # type: ignore[misc]
    """Speech recognition by CTC, Whisper, other encoder-decoders and transducers.

    What may share a forward:

    - CTC with layer norms (and a known number of frames per sample): clips of any length. The frames of padding are
      cut off, and the confidence of each frame goes along, by which the executor checks that padding changes nothing;
    - any other CTC model, and encoder-decoders: clips of equal length only. Group norms mix padding into the clip;
    - Whisper's windows. Recordings of several windows are run one by one.

    Source: transformers 5.23, pipelines/automatic_speech_recognition.py, from which preprocessing, the merge of chunks
    and the decoding are inherited; the forward differs as said, and finds the language of each row of a batch. Chunks
    of encoder-decoders other than Whisper are merged where they overlap, rather than put one after the other.
    """

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        unused = self._forward_params.keys() - {"return_timestamps", "return_language"}
        if self.type in CTC and unused:
            raise ValueError(f"{type(self.model).__name__} does not generate; drop {', '.join(sorted(unused))}.")

    @property
    def can_pad(self) -> bool:
        """Whether clips of different length may share a forward."""
        norm = getattr(self.model.config, "feat_extract_norm", None)
        return bool(norm == "layer" and self._counts_frames)

    @property
    def _counts_frames(self) -> bool:
        """Whether the model says how many frames it makes of a waveform."""
        is_waveform = self.model.main_input_name == "input_values"
        return self.type in CTC and is_waveform and hasattr(self.model, "_get_feat_extract_output_lengths")

    def preprocess(self, inputs: Any, chunk_length_s: float = 0, stride_length_s: Any = None) -> Iterator[Any]:
        """The chunks of a recording, a single one without `chunk_length_s`.

        Raises:
            InvalidInput: The recording is too short for a single frame.
        """
        for chunk in super().preprocess(inputs, chunk_length_s, stride_length_s):
            if self._counts_frames:
                check_length(self.model, chunk["input_values"].shape[-1])
            yield chunk if self.can_pad else hide_mask(chunk)

    def _forward(
        self,
        model_inputs: Mapping[str, Any],
        return_timestamps: Any = False,
        return_language: bool | None = None,
        **generate_kwargs: Any,
    ) -> dict[str, Any]:
        """The outputs of one chunk, or of a batch: then a list under each key, one value per chunk."""
        inputs = restore_mask(model_inputs)
        rows = _rows(inputs)
        if self.type in CTC:
            outputs = self._recognize_frames(inputs, rows)
        elif self.type == "seq2seq":
            outputs = self._generate(inputs, rows, generate_kwargs)
        elif self.type == "seq2seq_whisper":
            timestamps = return_timestamps or getattr(self.model.generation_config, "return_timestamps", False)
            is_one_window = inputs["input_features"].shape[-1] <= self.feature_extractor.nb_max_frames
            can_align = timestamps != "word" or inputs.get("attention_mask") is not None
            batches = [inputs] if is_one_window and can_align else rows
            outputs = []
            for batch in batches:
                outputs += self._generate(batch, _rows(batch), generate_kwargs, timestamps, return_language)
        else:
            outputs = [super(SpeechRecognitionPipeline, self)._forward(row, **generate_kwargs) for row in rows]
        if len(rows) == 1:
            return outputs[0]
        return {name: [output[name] for output in outputs] for name in outputs[0]}

    def _recognize_frames(self, inputs: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The likeliest token of each frame (or all logits, for a decoder with a language model)."""
        name, mask = self.model.main_input_name, inputs.get("attention_mask")
        logits = self.model(**{name: inputs[name], "attention_mask": mask}).logits
        num_frames: Sequence[int | None] = [None] * len(rows)
        if self.can_pad and mask is not None:
            num_frames = frames_of(self.model, mask.sum(-1).cpu())
        confidence, tokens = (values.cpu() for values in logits.float().max(dim=-1))
        if self.type == "ctc_with_lm":
            logits = logits.cpu()
        outputs = []
        for index, (row, length) in enumerate(zip(rows, num_frames, strict=True)):
            output: dict[str, Any] = {"is_last": row["is_last"]}
            if self.type == "ctc_with_lm":
                output["logits"] = logits[index : index + 1, :length]
            else:
                output["tokens"] = tokens[index : index + 1, :length]
                output[CONFIDENCE] = confidence[index : index + 1, :length]
            if row.get("stride") is not None:
                (output["stride"],) = rescale_stride([row["stride"]], 1 / self._align_to)
            outputs.append(output)
        return outputs

    def _generate(
        self,
        inputs: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        generate_kwargs: Mapping[str, Any],
        timestamps: Any = None,
        language: bool | None = None,
    ) -> list[dict[str, Any]]:
        """The generated tokens of each row, for Whisper with the language and the times of words if asked for."""
        arguments = dict(generate_kwargs)
        if timestamps:
            arguments["return_timestamps"] = True
        if timestamps == "word":
            arguments["return_token_timestamps"] = True
        if language or timestamps == "word":
            arguments["return_segments"] = True
        arguments = self._prepare_generate_kwargs(arguments)
        if arguments.get("stop_strings"):
            arguments.setdefault("tokenizer", self.tokenizer)
        features = inputs["input_features"] if "input_features" in inputs else inputs["input_values"]
        arguments = {self.model.main_input_name: features, "attention_mask": inputs.get("attention_mask"), **arguments}
        aligned: AbstractContextManager[None] = nullcontext()
        if timestamps == "word" and len(rows) > 1:
            aligned = _aligned_row_by_row(self.model, end_tokens(self._get_set_generation_params(arguments)))
        with aligned:
            generated = self.model.generate(**arguments)
        generated = generated if isinstance(generated, Mapping) else {"sequences": generated}
        sequences = generated["sequences"].cpu()
        step = len(sequences) // len(rows)  # num_return_sequences; the first is the best
        outputs = []
        for index, row in enumerate(rows):
            output: dict[str, Any] = {"is_last": row["is_last"], "tokens": sequences[index * step][None]}
            if timestamps == "word":
                output["token_timestamps"] = _token_timestamps(generated, index * step)
            if language:
                config = arguments.get("generation_config", self.model.generation_config)
                output["lang_id"] = _language_token(generated["segments"][index * step], config)
            if self.type == "seq2seq_whisper" and row.get("stride") is not None:
                output["stride"] = tuple(row["stride"])
            outputs.append(output)
        return outputs

    def postprocess(self, model_outputs: Sequence[Mapping[str, Any]], **parameters: Any) -> Any:
        """`{text}`, with `chunks` where timestamps or languages were asked for."""
        outputs = [
            {name: value for name, value in output.items() if name != CONFIDENCE and value is not None}
            for output in model_outputs
        ]
        if self.type == "seq2seq" and len(outputs) > 1:
            special = set(self.tokenizer.all_special_ids)
            chunks = [[token for token in output["tokens"][0].tolist() if token not in special] for output in outputs]
            outputs = [{"is_last": True, "tokens": torch.tensor([_merged(chunks)])}]
        return super().postprocess(outputs, **parameters)


def _rows(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The inputs of each row of a batch by itself; those of a single row as they are."""
    if not isinstance(inputs["is_last"], list):
        return [dict(inputs)]
    size = len(inputs["is_last"])
    return [
        {
            name: value[index : index + 1] if isinstance(value, torch.Tensor) else value[index]
            for name, value in inputs.items()
        }
        for index in range(size)
    ]


def _merged(chunks: Sequence[Sequence[int]]) -> list[int]:
    """The tokens of overlapping chunks, what two neighbours have in common only once.

    Source: transformers 5.23, `_find_longest_common_sequence`, which its pipeline never comes to (chunks lose their
    stride on the way) and which fails where a chunk has more tokens than those before. Here also half of the tokens
    must agree, so that chance does not cost text.

    >>> _merged([[1, 2, 3, 4, 5], [4, 5, 6], [7]])
    [1, 2, 3, 4, 5, 6, 7]
    """
    merged: list[int] = []
    for chunk in chunks:
        best_length, best_score = 0, 0.0
        for length in range(2, min(len(merged), len(chunk)) + 1):
            num_equal = sum(one == other for one, other in zip(merged[-length:], chunk[:length], strict=True))
            score = num_equal / length + length / 10_000  # of equal shares, the longest
            if num_equal > 1 and 2 * num_equal >= length and score > best_score:
                best_length, best_score = length, score
        merged += chunk[best_length:]
    return merged


@contextmanager
def _aligned_row_by_row(model: Any, ends: Set[int]) -> Iterator[None]:
    """Within the block, the times of words of each row of a batch are those that it has alone.

    Whisper aligns tokens with frames by the model's attention, scaled over all tokens of the batch's longest row.

    Source: transformers 5.23, `WhisperGenerationMixin._extract_token_timestamps`, which is called for each row, with
    what the row would have given alone.

    Args:
        model: A Whisper model that is called with an attention mask, of which the frames of each row are known.
        ends: The tokens that end a row.
    """
    extract = model._extract_token_timestamps

    def extract_each(
        made: Any, alignment_heads: Any, time_precision: float = 0.02, num_frames: Any = None, num_input_ids: int = 0
    ) -> torch.Tensor:
        num_rows = len(num_frames)
        per_row, num_beams = len(made.sequences) // num_rows, len(made.cross_attentions[0][0]) // num_rows
        times = []
        for row in range(num_rows):
            sequences = made.sequences[row * per_row : (row + 1) * per_row]
            num_steps = max(own_length(tokens, ends, None) for tokens in sequences[:, num_input_ids:].tolist())
            own = {
                "sequences": sequences[:, : num_input_ids + num_steps],
                "cross_attentions": tuple(
                    tuple(layer[row * num_beams : (row + 1) * num_beams] for layer in step)
                    for step in made.cross_attentions[: None if "beam_indices" in made else num_steps]
                ),
            }
            if "beam_indices" in made:
                beams = made.beam_indices[row * per_row : (row + 1) * per_row]
                own["beam_indices"] = torch.where(beams < 0, beams, beams - row * num_beams)
            frames = num_frames[row : row + 1]
            times += extract(type(made)(**own), alignment_heads, time_precision, frames, num_input_ids)
        return pad_sequence(times, batch_first=True)

    model._extract_token_timestamps = extract_each
    try:
        yield
    finally:
        del model._extract_token_timestamps


def _token_timestamps(generated: Mapping[str, Any], row: int) -> torch.Tensor:
    """The time of each token of a row in seconds, `float32[1, tokens]`."""
    if "segments" in generated:
        return torch.cat([segment["token_timestamps"] for segment in generated["segments"][row]]).cpu()[None]
    return generated["token_timestamps"][row].cpu()[None]  # type: ignore[no-any-return]


def _language_token(segments: Sequence[Mapping[str, Any]], config: Any) -> torch.Tensor | None:
    """The token of the language that Whisper heard, `int64[1]`, if it names one."""
    if not segments or not hasattr(config, "lang_to_id"):
        return None
    result = segments[0]["result"]
    tokens = result["sequences"] if isinstance(result, Mapping) else result
    languages = set(config.lang_to_id.values())
    found = [token for token in tokens.flatten().tolist() if token in languages]
    return torch.tensor(found[:1]) if found else None
