"""text-to-audio with a voice for each row, and a vocoder by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from ray_pipelines.errors import InvalidInput

__all__ = ["TextToAudioPipeline"]


class TextToAudioPipeline(transformers.TextToAudioPipeline):  # type: ignore[misc]
    """Speech or music of a text: `{audio, sampling_rate}`.

    Args:
        vocoder: What makes a waveform of a spectrogram, or its name or folder; only for models of spectrograms.
        **arguments: Those of the pipeline in transformers.
    """

    def __init__(self, *args: Any, vocoder: Any = None, **arguments: Any) -> None:
        if isinstance(vocoder, str):
            vocoder = transformers.SpeechT5HifiGan.from_pretrained(vocoder)
        super().__init__(*args, vocoder=vocoder, **arguments)
        if self.vocoder is not None:
            self.vocoder.to(device=self.model.device, dtype=self.model.dtype).eval()
        if self._forward_params["generate_kwargs"] and not self.model.can_generate():
            names = ", ".join(self._forward_params["generate_kwargs"])
            raise ValueError(f"{type(self.model).__name__} does not generate; use forward_params, not {names}.")

    def preprocess(self, text: str, speaker_embeddings: Any = None, speaker_id: Any = None, **tokenizer: Any) -> Any:
        """The model's inputs, with the voice that is to speak.

        Raises:
            InvalidInput: The text has nothing to speak, or the voice is no vector of numbers.
        """
        inputs = dict(super().preprocess(text, **tokenizer))
        if not text.strip() or self._is_blank(inputs.get("input_ids")):
            raise InvalidInput("text: expected words to speak; got none that the model has letters for.")
        if speaker_embeddings is not None:
            inputs["speaker_embeddings"] = self._voice(speaker_embeddings)
        if speaker_id is not None:
            inputs["speaker_id"] = int(speaker_id)
        return inputs

    def _is_blank(self, ids: Any) -> bool:
        """Whether there is no letter, or nothing but the blanks that VITS puts between letters."""
        if not isinstance(ids, torch.Tensor):
            return False
        return ids.numel() == 0 or (getattr(self.tokenizer, "add_blank", False) and not bool(ids.any()))

    def _voice(self, embeddings: Any) -> torch.Tensor:
        try:
            voice = np.asarray(embeddings, dtype=np.float32)
        except (TypeError, ValueError):
            raise InvalidInput("speaker_embeddings: expected a list of numbers.") from None
        if voice.ndim != 1 or not np.isfinite(voice).all():
            raise InvalidInput(f"speaker_embeddings: expected finite numbers in a row; got shape {list(voice.shape)}.")
        length = getattr(self.model.config, "speaker_embedding_dim", None)
        if length is not None and len(voice) != length:
            raise InvalidInput(f"speaker_embeddings: expected {length} numbers for this model; got {len(voice)}.")
        return torch.from_numpy(voice)[None].to(self.model.dtype)

    def _forward(self, model_inputs: Mapping[str, Any], **parameters: Any) -> dict[str, Any]:
        """The clip under the one name that `postprocess` reads; transformers gives all outputs, or a bare tensor."""
        outputs = super()._forward(model_inputs, **parameters)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        if not isinstance(outputs, Mapping):
            return {"audio": outputs}
        name = next(name for name in ("audio", "waveform", "sequences") if name in outputs)
        return {name: outputs[name]}

    def postprocess(self, audio: Any) -> dict[str, Any]:
        """The clip, `float32[samples]` or `float32[channels, samples]`, and its rate."""
        result = super().postprocess(audio)
        clip = result["audio"][0] if isinstance(result["audio"], list) else result["audio"]
        return {"audio": np.atleast_1d(clip), "sampling_rate": self.sampling_rate}
