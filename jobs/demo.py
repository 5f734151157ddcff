"""The demo that `make demo` runs: handwritten digits from Parquet to Parquet, and what came of it.

Writes scikit-learn's digits as PNG bytes to a partitioned Parquet dataset, runs `jobs/digits.yaml` over it on a local
Ray cluster, and compares the predictions with the labels of the images that the model has not been trained on.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import ray_pipelines as rp
from jobs.digits_data import write_digits
from ray_pipelines.report.terminal import filtered_stderr, live_progress, summary_table

JOB_FILE = Path("jobs/digits.yaml")
TRAINED_ON = "train"
NUM_SHOWN = 8
SHADES = " ░▒▓█"


def main() -> int:
    """Runs the demo; gives the exit status of the job."""
    console = Console()
    job = rp.read_job(JOB_FILE)
    write_digits(Path(job.read.paths[0]))
    console.print(f"[bold]The job[/] ({JOB_FILE}): scikit-learn's digits as PNG bytes in {job.read.path}")
    with filtered_stderr() as progress_console, live_progress(progress_console) as display:
        result = rp.run_job(job, display)
    rows = [row for file in result.report.results_files for row in result.output.read_table(file).to_pylist()]
    held_out = [row for row in rows if row["split"] != TRAINED_ON]
    console.print(picture_row(job, held_out))
    console.print(summary_table(result.report, job.write.path))
    accuracy = share_of_right(held_out)
    console.print(
        f"[bold]Accuracy[/] on {len(held_out):,} images that the model has not been trained on: "
        f"[bold green]{accuracy:.1%}[/] (against the labels in the dataset)"
    )
    console.print("Read the predictions: [cyan]pandas.read_parquet('.demo/output/results')[/]")
    return 3 if result.report.num_errors else 0


def share_of_right(rows: list[dict[str, Any]]) -> float:
    """The share of rows whose best label is the true one."""
    num_right = sum(1 for row in rows if row["prediction"][0]["label"] == row["label"])
    return num_right / len(rows)


def picture_row(job: rp.Job, rows: list[dict[str, Any]]) -> Columns:
    """Some digits as pictures with their predictions; wrong ones first, they are the interesting ones."""
    rows = sorted(rows, key=lambda row: (row["prediction"][0]["label"] == row["label"], row["id"]))
    wrong = sum(row["prediction"][0]["label"] != row["label"] for row in rows)
    shown = rows[: min(wrong, NUM_SHOWN // 4)] + rows[wrong : wrong + NUM_SHOWN - min(wrong, NUM_SHOWN // 4)]
    images = pictures_by_id(job, {row["id"] for row in shown})
    return Columns([_panel(images[row["id"]], row) for row in shown])


def pictures_by_id(job: rp.Job, ids: set[int]) -> dict[int, bytes]:
    """The PNG bytes of the rows with these ids."""
    import pyarrow.compute as pc
    import pyarrow.dataset

    dataset = pyarrow.dataset.dataset(job.read.paths[0], partitioning="hive")
    table = dataset.to_table(columns=["id", "image"], filter=pc.field("id").isin(list(ids)))
    return {row["id"]: row["image"] for row in table.to_pylist()}


def _panel(png: bytes, row: dict[str, Any]) -> Panel:
    best = row["prediction"][0]
    right = best["label"] == row["label"]
    title = f"{best['label']} ({best['score']:.2f})" + ("" if right else f" is {row['label']}")
    return Panel(_shaded(png), title=title, border_style="green" if right else "red", expand=False)


def _shaded(png: bytes) -> Text:
    """A grey picture as characters of five shades, two for each pixel."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    shades = (picture.astype(int) * len(SHADES)) // 256
    return Text("\n".join("".join(SHADES[shade] * 2 for shade in row) for row in shades))


if __name__ == "__main__":
    sys.exit(main())
