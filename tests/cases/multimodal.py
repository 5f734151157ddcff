"""Cases of the tasks that generate text from chats with images, videos and recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cases import Case
from tests.cases.media import image, png, sound
from tests.cases.vision import all_frames, video

SHORT = {"max_new_tokens": 5, "do_sample": False}


def _message(role: str, text: str, *pictures: Any) -> dict[str, Any]:
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _chats() -> list[Any]:
    return [
        [_message("user", "What is this?", image())],
        [_message("user", "And these two?", image(seed=1), image("L", (50, 20), 2))],
        [_message("user", "What is this?", image()), _message("assistant", "It is")],
        [_message("user", "No image")],
        "A text without image",
        [_message("system", "Be short."), _message("user", "What is this?", image(seed=3))],
    ]


def _rows() -> list[Any]:
    return [
        {"text": "<image>What is this?", "images": png(image())},
        {"text": "only text"},
        {"text": "<image><image>Compare", "images": [image(seed=1), image("L", (50, 20), 2)]},
        {"text": "<image>What?", "images": [image(seed=4)], "audio": None},
    ]


def _each_row_by_itself(task: str) -> Any:
    def expected(folder: Path, row: dict[str, Any]) -> Any:
        import transformers

        from ray_pipelines.config import MediaLimits
        from ray_pipelines.media import decode

        pipe = transformers.pipeline(task, model=str(folder), device="cpu")
        arguments: dict[str, Any] = {"text": row["text"], **SHORT}
        if row.get("images") is not None:
            arguments["images"] = decode(row["images"], "images", MediaLimits())
        return [{"generated_text": record["generated_text"]} for record in pipe(**arguments)]

    return expected


VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def _part(kind: str, medium: Any = None, text: str = "What is this?") -> list[Any]:
    part = {"type": kind} if medium is None else {"type": kind, kind: medium}
    return [{"role": "user", "content": [part, {"type": "text", "text": text}]}]


def _video_rows() -> list[Any]:
    return [
        {"text": _part("video", video(9))},
        {"text": _part("video"), "videos": [video(12, seed=1, size=(32, 48))]},
        {"text": f"{VIDEO}What is this?", "videos": video(8, seed=2)},
        {"text": f"{VIDEO} or {VIDEO}", "videos": [video(8, seed=3), video(6, seed=4)]},
        {"text": _part("image", image(size=(40, 30)))},
        {"text": "no video"},
    ]


def _video_chats() -> list[Any]:
    return [_part("video", video(num_frames, seed)) for seed, num_frames in enumerate((9, 20, 31))]


def _sound_rows() -> list[Any]:
    return [
        {"text": _part("audio", sound(9000))},
        {"text": _part("audio"), "audio": {"array": sound(6000, 1), "sampling_rate": 8000}},
        {"text": "<|AUDIO|>What is this?", "audio": sound(20000, 2)},
        {"text": "no recording"},
    ]


def _decoded(task: str, **arguments: Any) -> Any:
    """What transformers makes of media that are decoded already, as arrays at the model's rate."""

    def expected(folder: Path, row: Any) -> Any:
        import transformers

        from ray_pipelines.config import MediaLimits
        from ray_pipelines.media import decode
        from ray_pipelines.media.messages import reply_of

        pipe = transformers.pipeline(task, model=str(folder), device="cpu")
        row = row if isinstance(row, dict) else {"text": row}
        media = {name: value for name, value in row.items() if name != "text"}
        if "videos" in media:
            videos = media["videos"] if isinstance(media["videos"], list) else [media["videos"]]
            media["videos"] = [all_frames(data) for data in videos]
        if "audio" in media:
            media["audio"] = decode(media["audio"], "audio", MediaLimits(), 16000)
        text = row["text"]
        call = dict(arguments)
        if isinstance(text, list):
            part = text[0]["content"][0]
            kind = part["type"]
            medium = part.get(kind)
            if medium is None:
                medium = media["videos"][0] if kind == "video" else media["audio"]
            elif kind == "video":
                medium = all_frames(medium)
            if kind == "video" and arguments:
                num_frames, height, width, _ = medium.shape
                metadata = {"total_num_frames": num_frames, "fps": 10.0, "height": height, "width": width}
                call = {"processor_kwargs": {**arguments["processor_kwargs"], "video_metadata": [metadata]}}
            return [
                {"generated_text": reply_of(r["generated_text"])} for r in pipe(_part(kind, medium), **SHORT, **call)
            ]
        return [{"generated_text": r["generated_text"]} for r in pipe(text=text, **media, **SHORT)]

    return expected


def _picture_of_model(folder: Path, text: str) -> Any:
    """The picture that a model makes, by its own `generate`; transformers' pipeline fails on pictures."""
    import numpy as np
    import transformers
    from PIL import Image

    from ray_pipelines.media.image import encode_image

    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForMultimodalLM.from_pretrained(folder)
    inputs = processor(text=text, generation_mode="image", return_tensors="pt")
    tokens = model.generate(**inputs, generation_mode="image", do_sample=False)
    mean, std = (np.array(getattr(processor.image_processor, name)) for name in ("image_mean", "image_std"))
    pixels = (model.decode_image_tokens(tokens)[0].detach().numpy() * std + mean) * 255
    return [{"generated_image": encode_image(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))}]


BAD = [_message("user", "What is this?", b"not an image")]
NAMES = ("image-text-to-text", "any-to-any")

CASES = [
    Case(
        "any-to-any-pictures",
        "any-to-any",
        "janus",
        lambda: ["a cat", "a very big dog", "nothing"],
        {"generation_mode": "image", "do_sample": False},
        expected=_picture_of_model,
        bad_item=7,
    ),
    Case("any-to-any-texts", "any-to-any", "janus", lambda: [_part("image", image()), "a text"], SHORT, bad_item=7),
    Case(
        "any-to-any-videos",
        "any-to-any",
        "qwen2-vl",
        _video_rows,
        SHORT,
        expected=_decoded("any-to-any"),
        bad_item={"text": f"{VIDEO}What?", "videos": b"not a video"},
    ),
    Case(
        "any-to-any-two-frames-per-second",
        "any-to-any",
        "qwen2-vl",
        _video_chats,
        {**SHORT, "processor_kwargs": {"fps": 2}},
        expected=_decoded("any-to-any", processor_kwargs={"fps": 2}),
        bad_item=_part("video"),
    ),
    Case(
        "image-text-to-text-videos",
        "image-text-to-text",
        "qwen2-vl",
        _video_chats,
        SHORT,
        expected=_decoded("image-text-to-text"),
        bad_item=_part("video", "no/such/video.mp4"),
    ),
    Case(
        "any-to-any-sounds",
        "any-to-any",
        "qwen2-audio",
        _sound_rows,
        SHORT,
        expected=_decoded("any-to-any"),
        bad_item={"text": "<|AUDIO|>What?", "audio": b"not a recording"},
    ),
    *(Case(f"{task}-chats", task, "llava", _chats, SHORT, bad_item=BAD) for task in NAMES),
    *(
        Case(f"{task}-new-text", task, "llava", _chats, {**SHORT, "return_full_text": False}, bad_item=7)
        for task in NAMES
    ),
    *(
        Case(f"{task}-rows", task, "llava", _rows, SHORT, expected=_each_row_by_itself(task), bad_item={"text": 1})
        for task in NAMES
    ),
    Case(
        "image-text-to-text-tokens",
        "image-text-to-text",
        "llava",
        _chats,
        {**SHORT, "return_tensors": True, "num_beams": 2, "num_return_sequences": 2, "stop_sequence": "e"},
        bad_item=[],
        reference_parameters={
            "return_tensors": True,
            "stop_sequence": "e",
            "generate_kwargs": {**SHORT, "num_beams": 2, "num_return_sequences": 2},
        },
    ),
]
