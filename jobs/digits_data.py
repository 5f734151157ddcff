"""Write scikit-learn's handwritten digits as a partitioned Parquet dataset of PNG images.

The 1,797 labelled 8x8 images ship inside scikit-learn, so the dataset can be written on a machine without a network.
One seeded, stratified split lives here, and both the dataset and the training job read it through `split_digits`:
an image the model was trained on can therefore never turn up in `split=test`.

    python -m jobs.digits_data --out data/digits
"""

import argparse
import io
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TRAIN_ROWS = 1_000
FILES_PER_SPLIT = 4
SPLIT_SEED = 0
SOURCE_MAX_INTENSITY = 16


class Digit(NamedTuple):
    """One labelled image: its index in scikit-learn's data, its PNG bytes and its label."""

    id: int
    png: bytes
    label: str


def split_digits() -> dict[str, list[Digit]]:
    """The digits of the `train` (1,000) and `test` (797) splits, each in order of id."""
    source: Any = load_digits()
    intensities = np.rint(source.images * (255 / SOURCE_MAX_INTENSITY)).astype(np.uint8)
    digits = [
        Digit(index, encode_png(pixels), str(label))
        for index, (pixels, label) in enumerate(zip(intensities, source.target, strict=True))
    ]
    train_ids, test_ids = train_test_split(
        np.arange(len(digits)), train_size=TRAIN_ROWS, stratify=source.target, random_state=SPLIT_SEED
    )
    return {
        "train": [digits[index] for index in sorted(train_ids)],
        "test": [digits[index] for index in sorted(test_ids)],
    }


def encode_png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """The PNG bytes (mode "L") of a two-dimensional array of grey levels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_digits(folder: Path) -> pa.Schema:
    """The schema of the Parquet files written to `folder`, one directory per split.

    Args:
        folder: Where `split=train/part-00.parquet` and its siblings go; created if missing. Files of an earlier
            call are overwritten with the same rows.

    Returns:
        The columns inside the files; `split` comes from the directory names (hive partitioning).
    """
    schema = pa.schema([("id", pa.int64()), ("image", pa.binary()), ("label", pa.string())])
    for split, digits in split_digits().items():
        directory = folder / f"split={split}"
        directory.mkdir(parents=True, exist_ok=True)
        bounds = [len(digits) * part // FILES_PER_SPLIT for part in range(FILES_PER_SPLIT + 1)]
        for part, (start, stop) in enumerate(pairwise(bounds)):
            ids, images, labels = zip(*digits[start:stop], strict=True)
            table = pa.table([ids, images, labels], schema=schema)
            pq.write_table(table, directory / f"part-{part:02d}.parquet")
    return schema


def main() -> None:
    """Write the dataset to the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Write scikit-learn's digits as a partitioned Parquet dataset.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    folder: Path = parser.parse_args().out
    schema = write_digits(folder)
    print(f"wrote {folder} with columns {', '.join(schema.names)}, partitioned by split")


if __name__ == "__main__":
    main()
