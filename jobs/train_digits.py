"""Train the small digit classifier that the image jobs run, and save it as a Hugging Face model folder.

The classifier is a Vision Transformer of about 140,000 weights, trained from scratch on the train split of
`jobs.digits_data` in one to two minutes on two CPU cores. It exists so that a real image-classification pipeline can
be loaded from the repository alone, without downloading a model.

Three choices matter to whoever uses the result:

* Every training image passes through the very `ViTImageProcessor` that is saved, from PNG bytes and as RGB, because
  that is what the pipeline does; augmentation (a small rotation and shift) happens before it.
* The settings were chosen on images set aside from the train split, the number of epochs is fixed and the last weights
  are kept. `initializer_range` counts most: ViT's usual 0.02 is meant for much wider layers.
* The accuracy printed at the end is that of the saved folder, loaded back through `transformers.pipeline`.

Seeds, thread count and kernels are fixed: the same versions on the same kind of CPU give the same weights.

    python jobs/train_digits.py --out jobs/models/digits
"""

import argparse
import io
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs.digits_data import Digit, split_digits

SEED = 0
THREADS = 2
IMAGE_SIDE_PIXELS = 8
PATCH_SIDE_PIXELS = 2
EPOCHS = 150
BATCH_ROWS = 50
PEAK_LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05
MAX_ROTATION_DEGREES = 12.0
MAX_SHIFT_PIXELS = 0.8
DEFAULT_FOLDER = Path(__file__).resolve().parent / "models" / "digits"


def new_model() -> ViTForImageClassification:
    """An untrained classifier of 8x8 RGB images into the labels "0" to "9"."""
    labels = [str(digit) for digit in range(10)]
    config = ViTConfig(
        image_size=IMAGE_SIDE_PIXELS,
        patch_size=PATCH_SIDE_PIXELS,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        hidden_dropout_prob=0.0,
        initializer_range=0.1,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return ViTForImageClassification(config)


def new_processor() -> ViTImageProcessor:
    """The image processor used in training and saved with the model."""
    return ViTImageProcessor(size={"height": IMAGE_SIDE_PIXELS, "width": IMAGE_SIDE_PIXELS})


def decode_rgb(png: bytes) -> Image.Image:
    """The RGB image in PNG bytes."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def augment(image: Image.Image, rng: random.Random) -> Image.Image:
    """A copy of the image, turned and shifted a little at random."""
    angle_radians = math.radians(rng.uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES))
    cosine, sine = math.cos(angle_radians), math.sin(angle_radians)
    centre_x, centre_y = image.width / 2, image.height / 2
    source_x = centre_x + rng.uniform(-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS)
    source_y = centre_y + rng.uniform(-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS)
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        (
            cosine,
            sine,
            source_x - cosine * centre_x - sine * centre_y,
            -sine,
            cosine,
            source_y + sine * centre_x - cosine * centre_y,
        ),
        resample=Image.Resampling.BILINEAR,
    )


def train(digits: list[Digit], processor: Any) -> ViTForImageClassification:
    """A classifier fitted to the digits, in evaluation mode."""
    fix_chance(SEED)
    rng = random.Random(SEED)
    model: Any = new_model()
    model.train()
    images = [decode_rgb(digit.png) for digit in digits]
    labels = torch.tensor([model.config.label2id[digit.label] for digit in digits])
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batches_per_epoch = -(-len(digits) // BATCH_ROWS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_LEARNING_RATE, total_steps=EPOCHS * batches_per_epoch, pct_start=0.1
    )
    for epoch in range(1, EPOCHS + 1):
        augmented = [augment(image, rng) for image in images]
        pixel_values = processor(augmented, return_tensors="pt")["pixel_values"]
        loss_sum = 0.0
        order: Any = torch.randperm(len(digits))
        for rows in order.split(BATCH_ROWS):
            loss: Any = torch.nn.functional.cross_entropy(
                model(pixel_values=pixel_values[rows]).logits, labels[rows], label_smoothing=LABEL_SMOOTHING
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(rows)
        if epoch % 10 == 0:
            print(f"epoch {epoch:3d}/{EPOCHS}: train loss {loss_sum / len(digits):.4f}", flush=True)
    fitted: ViTForImageClassification = model.eval()
    return fitted


def fix_chance(seed: int) -> None:
    """Fix every source of chance in torch: the seed, the thread count and the kernels."""
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)


def accuracy(folder: Path, digits: list[Digit]) -> float:
    """The share of digits that the pipeline loaded from the folder labels correctly."""
    classify: Any = pipeline("image-classification", model=str(folder), device="cpu")
    answers = classify([decode_rgb(digit.png) for digit in digits], top_k=1, batch_size=64)
    correct: int = sum(answer[0]["label"] == digit.label for answer, digit in zip(answers, digits, strict=True))
    return correct / len(digits)


def main() -> None:
    """Train on the train split, save the model folder, and print its accuracy on the held-out split."""
    parser = argparse.ArgumentParser(description="Train and save the digit classifier.")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="model folder to write")
    folder: Path = parser.parse_args().out
    splits = split_digits()
    processor = new_processor()
    started_seconds = time.monotonic()
    model = train(splits["train"], processor)
    print(f"trained {model.num_parameters():,} weights in {time.monotonic() - started_seconds:.0f} s")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    print(f"saved {folder}")
    print(f"held-out accuracy: {accuracy(folder, splits['test']):.4f} on {len(splits['test'])} images")


if __name__ == "__main__":
    main()
