"""One schema for many files: columns of all of them, each in a type that holds the values of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from ray_pipelines.arrow import is_list
from ray_pipelines.config import ReadFormat
from ray_pipelines.errors import ConfigError

__all__ = ["ALL_COLUMNS", "JSON_TEXT", "left_out", "merged", "unify"]

ALL_COLUMNS = {b"columns": b"all"}
"""Metadata of a schema that has every column of the samples: a name that it lacks is one that they lack."""
JSON_TEXT = {b"holds": b"json"}
"""Metadata of a column of texts that holds the JSON of values that are none."""


def unify(schemas: Mapping[str, pa.Schema], read_format: ReadFormat, text_columns: Sequence[str]) -> pa.Schema:
    """The columns of all files, in the order in which they first appear.

    Integers widen, integers and floats meet in floats, structs in the fields of both; what is null in one file has the
    type of another. Arrow's views and runs become the types that they are views and runs of. In CSV, where every value
    is a text, other types meet in texts; so do all with JSON text. In JSON, what no sample tells the type of is JSON
    text too; within an object it has no field.

    Args:
        schemas: Path: schema of the file.
        read_format: Format of the files.
        text_columns: Columns that are strings whatever the schemas say.

    Raises:
        ConfigError: A file has two columns of one name, or a column has types that do not go together.
    """
    problems: list[str] = []
    types: dict[str, tuple[pa.DataType, str]] = {}
    of_json = {column.name for schema in schemas.values() for column in schema if column.metadata == JSON_TEXT}
    of_json -= {*text_columns}
    for path, schema in schemas.items():
        twice = [name for name, count in Counter(schema.names).items() if count > 1]
        if twice:
            problems.append(f"read.path: {path} has more than one column {', '.join(map(repr, twice))}. Rename them.")
            continue
        for column in schema:
            known, where = types.get(column.name, (pa.null(), path))
            is_text = column.name in text_columns or column.name in of_json
            both = pa.string() if is_text else merged(known, _plain(column.type))
            if both is None and read_format == "csv":
                both = pa.string()
            if both is None:
                problems.append(
                    f'read.path: column "{column.name}" is {known} in {where} and {column.type} in {path}. Make them '
                    "the same, or read such files in jobs of their own."
                )
                continue
            types[column.name] = (both, path if known != both else where)
    if problems:
        raise ConfigError(problems)
    if read_format in ("jsonl", "webdataset"):
        of_json |= {name for name, (one, _) in types.items() if _without_empty(one) is None}
        types = {name: (_without_empty(one) or pa.string(), where) for name, (one, where) in types.items()}
    unknown = pa.string() if read_format == "csv" else pa.null()
    return pa.schema(
        [
            pa.field(name, unknown if pa.types.is_null(one) else one, metadata=JSON_TEXT if name in of_json else None)
            for name, (one, _) in types.items()
        ]
    )


def left_out(of_file: pa.Schema, wanted: pa.Schema) -> frozenset[str]:
    """The paths of what the columns of a file have and `wanted` has not; a column that nobody asks for is no loss.

    >>> both, one = pa.struct({"a": pa.int8(), "b": pa.int8()}), pa.struct({"a": pa.int8()})
    >>> left_out(pa.schema({"x": pa.list_(both), "y": one}), pa.schema({"x": pa.list_(one)}))
    frozenset({'x.b'})
    """
    has_all = wanted.metadata == ALL_COLUMNS
    columns = [column for column in of_file if has_all or column.name in wanted.names]
    return frozenset(_left_out(columns, {column.name: column.type for column in wanted}))


def _left_out(fields: Iterable[pa.Field], known: Mapping[str, pa.DataType], path: str = "") -> Iterator[str]:
    for field in fields:
        inner, other = field.type, known.get(field.name)
        if other is None:
            yield from () if pa.types.is_null(inner) else (f"{path}{field.name}",)
            continue
        while is_list(inner) and is_list(other):
            inner, other = inner.value_type, other.value_type
        if pa.types.is_struct(inner) and pa.types.is_struct(other):
            yield from _left_out(inner, {one.name: one.type for one in other}, f"{path}{field.name}.")


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type that has the same values, not as views or runs of others."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_list_view(kind) or pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_large_list_view(kind) or pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    return kind


def _without_empty(kind: pa.DataType) -> pa.DataType | None:
    """The type without objects that have no keys, which Parquet cannot hold, and nulls; None if nothing else is."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_struct(kind):
        fields = {field.name: _without_empty(field.type) for field in kind}
        kept = [(name, inner) for name, inner in fields.items() if inner is not None]
        return pa.struct(kept) if kept else None
    if pa.types.is_list(kind):
        inner = _without_empty(kind.value_type)
        return pa.list_(inner) if inner is not None else None
    return kind


def merged(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A type for the values of both, or None."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_dictionary(one) or pa.types.is_dictionary(other):
        plain = [each.value_type if pa.types.is_dictionary(each) else each for each in (one, other)]
        return merged(*plain)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {field.name: field.type for field in one}
        for field in other:
            both = merged(fields.get(field.name, pa.null()), field.type)
            if both is None:
                return None
            fields[field.name] = both
        return pa.struct(list(fields.items()))
    if pa.types.is_list(one) and pa.types.is_list(other):
        both = merged(one.value_type, other.value_type)
        return pa.list_(both) if both is not None else None
    try:
        schemas = [pa.schema([("column", each)]) for each in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
