"""Media that rows name by URI: fetched with the job's credentials, several rows ahead of the one that is decoded.

Only columns that the job maps to an image, audio, video or chat input are looked at, only plain addresses of known
kinds of storage are opened, and never more than `limits.max_bytes` of one. Local paths are left to the decoders.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from ray_pipelines.errors import MediaError, RowError, StorageError, attempt
from ray_pipelines.media.limits import MediaLimits
from ray_pipelines.storage import (
    FilesystemConfig,
    explain,
    is_outage,
    is_remote,
    no_answer,
    protocol_of,
    read_range,
    storage_errors,
)

__all__ = ["MEDIA", "fetched"]

MEDIA = ("image", "images", "audio", "video", "chat")
"""Modalities whose values may name something to be fetched."""
PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "hdfs", "http", "https", "memory")
WEB = ("http", "https")
ROWS_AHEAD = 16
BYTES_AHEAD = 256 << 20
"""Once this much has been fetched and not been taken, no further row is asked for."""

Fields = Mapping[str, Any]


def fetched(
    rows: Iterable[Fields | RowError],
    modalities: Mapping[str, str],
    limits: MediaLimits,
    filesystem: FilesystemConfig,
) -> Iterator[dict[str, Any] | RowError]:
    """The rows in order, with the bytes of their media in place of URIs, or the error of a row whose media is missing.

    Args:
        rows: Values by field, or a row's error.
        modalities: Field: its modality.
        limits: `max_bytes` of one medium.
        filesystem: How URIs are opened.

    Raises:
        StorageError: The storage does not answer.
    """
    names = [name for name, modality in modalities.items() if modality in MEDIA]
    waiting: deque[RowError | dict[str, Any] | Future[dict[str, Any] | RowError]] = deque()
    with ThreadPoolExecutor(ROWS_AHEAD) as threads:
        for row in rows:
            while len(waiting) >= ROWS_AHEAD or (waiting and _bytes_done(waiting, names) >= BYTES_AHEAD):
                yield _taken(waiting.popleft())
            if isinstance(row, RowError):
                waiting.append(row)
            elif any(_has_uri(row.get(name)) for name in names):
                waiting.append(threads.submit(_fetch_row, row, names, limits, filesystem))
            elif waiting:
                waiting.append(dict(row))
            else:
                yield dict(row)
        while waiting:
            yield _taken(waiting.popleft())


def _fetch_row(
    row: Fields, names: Sequence[str], limits: MediaLimits, filesystem: FilesystemConfig
) -> dict[str, Any] | RowError:
    values = dict(row)
    for name in names:
        read = partial(_read, what=name, limits=limits, filesystem=filesystem)
        found = attempt("read", partial(_replaced, values.get(name), read))
        if isinstance(found, RowError):
            return found
        values[name] = found
    return values


def _read(uri: str, what: str, limits: MediaLimits, filesystem: FilesystemConfig) -> bytes:
    shown = filesystem.scrub(uri[:200])
    if "::" in uri or protocol_of(uri) not in PROTOCOLS:
        raise MediaError(f"{what}: expected an address of {', '.join(PROTOCOLS)}; got {shown!r}, which is not opened.")
    try:
        data = read_range(uri, filesystem, limits.max_bytes + 1)
    except storage_errors() as error:
        # A web server that does not answer is no news to a dataset of links.
        if is_outage(error) and protocol_of(uri) not in WEB:
            raise no_answer(uri, error, filesystem) from None
        raise MediaError(f"{what}: cannot open {shown!r}: {explain(uri, error, filesystem)}") from None
    if len(data) > limits.max_bytes:
        raise MediaError(f"{what}: {shown!r} has more than {limits.max_bytes:,} bytes (limits.max_bytes).")
    return data


def _has_uri(value: Any) -> bool:
    if isinstance(value, str):
        return _is_uri(value)
    if isinstance(value, Mapping):
        return any(map(_has_uri, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_uri, value))


def _is_uri(value: str) -> bool:
    return "://" in value[:32] and not any(c.isspace() for c in value[:32]) and is_remote(value)


def _replaced(value: Any, read: Callable[[str], bytes], key: str = "path") -> Any:
    """`value` with its URIs replaced by bytes; texts beside the media of a chat stay."""
    if isinstance(value, str):
        return read(value) if _is_uri(value) and key not in ("text", "content", "role", "type") else value
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return value
        path = value.get("path")
        if "bytes" in value and isinstance(path, str) and _is_uri(path):
            return {**value, "bytes": read(path)}
        return {name: _replaced(item, read, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, read, key) for item in value]
    return value


def _taken(row: RowError | dict[str, Any] | Future[dict[str, Any] | RowError]) -> dict[str, Any] | RowError:
    found = row.result() if isinstance(row, Future) else row
    if isinstance(found, RowError) and isinstance(found.__cause__, StorageError):
        raise found.__cause__
    return found


def _bytes_done(waiting: Iterable[Any], names: Sequence[str]) -> int:
    done = (one.result() for one in waiting if isinstance(one, Future) and one.done())
    return sum(_size(row.get(name)) for row in done if not isinstance(row, RowError) for name in names)


def _size(value: Any) -> int:
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0
