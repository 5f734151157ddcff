"""Cases of the tasks that generate text from chats with images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cases import Case
from tests.cases.media import image, png

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


BAD = [_message("user", "What is this?", b"not an image")]
NAMES = ("image-text-to-text", "any-to-any")

CASES = [
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
