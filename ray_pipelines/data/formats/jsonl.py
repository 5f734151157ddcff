"""JSON lines: one object per line; a line that is none, or does not fit the columns, is an error of its row.

Keys of a row, and of the objects in it, that no sampled row had are left out, and named in the report of the run.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.formats.schema import ALL_COLUMNS, JSON_TEXT, merged
from ray_pipelines.data.formats.unit import SAMPLE_ROWS, Part, Unit, batched, conform, first_of, numbered_lines
from ray_pipelines.errors import ConfigError, InvalidInput, RowError, attempt
from ray_pipelines.storage import FilesystemConfig, open_file

__all__ = ["common_field", "parse_json", "read", "sample_schema", "table_of_rows", "units"]

HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
"""What half of a surrogate pair looks like, escaped or not; two that follow each other are one character."""
MAX_DEPTH = 60
"""Lists and objects in each other; Arrow writes no schema with a few more."""
EMPTY: tuple[Any, ...] = (None, {}, [])


def sample_schema(file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
    """Names and types of the first rows."""
    with open_file(file.path, filesystem) as stream:
        lines = [line for _, line in first_of(numbered_lines(stream), SAMPLE_ROWS)]
    parsed = [attempt("read", partial(_parse_line, line)) for line in lines]
    rows = [row for row in parsed if isinstance(row, dict)]
    if lines and not rows:
        hint = ""
        if isinstance(lines[0], bytes) and lines[0].lstrip().startswith((b"[", b"{")):
            hint = " It looks like one JSON document; write one object per line (jq -c '.[]')."
        raise ConfigError(f"there is no line with a JSON object among the first {len(lines)}.{hint}")
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([common_field(name, [row.get(name) for row in rows]) for name in names])


def parse_json(data: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError, RecursionError: It is not valid, or not Unicode: it has half of a surrogate pair.
    """
    value = json.loads(data)
    if (b"\\u" in data or b"\xed" in data) and HALF_PAIR.search(data):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def units(file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
    """The file as one unit: only reading tells where its rows are."""
    return [Unit(file)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
    """The rows of the lines with something in them; a row's position is its line, from 0."""
    with open_file(unit.file.path, filesystem) as stream:
        for numbered in batched(numbered_lines(stream), rows_per_table):
            rows = [attempt("read", partial(_parse_line, line)) for _, line in numbered]
            yield table_of_rows(rows, [number for number, _ in numbered], schema)


def table_of_rows(rows: Sequence[dict[str, Any] | RowError], positions: Sequence[int], schema: pa.Schema) -> Part:
    """Python rows as a part; values that do not fit their column are errors, names that have none are left out."""
    errors = [row if isinstance(row, RowError) else None for row in rows]
    columns = []
    for column in schema:
        values = [None if isinstance(row, RowError) else row.get(column.name) for row in rows]
        columns.append(conform(values, column, errors, _to_text if column.metadata == JSON_TEXT else _to_arrow))
    taken = [{} if isinstance(row, RowError) or errors[index] is not None else row for index, row in enumerate(rows)]
    return Part(pa.table(columns, schema=schema), positions, errors, _left_out_of(taken, schema))


def common_field(name: str, values: Sequence[Any]) -> pa.Field:
    """A column of the type that most values fit, null where there are none; of JSON text where no type fits most."""
    kept = [value for value in values if value is not None]
    found = _type_of(kept)
    if found is not None:
        return pa.field(name, found)
    types = [kind for kind, _ in Counter(filter(None, (_type_of([value]) for value in kept))).most_common()]
    widest = functools.reduce(lambda one, other: merged(one, other) or one, types, pa.null())
    num_fitting = {kind: _num_fitting(kept, kind) for kind in (widest, *types[:1])}
    found = max(num_fitting, key=num_fitting.__getitem__)
    fits_most = num_fitting[found] > len(kept) / 2
    return pa.field(name, found) if fits_most else pa.field(name, pa.string(), metadata=JSON_TEXT)


def _num_fitting(values: Sequence[Any], kind: pa.DataType) -> int:
    return sum(not isinstance(attempt("read", partial(_to_arrow, [value], kind)), RowError) for value in values)


def _type_of(values: Sequence[Any]) -> pa.DataType | None:
    """The type that all values fit, or None."""
    found = attempt("read", partial(_inferred, values))
    return None if isinstance(found, RowError) else found


def _inferred(values: Sequence[Any]) -> pa.DataType | None:
    if _is_deep(values):
        return None
    found = pa.array(values).type
    return found if _is_exact(values, found) else None


def _is_deep(values: Sequence[Any]) -> bool:
    """Whether more than `MAX_DEPTH` lists and objects are in each other."""
    level: list[Any] = list(values)
    for _ in range(MAX_DEPTH + 1):
        nested = [one for one in level if isinstance(one, dict | list)]
        level = [item for one in nested for item in (one.values() if isinstance(one, dict) else one)]
    return any(isinstance(one, dict | list) for one in level)


def _names(of: pa.Schema | pa.DataType) -> Mapping[str, Any] | None:
    """The names in a type: those in the type of each; None where it has no objects."""
    if isinstance(of, pa.Schema) or pa.types.is_struct(of):
        return {field.name: _names(field.type) for field in of}
    return _names(of.value_type) if pa.types.is_list(of) else None


def _left_out_of(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> list[frozenset[str]] | None:
    """The paths of what each row has and `schema` has not; None for none at all."""
    known = _names(schema) or {}
    if schema.metadata != ALL_COLUMNS:
        known = {name: inner for name, inner in known.items() if inner is not None}
        rows = [{name: row.get(name) for name in known} for row in rows] if known else []
    # Rows with other names are rare: one look at all rows costs less than one at each.
    if not _has_more(rows, known):
        return None
    left_out = [frozenset(_left_out(row, known)) for row in rows]
    return left_out if any(left_out) else None


def _has_more(values: Sequence[Any], known: Mapping[str, Any]) -> bool:
    """Whether one of the `values`, or an object in it, has a name that `known` has not."""
    lists = [value for value in values if isinstance(value, list)]
    if lists and _has_more(list(itertools.chain.from_iterable(lists)), known):
        return True
    objects = [value for value in values if isinstance(value, dict)]
    return bool(set().union(*objects) - known.keys()) or any(
        inner is not None and _has_more([value.get(name) for value in objects], inner) for name, inner in known.items()
    )


def _left_out(value: Any, known: Mapping[str, Any] | None, path: str = "") -> Iterator[str]:
    """The paths of what `value` has and `known` has not; what is empty is no loss."""
    if known is None:
        return
    if isinstance(value, list):
        for item in value:
            yield from _left_out(item, known, path)
    elif isinstance(value, dict):
        yield from (f"{path}{name}" for name in value.keys() - known.keys() if value[name] not in EMPTY)
        for name, inner in known.items():
            if inner is not None:
                yield from _left_out(value.get(name), inner, f"{path}{name}.")


def _to_arrow(values: Sequence[Any], to: pa.DataType) -> pa.Array:
    """Values of JSON as an array.

    Raises:
        ArrowException, TypeError, ValueError, OverflowError: One of them does not fit the type exactly.
    """
    if not _is_exact(values, to):
        raise ValueError(f"expected {to}")
    return pa.array(values, type=to)


def _to_text(values: Sequence[Any], to: pa.DataType) -> pa.Array:
    """Texts as they are, and the JSON of what is none."""
    is_text = (str, type(None))
    return pa.array([v if isinstance(v, is_text) else json.dumps(v, ensure_ascii=False) for v in values], type=to)


def _is_exact(values: Sequence[Any], to: pa.DataType) -> bool:
    """Whether no value is one that Arrow would change: it cuts fractions off for integers, and takes true for 1.0."""
    if pa.types.is_struct(to):
        objects = [value for value in values if isinstance(value, dict)]
        return all(_is_exact([value.get(field.name) for value in objects], field.type) for field in to)
    if pa.types.is_list(to):
        lists = (value for value in values if isinstance(value, list))
        return _is_exact(list(itertools.chain.from_iterable(lists)), to.value_type)
    if pa.types.is_integer(to):
        return all(value.is_integer() for value in values if type(value) is float)
    return not (pa.types.is_floating(to) and bool in set(map(type, values)))


def _parse_line(line: bytes | RowError) -> dict[str, Any]:
    if isinstance(line, RowError):
        raise line
    try:
        value = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"line: expected a JSON object; it is not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"line: expected a JSON object; got {type(value).__name__}.")
    return value
