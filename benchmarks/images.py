"""Pictures through vision transformers: small ones, where overhead counts, and large ones, where decoding does.

    python -m benchmarks.images --quick
    python -m benchmarks.images --rounds 3

`digits`: scikit-learn's handwritten digits (8 x 8 pixels) and a ViT of 64 dimensions at 32 x 32. `photos`: noise of
384 x 384 pixels as JPEG, and a ViT of ViT-S's width, half as deep, at 224 x 224. Weights are random: speed does not
know. Contenders are those of `contenders.py`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import CACHE
from benchmarks.contenders import Workload, arguments_of, compare, file_bytes


def main() -> None:
    """Measures both workloads."""
    arguments = arguments_of(__doc__, rows=256)
    small = vit("vit-digits", image_size=32, patch_size=8, hidden_size=64, layers=4, heads=4)
    large = vit("vit-photos", image_size=224, patch_size=16, hidden_size=384, layers=6, heads=6)
    for name, folder, pictures, format in (
        ("images-digits", small, digits(4 * arguments.rows), "PNG"),
        ("images-photos", large, photos(arguments.rows // 4), "JPEG"),
    ):
        column = [file_bytes(lambda buffer, p=p, f=format: p.save(buffer, f)) for p in pictures]
        work = Workload(name, "image-classification", folder, pictures, column, "image", decoded, {"top_k": 1})
        compare(work, f"{name.replace('-', ', ')}: {len(pictures)} pictures, two CPU cores", arguments)


def decoded(value: bytes) -> Image.Image:
    """The picture of a file's bytes."""
    return Image.open(io.BytesIO(value)).convert("RGB")


def digits(count: int) -> list[Image.Image]:
    """Handwritten digits, again from the start where there are not enough."""
    from sklearn.datasets import load_digits

    pixels = (load_digits().images * 15).astype(np.uint8)
    return [Image.fromarray(pixels[index % len(pixels)]).convert("RGB") for index in range(count)]


def photos(count: int) -> list[Image.Image]:
    """Noise of 384 x 384 pixels."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (384, 384, 3), dtype=np.uint8)) for _ in range(count)]


def vit(name: str, image_size: int, patch_size: int, hidden_size: int, layers: int, heads: int) -> Path:
    """The folder of a vision transformer with random weights."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = CACHE / name
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        config = ViTConfig(
            image_size=image_size, patch_size=patch_size, hidden_size=hidden_size, num_hidden_layers=layers,
            num_attention_heads=heads, intermediate_size=4 * hidden_size, num_labels=10,
        )  # fmt: skip
        ViTForImageClassification(config).save_pretrained(folder)
        ViTImageProcessor(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
