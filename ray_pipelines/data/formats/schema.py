"""One schema for many files: columns of all of them, each in a type that holds the values of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from ray_pipelines.config import ReadFormat
from ray_pipelines.errors import ConfigError

__all__ = ["ALL_COLUMNS", "unify"]

ALL_COLUMNS = {b"columns": b"all"}
"""Metadata of a schema that has every column of the samples: a name that it lacks is one that they lack."""


def unify(schemas: Mapping[str, pa.Schema], read_format: ReadFormat, text_columns: Sequence[str]) -> pa.Schema:
    """The columns of all files, in the order in which they first appear.

    Integers widen, integers and floats meet in floats, structs in the fields of both; what is null in one file has the
    type of another. In CSV, where every value is a text, other types meet in texts.

    Args:
        schemas: Path: schema of the file.
        read_format: Format of the files.
        text_columns: Columns that are strings whatever the schemas say.

    Raises:
        ConfigError: A file has two columns of one name, or a column has types that do not go together.
    """
    problems: list[str] = []
    types: dict[str, tuple[pa.DataType, str]] = {}
    for path, schema in schemas.items():
        twice = [name for name, count in Counter(schema.names).items() if count > 1]
        if twice:
            problems.append(f"read.path: {path} has more than one column {', '.join(map(repr, twice))}. Rename them.")
            continue
        for column in schema:
            known, where = types.get(column.name, (pa.null(), path))
            merged = pa.string() if column.name in text_columns else _merged(known, column.type)
            if merged is None and read_format == "csv":
                merged = pa.string()
            if merged is None:
                problems.append(
                    f'read.path: column "{column.name}" is {known} in {where} and {column.type} in {path}. Make them '
                    "the same, or read such files in jobs of their own."
                )
                continue
            types[column.name] = (merged, path if known != merged else where)
    if problems:
        raise ConfigError(problems)
    unknown = pa.string() if read_format in ("jsonl", "csv", "webdataset") else pa.null()
    return pa.schema([(name, unknown if pa.types.is_null(one) else one) for name, (one, _) in types.items()])


def _merged(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A type for the values of both, or None."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_dictionary(one) or pa.types.is_dictionary(other):
        plain = [each.value_type if pa.types.is_dictionary(each) else each for each in (one, other)]
        return _merged(*plain)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {field.name: field.type for field in one}
        for field in other:
            merged = _merged(fields.get(field.name, pa.null()), field.type)
            if merged is None:
                return None
            fields[field.name] = merged
        return pa.struct(list(fields.items()))
    if pa.types.is_list(one) and pa.types.is_list(other):
        merged = _merged(one.value_type, other.value_type)
        return pa.list_(merged) if merged is not None else None
    try:
        schemas = [pa.schema([("column", each)]) for each in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
