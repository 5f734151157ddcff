"""Where the chunks of a row run: with one worker, or spread over all of them. Chosen from the first rows.

Keeping a row together costs nothing and streams: results come while the input is still read. Spreading it costs a
shuffle, before which no result comes, and pays where several workers would wait for the one that has the long row. So
`auto` explodes some rows (without weights, in a Ray task) and compares the chunks of the longest with the share of all
chunks that a worker would have.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
from ray.data.dataset import MaterializedDataset

from ray_pipelines.data.resources import TASK_CPUS, ChunkPlan
from ray_pipelines.data.workers import WorkerSetup, items_of_table
from ray_pipelines.errors import ConfigError, RowError, attempt
from ray_pipelines.nodes import where_work_is_done

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.several import AnySetup
    from ray_pipelines.nodes import Node

__all__ = ["RowSample", "choose", "known_rows", "plan_chunks"]

Mode = Literal["in_worker", "groupby"]
logger = logging.getLogger(__name__)

SAMPLE_ROWS = 64
SAMPLE_S = 10.0
SAMPLE_BYTES = 256 << 20
ROW_SHARE = 1 / 8
"""Part of the sample's time and bytes that one row may have; as many rows are looked at, however long that takes."""

LEAST_GAIN = 1.5
"""How much longer than its share of the work the longest row must take before a shuffle is worth its cost."""

PARTITION_BYTES = 128 << 20
LEAST_ROWS = 16
"""Rows of a partition: each process that postprocesses takes seconds to load transformers."""

IMPLODER_SHARE = 1 / 2
"""Processes that postprocess, for each CPU of the cluster: each has transformers in memory, and little to do."""

CHUNKS_PER_FORWARD = 32
WINDOW_BYTES = 64 << 20
WINDOWS_PER_TASK = 8


class RowSample(NamedTuple):
    """What one row of the sample makes of itself.

    Attributes:
        num_chunks: Its chunks.
        num_bytes: The bytes of their model inputs.
        problem: Why these cannot cross a stage boundary, or None.
    """

    num_chunks: int
    num_bytes: int
    problem: str | None = None


def plan_chunks(
    dataset: Dataset,
    setup: AnySetup,
    plan: WorkerPlan,
    nodes: Sequence[Node],
    num_rows: int | None = None,
    wave_rows: int | None = None,
) -> WorkerPlan:
    """The plan with `auto` settled, and with the sizes of what workers take at a time.

    Runs the first rows' preprocessing, unless there is nothing to choose: the task is not chunked, there is one worker,
    or the user has said `in_worker`, as several tasks in one worker do.

    Args:
        dataset: The rows.
        setup: The pipeline, or several.
        plan: The workers.
        nodes: The cluster.
        num_rows: Rows of the dataset, where known.
        wave_rows: Rows that may be shuffled at a time; None for any number.

    Raises:
        ConfigError: `groupby` was asked for, and the model inputs cannot cross a stage boundary.
    """
    wanted = plan.chunks
    if wanted is None or wanted.mode == "in_worker" or not isinstance(setup, WorkerSetup):
        return plan.shared_evenly(num_rows, setup.rows_per_call)
    samples = _sample(dataset, setup)
    if len(samples) < SAMPLE_ROWS and num_rows is None:
        num_rows = len(samples)
    problem = next((sample.problem for sample in samples if sample.problem), None)
    if problem and wanted.mode == "groupby":
        raise ConfigError(
            f"workers.chunking: expected in_worker; got groupby. The chunks of {setup.task_name} cannot leave their "
            f"process: {problem}."
        )
    mode: Mode = "groupby"
    reason = wanted.reason
    if wanted.mode == "auto":
        mode, reason = ("in_worker", problem) if problem else choose(samples, plan.max_workers, num_rows)
    if mode == "groupby" and wave_rows is not None and (num_rows is None or num_rows > wave_rows):
        num_rows = wave_rows
    else:
        wave_rows = None
    num_cpus = sum(node.num_cpus for node in nodes)
    chunks = ChunkPlan(mode, reason, wave_rows=wave_rows, placement=where_work_is_done(nodes))
    if mode == "groupby":
        chunks = sized(chunks, samples, setup, num_rows, num_cpus)
    settled = dataclasses.replace(plan, chunks=chunks)
    if mode == "in_worker":
        settled = settled.shared_evenly(num_rows, setup.rows_per_call)
    logger.info("%s: %s", setup.task_name, settled.describe())
    return settled


def known_rows(dataset: Dataset) -> int | None:
    """How many rows a dataset has, where nothing must be run to know."""
    return dataset.count() if isinstance(dataset, MaterializedDataset) else None


def choose(samples: Sequence[RowSample], num_workers: int, num_rows: int | None) -> tuple[Mode, str]:
    """`in_worker` or `groupby`, and why.

    Args:
        samples: Some rows.
        num_workers: Workers that would share them.
        num_rows: Rows of the dataset; None where only the sample is known, which then stands for all of them.

    >>> choose([RowSample(900, 1), RowSample(1, 1), RowSample(1, 1)], num_workers=4, num_rows=3)[0]
    'groupby'
    >>> choose([RowSample(900, 1), RowSample(1, 1), RowSample(1, 1)], num_workers=4, num_rows=10_000)[0]
    'in_worker'
    """
    sizes = [sample.num_chunks for sample in samples]
    total, longest = sum(sizes), max(sizes, default=0)
    scale = max(1.0, num_rows / len(sizes)) if num_rows and sizes else 1.0
    share = total * scale / num_workers
    seen = f"the longest of {len(sizes):,} rows makes {longest:,} of {total:,} chunks"
    if longest > 1 and longest > LEAST_GAIN * share:
        return "groupby", f"{seen}; {num_workers} workers would wait for one"
    return "in_worker", f"{seen}; {num_workers} workers are kept busy"


def sized(
    chunks: ChunkPlan,
    samples: Sequence[RowSample],
    setup: WorkerSetup,
    num_rows: int | None,
    num_cpus: float,
) -> ChunkPlan:
    """`chunks` with sizes that keep all workers busy and tasks small: see `ChunkPlan`."""
    total = max(1, sum(sample.num_chunks for sample in samples))
    num_bytes = sum(sample.num_bytes for sample in samples)
    per_row = max(1.0, total / max(1, len(samples)))
    by_size = max(1, min(2 * (setup.batch.max_size or CHUNKS_PER_FORWARD), WINDOW_BYTES * total // max(1, num_bytes)))
    window_chunks = setup.batch.window_chunks or by_size
    rows_per_task = max(1, min(setup.batch.rows_per_call, int(WINDOWS_PER_TASK * window_chunks / per_row)))
    expected_bytes = num_bytes / max(1, len(samples)) * (num_rows or 0)
    by_cpus = 2 * math.ceil(num_cpus)
    if num_rows is not None:
        by_cpus = min(by_cpus, math.ceil(num_rows / LEAST_ROWS))
    num_partitions = max(1, by_cpus, math.ceil(expected_bytes / PARTITION_BYTES))
    return dataclasses.replace(
        chunks,
        window_chunks=window_chunks,
        rows_per_task=rows_per_task,
        num_partitions=num_partitions,
        num_imploders=min(num_partitions, max(2, math.ceil(IMPLODER_SHARE * num_cpus))),
    )


def _sample(dataset: Dataset, setup: WorkerSetup) -> list[RowSample]:
    """The chunks of the first rows, counted in a Ray task."""
    rows = dataset.limit(SAMPLE_ROWS).map_batches(
        sample_table,
        batch_size=SAMPLE_ROWS,
        batch_format="pyarrow",
        fn_kwargs={"setup": setup},
        num_cpus=TASK_CPUS,
    )
    return [RowSample(**row) for row in rows.take_all()]


def sample_table(table: pa.Table, setup: WorkerSetup) -> pa.Table:
    """One `RowSample` for each row; those that there was no time for are left out.

    A row is counted no further than `ROW_SHARE` of time and bytes, and the time that it takes to decode ends no sample
    of fewer rows than have such a share, so that a long one does not hide that those after it are short.
    """
    from ray_pipelines.engine.transfer import pack, packed_bytes

    runner = setup.load_without_weights()
    samples: list[RowSample] = []
    until_s, bytes_left = time.monotonic() + SAMPLE_S, SAMPLE_BYTES
    for item in items_of_table(table, setup, runner, range(table.num_rows)):
        num_chunks = num_bytes = 0
        problem = None
        enough_s = time.monotonic() + ROW_SHARE * SAMPLE_S
        for chunk in runner.explode(item):
            if isinstance(chunk, RowError):
                break
            packed: Any = attempt("preprocess", partial(pack, chunk))
            num_chunks += 1
            if isinstance(packed, RowError):
                problem = packed.message
            else:
                num_bytes += packed_bytes(packed)
            if time.monotonic() > enough_s or num_bytes > ROW_SHARE * SAMPLE_BYTES:
                break
        problem = problem or runner.steps.problem_with_stages
        samples.append(RowSample(num_chunks, num_bytes, problem))
        bytes_left -= num_bytes
        if (time.monotonic() > until_s or bytes_left < 0) and len(samples) >= 1 / ROW_SHARE:
            break
    schema = pa.schema([("num_chunks", pa.int64()), ("num_bytes", pa.int64()), ("problem", pa.string())])
    return pa.Table.from_pylist([sample._asdict() for sample in samples], schema=schema)
