"""Arrow values in JSON lines, and back: what JSON lacks is written as text or numbers, by the type of its column."""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import uuid
from typing import Any

import pyarrow as pa

from ray_pipelines.arrow import is_list, python_rows
from ray_pipelines.errors import JobError

__all__ = ["array_of_json", "held_type", "json_rows", "json_value"]

HELD_AS_THEY_ARE = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_boolean,
    pa.types.is_timestamp,
    pa.types.is_null,
)
"""Types that pyarrow's reader of JSON makes itself."""
TIME_NS = pa.time64("ns")
NO_TIME = datetime.timedelta(0)


def json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table for `json_value`: values of extension types as what they are stored in, UUIDs as such.

    Times of day in nanoseconds are texts, as Python's have microseconds.

    >>> json_rows(pa.table({"box": pa.array([[1, 2]], pa.fixed_shape_tensor(pa.int8(), [2]))}))
    [{'box': [1, 2]}]

    Raises:
        JobError: A column has a value that Python has not, such as a date after the year 9999.
    """
    for index, field in enumerate(table.schema):
        stored = _stored(field.type, for_json=True)
        if stored != field.type:
            table = table.set_column(index, field.name, table[index].cast(stored))

    def refuse(name: str, column: pa.ChunkedArray, error: Exception) -> list[Any]:
        raise JobError(
            f'write.format: column "{name}" ({column.type}) has a value that JSON lines cannot hold ({error}). '
            "Leave it out with write.columns, or set write.format: parquet; in another folder, or with write.mode: "
            "overwrite."
        ) from None

    return python_rows(table, refuse)


def json_value(value: Any) -> Any:
    """`value` with what JSON lacks replaced.

    Bytes become base64, NaN and infinities null, times ISO strings, durations seconds, and the pairs of a map objects
    of `key` and `value`.
    """
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {"key": json_value(value[0]), "value": json_value(value[1])}
    if isinstance(value, list):
        return [json_value(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.datetime) and (value.utcoffset() or NO_TIME) % datetime.timedelta(minutes=1):
        # As zones were before there were railways; pyarrow reads no seconds in an offset.
        value = value.astimezone(datetime.timezone.utc)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def held_type(kind: pa.DataType) -> pa.DataType:
    """The type in which JSON lines hold values of `kind`."""
    if any(is_kind(kind) for is_kind in HELD_AS_THEY_ARE):
        return kind
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, held_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", held_type(kind.key_type)), ("value", held_type(kind.item_type))]))
    if is_list(kind):
        return pa.list_(held_type(kind.value_type))
    if pa.types.is_dictionary(kind):
        return held_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) and kind != pa.uuid():
        return held_type(kind.storage_type)
    return pa.float64() if pa.types.is_floating(kind) or pa.types.is_duration(kind) else pa.string()


def array_of_json(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values of `kind` that `json_rows` and `json_value` have replaced."""
    # pyarrow makes no values of extension types that are in others.
    return pa.array([value_of_json(value, kind) for value in values], type=_stored(kind)).cast(kind)


def value_of_json(value: Any, kind: pa.DataType) -> Any:
    """The value that `json_value` has replaced, of `kind` or of the type that it is stored in."""
    if value is None or any(is_kind(kind) for is_kind in HELD_AS_THEY_ARE):
        return value
    if pa.types.is_struct(kind):
        return {field.name: value_of_json(value[field.name], field.type) for field in kind}
    if pa.types.is_map(kind):
        types = {"key": kind.key_type, "value": kind.item_type}
        return [tuple(value_of_json(pair[name], one) for name, one in types.items()) for pair in value]
    if is_list(kind):
        return [value_of_json(item, kind.value_type) for item in value]
    if pa.types.is_dictionary(kind):
        return value_of_json(value, kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) and kind != pa.uuid():
        return value_of_json(value, kind.storage_type)
    return _scalar(value, kind)


def _scalar(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_date(kind):
        return datetime.date.fromisoformat(value)
    if kind == TIME_NS:
        return pa.scalar(f"1970-01-01 {value}").cast(pa.timestamp("ns")).value
    if pa.types.is_time(kind):
        return datetime.time.fromisoformat(value)
    if pa.types.is_decimal(kind):
        return decimal.Decimal(value)
    if pa.types.is_duration(kind):
        return round(value * 1e9) if kind.unit == "ns" else datetime.timedelta(seconds=value)
    if kind == pa.uuid():
        return uuid.UUID(value).bytes
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return base64.b64decode(value) if is_bytes else value


def _stored(kind: pa.DataType, for_json: bool = False) -> pa.DataType:
    """The type with each extension type in it replaced by what it is stored in; for JSON, as `json_rows` says."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind if for_json and kind == pa.uuid() else _stored(kind.storage_type, for_json)
    if for_json and kind == TIME_NS:
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_stored(field.type, for_json)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_stored(kind.key_type, for_json), kind.item_field.with_type(_stored(kind.item_type, for_json)))
    if is_list(kind):
        item = kind.value_field.with_type(_stored(kind.value_type, for_json))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(item, kind.list_size)
        return pa.large_list(item) if pa.types.is_large_list(kind) else pa.list_(item)
    return kind
