"""automatic-speech-recognition: the text that is spoken in each recording.

A result is `{text, chunks}`; `chunks` is null unless timestamps or languages were asked for. Whisper transcribes
recordings longer than its window as they are (the accurate way), or in overlapping chunks with `chunk_length_s`, which
share forwards; CTC models take any length at once, or chunks.

Put right in `engine/pipelines/automatic_speech_recognition.py`, where transformers 5.23 in batches

- decodes the padding behind shorter clips, and a frame too many of shorter chunks (CTC);
- changes the text of clips that share a batch with longer ones (CTC models with group norms);
- fails for languages, or gives every row that of the first (Whisper), and moves the timestamps of words.

Also put right: of overlapping chunks, encoder-decoders other than Whisper repeat what two chunks have in common.

Recordings are resampled and mixed by `ray_pipelines.media`, and a caller's dictionary is left as it is; transformers
empties it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.tasks import Task
from ray_pipelines.tasks._audio import AUDIO_FIELDS
from ray_pipelines.tasks._generation import GenerationParameters, generation_arguments

if TYPE_CHECKING:
    import pyarrow as pa


class SpeechRecognitionParameters(GenerationParameters):
    """Parameters of automatic-speech-recognition."""

    chunk_length_s: Annotated[
        float | None,
        pydantic.Field(gt=0, description="Split recordings into overlapping chunks of so many seconds; unset, do not."),
    ] = None
    stride_length_s: Annotated[
        Annotated[float, pydantic.Field(ge=0)]
        | tuple[Annotated[float, pydantic.Field(ge=0)], Annotated[float, pydantic.Field(ge=0)]]
        | None,
        pydantic.Field(
            description="Overlap of chunks in seconds, at both ends or as [left, right]; a sixth of chunk_length_s by "
            "default."
        ),
    ] = None
    return_timestamps: Annotated[
        bool | Literal["char", "word"],
        pydantic.Field(
            description="Return chunks of the text with their start and end in seconds: of characters or words (CTC), "
            "of words or segments (`true`; Whisper)."
        ),
    ] = False
    return_language: Annotated[
        bool, pydantic.Field(description="Return the language that Whisper heard, with each chunk of the text.")
    ] = False
    generate_kwargs: Annotated[
        dict[str, Any] | None,
        pydantic.Field(
            description="Any arguments of the model's `generate`, e.g. {language: german, task: translate}."
        ),
    ] = None
    temperature: Annotated[
        float | tuple[float, ...] | None,
        pydantic.Field(
            description="Divides the logits before sampling; Whisper may try several in turn, e.g. [0, 0.2, 0.4]."
        ),
    ] = None  # type: ignore[assignment]
    decoder_kwargs: Annotated[
        dict[str, Any] | None,
        pydantic.Field(description="Arguments of the beam search of a CTC model with a language model."),
    ] = None
    ignore_warning: Annotated[
        bool, pydantic.Field(description="Do not warn that chunks are experimental for models that generate.")
    ] = False

    @pydantic.field_validator("generate_kwargs")
    @classmethod
    def _one_language(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in ("language", "task"):
            if isinstance((value or {}).get(name), list | tuple):
                raise ValueError(f"{name}: expected one for all recordings; got a list. Run a job for each.")
        return value

    @pydantic.model_validator(mode="after")
    def _chunks_are_longer_than_their_overlap(self) -> SpeechRecognitionParameters:
        stride = self.stride_length_s
        if stride is None:
            return self
        if self.chunk_length_s is None:
            raise ValueError("stride_length_s: expected chunk_length_s beside it. Set it to 30, for example.")
        left, right = stride if isinstance(stride, tuple) else (stride, stride)
        if left + right >= self.chunk_length_s:
            raise ValueError(
                f"stride_length_s: expected overlaps of less than chunk_length_s ({self.chunk_length_s:g} s) together; "
                f"got {left:g} and {right:g}."
            )
        return self


def pipeline_parameters(parameters: SpeechRecognitionParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments; of its own, what is null or false means the same as unset, and is left out."""
    own = SpeechRecognitionParameters.model_fields.keys() - GenerationParameters.model_fields.keys()
    values = parameters.model_dump(include=set(own), exclude_unset=True)
    arguments = {name: value for name, value in values.items() if value is not None and value is not False}
    return arguments | generation_arguments(parameters)


def result_type(parameters: SpeechRecognitionParameters) -> pa.DataType:
    """`struct<text: string, chunks: list<struct<text: string, start: float, end: float, language: string>>>`."""
    import pyarrow as pa

    chunk = [("text", pa.string()), ("start", pa.float32()), ("end", pa.float32()), ("language", pa.string())]
    return pa.struct([("text", pa.string()), ("chunks", pa.list_(pa.struct(chunk)))])


def to_result(result: Any, parameters: SpeechRecognitionParameters) -> dict[str, Any]:
    """`{text, chunks}`, each chunk `{text, start, end, language}`; what the model does not say is None."""
    chunks = result.get("chunks")
    return {"text": result["text"], "chunks": None if chunks is None else [_chunk(chunk) for chunk in chunks]}


def _chunk(chunk: Mapping[str, Any]) -> dict[str, Any]:
    start, end = (None if time is None else float(time) for time in chunk.get("timestamp", (None, None)))
    return {"text": chunk["text"], "start": start, "end": end, "language": chunk.get("language")}


def is_random(pipe: Any, parameters: SpeechRecognitionParameters) -> bool:
    """Whether the model samples: it is told to, or has a temperature above zero, if only to fall back on (Whisper)."""
    arguments = {**getattr(pipe, "_generate_kwargs", {}), **pipe._forward_params}
    config = getattr(pipe.model, "generation_config", None)
    temperature = arguments.get("temperature") or 0.0
    temperatures = temperature if isinstance(temperature, list | tuple) else (temperature,)
    return bool(arguments.get("do_sample", getattr(config, "do_sample", False))) or max(temperatures) > 0


TASK = Task(
    name="automatic-speech-recognition",
    summary="The text that is spoken in each recording.",
    inputs=AUDIO_FIELDS,
    parameters=SpeechRecognitionParameters,
    result_type=result_type,
    result_description="{text, chunks}; chunks is a list of {text, start, end, language}, or null",
    to_item=lambda fields: fields["audio"],
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.automatic_speech_recognition:SpeechRecognitionPipeline",
    takes_assistant=True,
    is_random=is_random,
    chunked=True,
)
