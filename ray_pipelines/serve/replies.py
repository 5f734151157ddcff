"""Results in the shapes that clients of Hugging Face's Inference API parse, where a `prediction` has others.

Sources: the parsers of `huggingface_hub` 2.4 (`inference/_client.py`), which take for example `[{label, score}]` of a
zero-shot classification where the pipeline gives parallel lists, and masks as base64 of PNG.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipelines.serve.refusals import Refused

__all__ = ["Payload", "encode_recording", "json_value", "reply"]

RECORDINGS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
}
"""Container and encoding of each file format, by libsndfile's names."""


@dataclass(frozen=True)
class Payload:
    """An answer that is not JSON: an image or a recording.

    Attributes:
        data: The encoded file.
        media_type: Its type, e.g. `image/png`.
    """

    data: bytes
    media_type: str


def reply(task_name: str, result: Any, parameters: Any) -> Any:
    """One result as clients read it: JSON's types, or a `Payload`.

    Args:
        task_name: The task.
        result: A `prediction`.
        parameters: The task's parameters for this input.
    """
    shape = SHAPES.get(task_name.partition("_")[0], _unchanged)
    shaped = shape(result, parameters)
    return shaped if isinstance(shaped, Payload) else json_value(shaped)


def json_value(value: Any) -> Any:
    """`value` in JSON's types: arrays as lists, bytes as base64, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):
        return json_value(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def encode_recording(result: Mapping[str, Any], kind: str = "wav") -> bytes:
    """A generated recording as a file.

    Args:
        result: `{audio, sampling_rate, num_channels}`.
        kind: `wav`, `flac`, `mp3`, `opus`, or `pcm` for 16-bit samples alone.

    Raises:
        Refused: 422: the format does not have this recording's sampling rate.
    """
    import io

    import numpy as np
    import soundfile

    samples = np.asarray(result["audio"], dtype=np.float32).reshape(-1, result["num_channels"])
    if kind == "pcm":
        return (samples.clip(-1, 1) * 32767).astype("<i2").tobytes()
    container, subtype = RECORDINGS[kind]
    file = io.BytesIO()
    try:
        soundfile.write(file, samples, result["sampling_rate"], format=container, subtype=subtype)
    except soundfile.LibsndfileError:
        raise Refused(422, f"response_format: {kind} cannot hold {result['sampling_rate']:,} Hz; use wav.") from None
    return file.getvalue()


def _unchanged(result: Any, parameters: Any) -> Any:
    return result


def _without_nulls(result: Any, parameters: Any) -> Any:
    return [{name: value for name, value in record.items() if value is not None} for record in result]


def _listed_once(result: Any, parameters: Any) -> Any:
    return [result]


def _masks(result: Any, parameters: Any) -> Any:
    return [{**record, "mask": _png_of_mask(record["mask"])} for record in result]


def _png_of_mask(mask: Mapping[str, Any]) -> str:
    import io

    from PIL import Image

    from ray_pipelines.media.masks import decode_mask

    file = io.BytesIO()
    Image.fromarray(decode_mask(mask).astype("uint8") * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _labels_with_scores(result: Any, parameters: Any) -> Any:
    return [{"label": label, "score": score} for label, score in zip(result["labels"], result["scores"], strict=True)]


def _one_unless_several(result: Any, parameters: Any) -> Any:
    return result[0] if getattr(parameters, "top_k", 1) in (None, 1) and len(result) == 1 else result


def _of_one_mask(result: Any, parameters: Any) -> Any:
    return result[0] if len(result) == 1 else result


def _only(result: Any, parameters: Any) -> Any:
    return result[0] if len(result) == 1 else result


def _transcript(result: Any, parameters: Any) -> Any:
    if result["chunks"] is None:
        return {"text": result["text"]}
    chunks = []
    for chunk in result["chunks"]:
        record = {"text": chunk["text"], "timestamp": [chunk["start"], chunk["end"]]}
        chunks.append(record if chunk.get("language") is None else {**record, "language": chunk["language"]})
    return {"text": result["text"], "chunks": chunks}


def _picture(result: Any, parameters: Any) -> Payload:
    return Payload(result["bytes"], "image/png")


def _depth(result: Any, parameters: Any) -> Any:
    return {"predicted_depth": result["predicted_depth"], "depth": result["depth"]["bytes"]}


def _features(result: Any, parameters: Any) -> Any:
    return [result]


def _sound(result: Any, parameters: Any) -> Payload:
    return Payload(encode_recording(result), "audio/wav")


SHAPES: Mapping[str, Callable[[Any, Any], Any]] = {
    "text-classification": _listed_once,
    "token-classification": _without_nulls,
    "fill-mask": _of_one_mask,
    "question-answering": _one_unless_several,
    "table-question-answering": _only,
    "zero-shot-classification": _labels_with_scores,
    "image-segmentation": _masks,
    "mask-generation": _masks,
    "automatic-speech-recognition": _transcript,
    "image-to-image": _picture,
    "depth-estimation": _depth,
    "feature-extraction": _features,
    "image-feature-extraction": _features,
    "text-to-audio": _sound,
}
