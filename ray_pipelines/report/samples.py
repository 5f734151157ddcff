"""A row and its result as a small piece of HTML: text, pictures with boxes or masks, recordings that play.

Whatever comes from users is escaped, cut, and made smaller: a report stays a page that one can send.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import numpy as np

from ray_pipelines.errors import RowError, attempt
from ray_pipelines.report.values import AUDIO_RATE, as_text, cut, dimensions, generated_texts, scored

__all__ = ["Sample", "card"]

MAX_CHARS = 600
MAX_PICTURE_PIXELS = 320
MAX_PICTURES = 4
MAX_AUDIO_S = 8
MAX_LABELS = 5
MAX_MEDIA_BYTES = 400_000
"""Of one picture or recording; what is larger after it was made smaller is left out."""


@dataclass(frozen=True)
class Sample:
    """A row of a run.

    Attributes:
        place: Where it stands in the input.
        inputs: Field of the task: value, decoded (text, pictures, `float32[samples]` at 16 kHz, or anything).
        prediction: Its result, as Python values.
        is_several: Whether that is a mapping of the results of several tasks by their names.
    """

    place: str
    inputs: Mapping[str, Any]
    prediction: Any
    is_several: bool = False

    @property
    def results(self) -> dict[str, Any]:
        """The results by task; one without a name where there is one task only."""
        return dict(self.prediction) if self.is_several and self.prediction is not None else {"": self.prediction}


def card(sample: Sample) -> str:
    """The row as an HTML element."""
    inputs = "".join(_input(name, value, len(sample.inputs) > 1) for name, value in sample.inputs.items())
    drawn = attempt("postprocess", partial(_drawn, sample))
    body = inputs if isinstance(drawn, RowError) or not drawn else drawn
    named = (f'<span class="field">{escape(name)}</span>' if name else "" for name in sample.results)
    results = "".join(name + _result(value) for name, value in zip(named, sample.results.values(), strict=True))
    return (
        f'<article class="card"><div class="in">{body}</div><div class="out">{results}</div>'
        f'<footer title="{escape(sample.place)}">{escape(cut(sample.place.rpartition("/")[2], 60))}</footer></article>'
    )


def _drawn(sample: Sample) -> str:
    """The picture with its boxes or masks, where the result has any; else nothing."""
    from PIL import Image

    from ray_pipelines.media import draw

    pictures = [value for value in sample.inputs.values() if isinstance(value, Image.Image)]
    result = sample.prediction
    first = result[0] if isinstance(result, list) and result else None
    if isinstance(result, Mapping) and "predicted_depth" in result:
        return _picture(draw.depth_to_image(result), "depth")
    if not pictures or not isinstance(first, Mapping):
        return ""
    if "mask" in first:
        masks = draw.masks_to_image(result, pictures[0].size)
        return _picture(Image.blend(pictures[0].convert("RGB"), masks, 0.45), "masks")
    if first.get("box") is not None and "score" in first:
        return _picture(draw.draw_boxes(pictures[0], result), "boxes")
    return ""


def _input(name: str, value: Any, is_named: bool) -> str:
    label = f'<span class="field">{escape(name)}</span>' if is_named else ""
    return label + _shown(value)


def _shown(value: Any) -> str:
    """One value as HTML: media as themselves, everything else as text."""
    from PIL import Image

    if isinstance(value, Image.Image):
        return _picture(value, "input")
    if isinstance(value, list) and value and all(isinstance(item, Image.Image) for item in value):
        return "".join(_picture(item, "input") for item in value[:MAX_PICTURES])
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == 1:
        return _audio(value, AUDIO_RATE)
    return f"<p>{escape(cut(as_text(value), MAX_CHARS))}</p>"


def _result(value: Any) -> str:
    """A result: labels as bars, texts as texts, pictures and sounds as themselves, the rest as JSON."""
    shown = attempt("postprocess", partial(_known_result, value))
    if isinstance(shown, str):
        return shown
    return f"<pre>{escape(cut(as_text(value), MAX_CHARS))}</pre>"


def _known_result(value: Any) -> str | None:
    if isinstance(value, Mapping) and "audio" in value and "sampling_rate" in value:
        return _audio(np.asarray(value["audio"], dtype=np.float32), int(value["sampling_rate"]))
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return _encoded(value["bytes"], "result")
    if isinstance(value, Mapping) and "predicted_depth" in value:
        height, width = value["predicted_depth"]["shape"][-2:]
        return f"<p>{int(width)} × {int(height)} depths</p>"
    if texts := generated_texts(value):
        return "".join(f"<blockquote>{escape(cut(text, MAX_CHARS))}</blockquote>" for text in texts[:MAX_LABELS])
    if labels := scored(value):
        return _labels(labels)
    if not isinstance(value, list) or not value:
        return None
    if isinstance(value[0], float) or (isinstance(value[0], list) and value[0] and isinstance(value[0][0], float)):
        return f"<p>{dimensions(value)} vector: <code>{escape(cut(as_text(value), 120))}</code></p>"
    return None


def _labels(labels: list[tuple[str, float | None]]) -> str:
    shown = []
    for text, score in labels[:MAX_LABELS]:
        width = min(max(score, 0.0), 1.0) if score is not None else 0.0
        number = f"{score:.3f}" if score is not None else ""
        shown.append(
            f'<li><span class="fill" style="width:{width:.1%}"></span><span>{escape(cut(text, 80))}</span>'
            f"<b>{number}</b></li>"
        )
    more = f'<li class="more">and {len(labels) - MAX_LABELS:,} more</li>' if len(labels) > MAX_LABELS else ""
    return f'<ul class="labels">{"".join(shown)}{more}</ul>'


def _picture(image: Any, alt: str) -> str:
    small = image.convert("RGB")
    if max(small.size) > MAX_PICTURE_PIXELS:
        small.thumbnail((MAX_PICTURE_PIXELS, MAX_PICTURE_PIXELS))
    scale = "pixelated" if max(small.size) < 64 else "auto"
    sink = io.BytesIO()
    small.save(sink, "PNG" if max(small.size) < 64 else "JPEG", quality=85)
    return _data(sink.getvalue(), f"image/{'png' if max(small.size) < 64 else 'jpeg'}", alt, scale)


def _encoded(data: bytes, alt: str) -> str:
    from PIL import Image

    return _picture(Image.open(io.BytesIO(data)), alt)


def _data(data: bytes, kind: str, alt: str, scale: str) -> str:
    if len(data) > MAX_MEDIA_BYTES:
        return f'<p class="nothing">a picture of {len(data):,} bytes</p>'
    source = base64.b64encode(data).decode()
    return f'<img src="data:{kind};base64,{source}" alt="{escape(alt)}" class="{scale}">'


def _audio(samples: np.ndarray, rate: int) -> str:
    from ray_pipelines.media.audio import encode_wav

    seconds = len(samples) / rate
    data = encode_wav(samples[: MAX_AUDIO_S * rate], rate)
    if len(data) > MAX_MEDIA_BYTES:
        data = encode_wav(samples[: MAX_AUDIO_S * rate : 2], rate // 2)
    note = f"{seconds:.1f} s" + (f", the first {MAX_AUDIO_S} s" if seconds > MAX_AUDIO_S else "")
    if len(data) > MAX_MEDIA_BYTES:
        return f"<p>a recording of {note}</p>"
    source = base64.b64encode(data).decode()
    return f'<audio controls preload="none" src="data:audio/wav;base64,{source}"></audio><p class="note">{note}</p>'
