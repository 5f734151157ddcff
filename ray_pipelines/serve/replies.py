"""Results in the shapes that clients of Hugging Face's Inference API parse, where a `prediction` has others.

Sources: the parsers of `huggingface_hub` 2.4 (`inference/_client.py`), which take for example `[{label, score}]` of a
zero-shot classification where the pipeline gives parallel lists, and masks as base64 of PNG.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.refusals import Refused

__all__ = [
    "NUMBER_BYTES",
    "QUICK_BYTES",
    "Payload",
    "check_size",
    "encode",
    "encode_recording",
    "is_larger",
    "json_bytes",
    "picture_of_depth",
    "reply",
    "response",
]

QUICK_BYTES = 1 << 16
"""Of what is read or written in the event loop, which others wait for."""
NUMBER_BYTES = 11
"""Of a float32 in JSON, as in -0.12345678, with the comma after it; a float64 has twice as many."""
RECORDINGS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
}
"""Container and encoding of each file format, by libsndfile's names."""


@dataclass(frozen=True)
class Payload:
    """An answer as it is sent: JSON, an image or a recording.

    Attributes:
        data: The encoded file.
        media_type: Its type, e.g. `image/png`.
    """

    data: bytes
    media_type: str


def reply(task_name: str, result: Any, parameters: Any) -> Any:
    """One result as clients read it: what `json_bytes` takes, or a `Payload`.

    Args:
        task_name: The task.
        result: A `prediction`.
        parameters: The task's parameters for this input.
    """
    return SHAPES.get(task_name.partition("_")[0], _unchanged)(result, parameters)


async def encode(shaped: Callable[[], Any], results: Any, limits: ClientLimits, is_drawn: bool = False) -> Payload:
    """`shaped()` as it is sent; made in a thread of its own where that may take long.

    Args:
        shaped: Gives what `json_bytes` takes, or a `Payload`.
        results: What it is made of.
        limits: `max_answer_bytes`.
        is_drawn: It makes pictures or recordings of the results.

    Raises:
        Refused: 413: it would be too large; or what `shaped` raises.
    """

    def encoded() -> Payload:
        answer = shaped()
        if isinstance(answer, Payload):
            return answer
        if is_larger(answer, limits.max_answer_bytes):
            most = f"{limits.max_answer_bytes:,}"
            raise Refused(413, f"The answer would have more than {most} bytes. Send a smaller input, or fewer of them.")
        return Payload(json_bytes(answer), "application/json")

    is_quick = not is_drawn and not is_larger(results, QUICK_BYTES)
    return encoded() if is_quick else await asyncio.to_thread(encoded)


def response(payload: Payload) -> Response:
    """The answer that sends a payload."""
    return Response(payload.data, media_type=payload.media_type)


def json_bytes(value: Any) -> bytes:
    """`value` as JSON: arrays as lists, bytes as base64, NaN and infinities as null."""
    return orjson.dumps(value, _plain, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def is_larger(value: Any, num_bytes: int) -> bool:
    """Whether `json_bytes` would give more than about so many bytes, found without making them.

    >>> is_larger({"label": "cat", "score": 0.5}, 60), is_larger([0.5] * 10, 60)
    (False, True)
    """
    return any(total > num_bytes for total in itertools.accumulate(_sizes(value)))


def _sizes(value: Any) -> Iterator[int]:
    """About the bytes of each part of a value in JSON."""
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, Mapping):
            rest += part.values()
            yield sum(len(str(key)) + 4 for key in part)
        elif isinstance(part, list | tuple):
            rest += part
            yield len(part)
        elif isinstance(part, str):
            yield len(part) + 2
        elif isinstance(part, bytes):
            yield len(part) * 4 // 3
        else:
            width = 2 if getattr(part, "itemsize", 8) > 4 else 1
            yield int(getattr(part, "size", 1)) * width * NUMBER_BYTES


def check_size(num_bytes: int, limits: ClientLimits, advice: str) -> None:
    """Refuses an answer in JSON that would be too large.

    Raises:
        Refused: 413, with `advice` on what to do.
    """
    most = limits.max_answer_bytes
    if num_bytes > most:
        raise Refused(413, f"The answer would have about {num_bytes:,} bytes; at most {most:,} are sent. {advice}")


def picture_of_depth(result: Any, parameters: Any) -> Payload:
    """The picture of a depth alone, for clients that ask for a picture.

    Raises:
        Refused: 422: the parameters ask for none.
    """
    if result["depth"] is None:
        raise Refused(422, "parameters.with_picture: expected true, since the answer is to be a picture.")
    return Payload(result["depth"]["bytes"], "image/png")


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


def _plain(value: Any) -> Any:
    """What orjson does not know, in types that it does."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


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
    depth = result["depth"]
    return {"predicted_depth": result["predicted_depth"], "depth": None if depth is None else depth["bytes"]}


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
