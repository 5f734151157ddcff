"""What transformers 4.57.6 makes of images in the tasks that transformers 5 dropped, written to `vision.json`.

The models are built by this project's environment, as tiny models come out differently under 4.57.6, which then loads
their folders. Image processors are the fast ones, as transformers 5 knows no others. Two commands:

    python -m tests.golden.record_vision build FOLDER     # environment of this project
    python tests/golden/record_vision.py record FOLDER    # transformers==4.57.6, torch, torchvision

Rows run one by one. The file holds images as PNG, the items (which refer to them), our parameters, and the results.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FILE = Path(__file__).with_name("vision.json")
SIZES = [("RGB", 40, 30), ("RGBA", 30, 40), ("L", 20, 20), ("RGB", 40, 30), ("P", 64, 16), ("RGB", 33, 47)]
QUESTIONS = [
    "What is it?",
    "Is this a dog or a cat, or something else?",
    "How many are there?",
    "Where?",
    "What is the name of the company?",
    "What is it?",
]
DOG, SEPARATOR = 215, 3
"""Ids of tokens that end captions, some sooner than others."""

CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("vilt", "visual-question-answering", "vilt-vqa", {}),
    ("vilt-top-2", "visual-question-answering", "vilt-vqa", {"top_k": 2}),
    ("vilt-top-all", "visual-question-answering", "vilt-vqa", {"top_k": 100, "padding": "max_length"}),
    ("blip-vqa", "visual-question-answering", "blip-vqa", {}),
    ("blip2-vqa", "visual-question-answering", "blip2-vqa", {}),
    ("vit-gpt2", "image-to-text", "vit-gpt2", {}),
    ("vit-gpt2-beams", "image-to-text", "vit-gpt2", {"num_beams": 3, "num_return_sequences": 2}),
    ("vit-gpt2-short", "image-to-text", "vit-gpt2", {"max_new_tokens": 3}),
    ("blip-captions", "image-to-text", "blip-captions", {}),
    ("blip-captions-prompt", "image-to-text", "blip-captions", {"prompt": "a photo of"}),
    ("git-captions", "image-to-text", "git-captions", {"generate_kwargs": {"eos_token_id": [SEPARATOR, DOG]}}),
    ("git-captions-prompt", "image-to-text", "git-captions", {"prompt": "a photo of", "no_repeat_ngram_size": 1}),
    ("swin2sr", "image-to-image", "swin2sr", {}),
]


def pictures() -> list[Image.Image]:
    """Coloured blocks with a little noise, of several modes and sizes."""
    made = []
    for seed, (mode, width, height) in enumerate(SIZES):
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 248, (-(-height // 8), -(-width // 8), 4))
        pixels = np.kron(blocks, np.ones((8, 8, 1), dtype=int))[:height, :width] + rng.integers(
            0, 8, (height, width, 4)
        )
        image = Image.fromarray(pixels.astype(np.uint8), "RGBA")
        made.append(image if mode == "RGBA" else image.convert("RGB").convert(mode))
    return made


def encode(image: Image.Image) -> str:
    """The image as PNG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def build(folder: Path) -> None:
    """Builds the models of all cases."""
    from tests.tiny_models import build_model

    for name in {model for _, _, model, _ in CASES}:
        build_model(name, folder / name)


def record(folder: Path) -> None:
    """Runs all cases and writes the file."""
    import torch
    import transformers

    torch.set_num_threads(1)
    images = pictures()
    cases = {}
    for name, task, model, parameters in CASES:
        processor = transformers.AutoImageProcessor.from_pretrained(folder / model, use_fast=True)
        assert processor.__class__.__name__.endswith("Fast"), processor
        pipe = transformers.pipeline(task, model=str(folder / model), image_processor=processor, device="cpu")
        items: list[dict[str, Any]] = [{"image": index} for index in range(len(images))]
        if task == "visual-question-answering":
            items = [{**item, "question": question} for item, question in zip(items, QUESTIONS, strict=True)]
        if model == "blip2-vqa":
            items = [{**item, "question": QUESTIONS[0]} for item in items[:2]]
        results = [run(pipe, task, {**item, "image": images[item["image"]]}, parameters) for item in items]
        cases[name] = {"task": task, "model": model, "parameters": parameters, "items": items, "results": results}
    written = {"transformers": transformers.__version__, "images": [encode(image) for image in images], "cases": cases}
    FILE.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def run(pipe: Any, task: str, item: dict[str, Any], parameters: dict[str, Any]) -> Any:
    """What the pipeline of 4.57.6 makes of one item; an image as PNG in base64."""
    if task == "visual-question-answering":
        return pipe(item, **parameters)
    if task == "image-to-image":
        return encode(pipe(item["image"]))
    arguments = {name: parameters[name] for name in ("prompt", "max_new_tokens") if name in parameters}
    others = {name: value for name, value in parameters.items() if name not in arguments}
    generate_kwargs = {**others.pop("generate_kwargs", {}), **others}
    return pipe(item["image"], **arguments, **({"generate_kwargs": generate_kwargs} if generate_kwargs else {}))


if __name__ == "__main__":
    {"build": build, "record": record}[sys.argv[1]](Path(sys.argv[2]))
