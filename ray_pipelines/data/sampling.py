"""Some rows of a run, to be shown in its report and to be checked against the plain pipeline.

Rows are chosen by a hash of their place in the input: whoever writes a block chooses without knowing of the others, and
a run that is interrupted or repeated chooses the same rows. What a chosen row had as input is read again when the run
is done, since pictures and recordings do not travel as far as the results do.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipelines.data.formats import ROW_COLUMN, SOURCE_COLUMN, read_unit, units_of_file
from ray_pipelines.data.read import Input
from ray_pipelines.errors import RowError, attempt

__all__ = [
    "SAMPLES_TYPE",
    "RowSampler",
    "place_of",
    "prediction_of",
    "predictions_of",
    "read_places",
    "rows_to_show",
    "rows_to_verify",
]

NUM_SHOWN = 12
MAX_SHOWN_ROW = 4096
"""Rows further down in a file are not shown: to read them again could mean to read the whole file."""
MAX_PREDICTION_BYTES = 4 << 20
ROWS_PER_TABLE = 512
SPARE = 4
KEY_RANGE = 1 << 63

SAMPLES_TYPE = pa.list_(
    pa.struct([("key", pa.int64()), ("source", pa.string()), ("row", pa.int64()), ("prediction", pa.binary())])
)
"""Rows that were chosen: a random number, where the row stands in the input, and its result as an Arrow stream."""


@dataclass(frozen=True)
class RowSampler:
    """Chooses rows of a block.

    Attributes:
        num_verified: Rows of the whole run to check.
        num_rows_expected: Rows of the whole run, where the files tell.
        seed: Of the choice.
    """

    num_verified: int
    num_rows_expected: int | None
    seed: int

    def sample(self, results: pa.Table, output_columns: Sequence[str]) -> list[dict[str, Any]]:
        """The chosen ones of `results`, as `SAMPLES_TYPE` holds them."""
        places = zip(results[SOURCE_COLUMN].to_pylist(), results[ROW_COLUMN].to_pylist(), strict=True)
        keys = [_key(source, row, self.seed) for source, row in places]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        limit = KEY_RANGE
        if self.num_rows_expected:
            limit = KEY_RANGE * SPARE * self.num_verified // self.num_rows_expected
        chosen = order[:2] + [index for index in order[2 : self.num_verified] if keys[index] < limit]
        samples = []
        for index in chosen:
            prediction = _stream(results.select(list(output_columns)).slice(index, 1))
            if len(prediction) <= MAX_PREDICTION_BYTES:
                place = {"source": results[SOURCE_COLUMN][index].as_py(), "row": results[ROW_COLUMN][index].as_py()}
                samples.append({"key": keys[index], **place, "prediction": prediction})
        return samples


def rows_to_verify(samples: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """The `count` rows of a run to check: those with the smallest keys, so that every row was as likely to be one."""
    return sorted(samples, key=lambda sample: sample["key"])[:count]


def rows_to_show(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of a run to show: such that little has to be read again to get them."""
    near = [sample for sample in samples if sample["row"] < MAX_SHOWN_ROW]
    chosen = sorted(near, key=lambda sample: (sample["row"] // ROWS_PER_TABLE, sample["key"]))[:NUM_SHOWN]
    return sorted(chosen, key=place_of)


def place_of(sample: Mapping[str, Any]) -> tuple[str, int]:
    """Where a chosen row stands in the input."""
    return sample["source"], sample["row"]


def predictions_of(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a chosen row by column, as Python values."""
    (row,) = pa.ipc.open_stream(pa.py_buffer(sample["prediction"])).read_all().to_pylist()
    assert isinstance(row, dict)
    return row


def prediction_of(sample: Mapping[str, Any], is_several: bool = False) -> Any:
    """The result of a chosen row; of a job of several tasks, all results by column."""
    found = predictions_of(sample)
    return found if is_several else next(iter(found.values()))


def read_places(source: Input, places: Iterable[tuple[str, int]]) -> Iterator[pa.Table]:
    """The rows at these places of the input, one table each, in no special order; what cannot be read is left out."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for path, row in places:
        wanted[path].add(row)
    for file in source.files:
        if file.path in wanted:
            found = attempt("read", partial(_rows_of_file, source, file, wanted[file.path]))
            if not isinstance(found, RowError):
                yield from found


def _rows_of_file(source: Input, file: Any, rows: set[int]) -> list[pa.Table]:
    missing, found = set(rows), []
    for unit in units_of_file(file, source.read_format, source.filesystem):
        if unit.num_rows is not None and not any(0 <= row - unit.first_row < unit.num_rows for row in missing):
            continue
        for table in read_unit(unit, source.read_format, source.schema, ROWS_PER_TABLE, source.filesystem):
            hits = table.filter(pc.is_in(table[ROW_COLUMN], value_set=pa.array(sorted(missing), type=pa.int64())))
            for index in range(hits.num_rows):
                missing.discard(hits[ROW_COLUMN][index].as_py())
                found.append(hits.slice(index, 1))
            if not missing:
                return found
    return found


def _key(source: str, row: int, seed: int) -> int:
    text = f"{seed}#{source}#{row}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        # A slice keeps the whole column's buffers; what is taken is copied.
        writer.write_table(table.take([0]).combine_chunks())
    return bytes(sink.getvalue())
