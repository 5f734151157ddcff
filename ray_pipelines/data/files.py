"""Which files a job reads, in which format, and the units of work that they make.

A unit is a file, or some row groups of a Parquet file; a row's identity is its file and its position in it. Files are
found through fsspec, so that a path is local or any URI that fsspec knows.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import fsspec

from ray_pipelines.config import ReadConfig, ReadFormat
from ray_pipelines.errors import ConfigError
from ray_pipelines.validation import did_you_mean

__all__ = ["SourceFile", "find_files", "format_of", "open_file", "partition_values"]

EXTENSIONS: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv", ".tsv"),
    "text": (".txt",),
    "images": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class SourceFile:
    """One file to read.

    Attributes:
        path: As fsspec opens it.
        num_bytes: Its size.
        partition: Values of its hive partition columns, from its path.
    """

    path: str
    num_bytes: int
    partition: dict[str, str] = field(default_factory=dict)


def find_files(read: ReadConfig) -> tuple[ReadFormat, list[SourceFile]]:
    """The format and the files of `read`, sorted by path.

    Raises:
        ConfigError: A path does not exist, has no files, or the format cannot be told from the extensions.
    """
    problems: list[str] = []
    found: list[tuple[str, SourceFile]] = []
    for path in read.paths:
        files = _files_under(path)
        if not files:
            problems.append(f"read.path: {path} does not exist, or has no files.{_nearest(path)}")
        found += files
    if problems:
        raise ConfigError(problems)
    read_format = read.format or format_of([file.path for _, file in found])
    matching = [file for _, file in found if extension(file.path) in EXTENSIONS[read_format]]
    chosen = matching or [file for _, file in found]
    if read_format == "images" and not matching:
        raise ConfigError(f"read.format: there are no image files ({', '.join(EXTENSIONS['images'])}) in {read.path}.")
    return read_format, sorted({file.path: file for file in chosen}.values(), key=lambda file: file.path)


def format_of(paths: Sequence[str]) -> ReadFormat:
    """The format that the files' extensions say.

    Raises:
        ConfigError: They say none, or more than one.
    """
    known = {name: [path for path in paths if extension(path) in endings] for name, endings in EXTENSIONS.items()}
    formats = [name for name, matching in known.items() if matching]
    if len(formats) == 1:
        return next(name for name in get_args(ReadFormat) if name == formats[0])
    found = f"{' and '.join(formats)} files" if formats else "no extension that it knows"
    raise ConfigError(f"read.format: expected files of one format; found {found}. Set read.format to what to read.")


def extension(path: str) -> str:
    """The file's extension in lower case, without that of a compression.

    >>> extension("a/B.JSONL.gz")
    '.jsonl'
    """
    stem, ending = posixpath.splitext(path.lower())
    return posixpath.splitext(stem)[1] if ending in COMPRESSIONS else ending


def open_file(path: str) -> Any:
    """The file as a context manager that opens it for reading bytes, decompressed."""
    return fsspec.open(path, "rb", compression="infer")


def partition_values(path: str) -> dict[str, str]:
    """The hive partition columns in a path.

    >>> partition_values("data/split=train/year=2026/part-0.parquet")
    {'split': 'train', 'year': '2026'}
    """
    pairs = (part.split("=", 1) for part in path.split("/")[:-1] if part.count("=") == 1)
    return {key: value for key, value in pairs if key}


def _files_under(path: str) -> list[tuple[str, SourceFile]]:
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
        if any(character in root for character in "*?["):
            details = filesystem.glob(root, detail=True)
        elif filesystem.isfile(root):
            details = {root: filesystem.info(root)}
        else:
            details = filesystem.find(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"read.path: {path} cannot be listed: {error}.") from None
    prefix = posixpath.commonprefix([root]) if "=" in root else root.split("*")[0]
    files = []
    for name, info in sorted(details.items()):
        relative = name[len(prefix) :] if name.startswith(prefix) else name
        hidden = any(part.startswith((".", "_")) for part in relative.split("/") if part)
        if info["type"] == "file" and not (hidden and name != root):
            uri = filesystem.unstrip_protocol(name) if "://" in path else name
            files.append((name, SourceFile(uri, int(info.get("size") or 0), partition_values(name))))
    return files


def _nearest(path: str) -> str:
    if "://" in path:
        return ""
    filesystem, root = fsspec.core.url_to_fs(path)
    parent = posixpath.dirname(root.rstrip("/"))
    if not filesystem.isdir(parent):
        return ""
    names = [posixpath.basename(name) for name in filesystem.ls(parent, detail=False)]
    return did_you_mean(posixpath.basename(root.rstrip("/")), names)
