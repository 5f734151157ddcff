"""Which files a job reads, and in which format.

Files are found through fsspec, so that a path is local or any URI that fsspec knows; a row's identity is its file and
its position in it.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

from ray_pipelines.config import ReadConfig, ReadFormat
from ray_pipelines.errors import ConfigError
from ray_pipelines.storage import (
    COMPRESSIONS,
    FilesystemConfig,
    explain,
    filesystem_of,
    is_remote,
    probe,
    storage_errors,
)
from ray_pipelines.validation import did_you_mean, variable_hint

logger = logging.getLogger(__name__)

__all__ = ["MEDIA_FORMATS", "SourceFile", "extension", "find_files", "format_of", "is_hidden", "partition_values"]

EXTENSIONS: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv", ".tsv"),
    "text": (".txt",),
    "arrow": (".arrow",),
    "webdataset": (".tar", ".tgz"),
    "images": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".amr", ".wma"),
    "video": (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg"),
    "binary": (),
}
MEDIA_FORMATS = ("images", "audio", "video")
SAVED_DATASET_FILES = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What `datasets.Dataset.save_to_disk` writes beside its Arrow files."""
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class SourceFile:
    """One file to read.

    Attributes:
        path: As fsspec opens it.
        num_bytes: Its size.
        partition: Values of its hive partition columns, from its path.
        version: What changes when the content does: the store's ETag or generation, else the time of the last change.
    """

    path: str
    num_bytes: int
    partition: dict[str, str | None] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True)
class _Found:
    file: SourceFile
    named: bool
    """Whether the job names the file itself, rather than a folder or pattern."""


def find_files(read: ReadConfig, filesystem: FilesystemConfig) -> tuple[ReadFormat, list[SourceFile]]:
    """The format and the files of `read`, sorted by path.

    Raises:
        ConfigError: A path does not exist, has no files, or the format cannot be told from the extensions.
    """
    problems = [] if read.paths else ["read.path: expected at least one file, folder or glob; got none."]
    found: list[_Found] = []
    for path in read.paths:
        problem = _address_problem(path, filesystem)
        files = [] if problem else _files_under(path, filesystem)
        if not problem and not files:
            problem = f"read.path: {path} {_absence(path)}"
        problems += [problem] if problem else []
        found += files
    if problems:
        raise ConfigError(problems)
    read_format = read.format or format_of([each.file.path for each in found])
    endings = EXTENSIONS[read_format]
    matching = [each.file for each in found if each.named or extension(each.file.path) in endings]
    chosen = matching if matching else [each.file for each in found]
    if read_format in MEDIA_FORMATS and not matching:
        raise ConfigError(f"read.format: there are no {read_format} files ({', '.join(endings)}) in {read.path}.")
    chosen = chosen if endings else [each.file for each in found]
    kept = _of_partitions(chosen, read.partitions)
    return read_format, sorted(_each_once(kept), key=lambda file: file.path)


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


def partition_values(path: str) -> dict[str, str | None]:
    """The hive partition columns in a path.

    >>> partition_values("data/split=train/place=S%C3%A3o%20Paulo/part-0.parquet")
    {'split': 'train', 'place': 'São Paulo'}
    """
    pairs = (part.split("=", 1) for part in path.split("/")[:-1] if part.count("=") == 1)
    return {key: None if value == NULL_PARTITION else unquote(value) for key, value in pairs if key}


def _each_once(files: Sequence[SourceFile]) -> Iterable[SourceFile]:
    """The files without those that `read.path` names again, also in another spelling; links to files are files."""

    @cache
    def real(folder: str) -> str:
        return str(Path(folder).resolve())

    def place(path: str) -> str:
        folder, name = posixpath.split(path.removeprefix("file://"))
        return path if is_remote(path) else f"{real(folder)}/{name}"

    found: dict[str, SourceFile] = {}
    for file in files:
        found.setdefault(place(file.path), file)
    return found.values()


def _of_partitions(files: Sequence[SourceFile], wanted: Mapping[str, Any]) -> list[SourceFile]:
    """The files whose partition columns have one of the wanted values."""
    values = {
        name: {str(v) for v in (value if isinstance(value, tuple) else (value,))} for name, value in wanted.items()
    }
    problems = []
    for name, chosen in values.items():
        found = {file.partition[name] for file in files if name in file.partition}
        if not found:
            known = sorted({column for file in files for column in file.partition})
            problems.append(
                f"read.partitions.{name}: no file has this partition column.{did_you_mean(name, known)} "
                f"There are: {', '.join(known) or 'none'}."
            )
        elif not found & chosen:
            problems.append(
                f"read.partitions.{name}: expected one of {', '.join(sorted(map(str, found))[:10])}; got "
                f"{', '.join(sorted(chosen))}."
            )
    kept = [file for file in files if all(file.partition.get(name) in chosen for name, chosen in values.items())]
    if not problems and not kept:
        problems.append("read.partitions: no file has all of these values.")
    if problems:
        raise ConfigError(problems)
    return kept


def _address_problem(path: str, filesystem: FilesystemConfig) -> str | None:
    if "@" in path.partition("://")[2].split("/")[0]:
        return "read.path: expected an address without credentials; put them into read.filesystem or the environment."
    problem = probe(path, filesystem)
    return f"read.{problem}" if problem else None


def _files_under(path: str, config: FilesystemConfig) -> list[_Found]:
    try:
        filesystem, root = filesystem_of(path, config)
        filesystem.invalidate_cache()
        is_pattern = any(character in root for character in "*?[") and not filesystem.exists(root)
        named = not is_pattern and filesystem.isfile(root)
        if is_pattern:
            details = filesystem.glob(root, detail=True)
        elif named:
            details = {root: filesystem.info(root)}
        else:
            noting = {} if is_remote(path) else {"on_error": _note_closed}
            details = filesystem.find(root, detail=True, **noting)
            if is_remote(path) and not details:
                filesystem.ls(root)
    except FileNotFoundError as error:
        if not is_remote(path):
            return []
        reason = explain(path, error, config)
        if not reason.startswith("there is no bucket"):
            return []
        raise ConfigError(f"read.path: {path}: {reason}") from None
    except storage_errors() as error:
        raise ConfigError(f"read.path: {path} cannot be listed: {explain(path, error, config)}") from None
    base = posixpath.dirname(root.split("*")[0].split("?")[0].split("[")[0]) if is_pattern else root.rstrip("/")
    files = []
    for name, info in sorted(details.items()):
        if (named or not is_hidden(name.removeprefix(base))) and _is_file(name, info, filesystem):
            uri = filesystem.unstrip_protocol(name) if "://" in path else name
            size = int(info.get("size") or 0)
            files.append(_Found(SourceFile(uri, size, partition_values(name), _version(info)), named))
    beside_arrow = any(extension(each.file.path) == ".arrow" for each in files)
    return [each for each in files if not (beside_arrow and posixpath.basename(each.file.path) in SAVED_DATASET_FILES)]


def _note_closed(error: OSError) -> None:
    """Says which folder of a local one is left out, as this process may not list it."""
    if isinstance(error, PermissionError):
        logger.warning("read.path: %s is left out: %s.", error.filename, error.strerror)


def is_hidden(path: str) -> bool:
    """Whether a file below a folder that is read is left out of it.

    >>> is_hidden("_run/a.parquet"), is_hidden("/a/b.parquet")
    (True, False)
    """
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _version(info: Mapping[str, Any]) -> str:
    known = (info.get(key) for key in ("ETag", "etag", "generation", "version_id", "mtime", "LastModified", "modified"))
    return next((str(value).strip('"') for value in known if value), "")


def _is_file(name: str, info: Mapping[str, Any], filesystem: Any) -> bool:
    """Whether a listed name is a file, or a link to one; links to folders may lead in circles and are not followed."""
    if not info.get("islink"):
        return bool(info["type"] == "file")
    if filesystem.isdir(name):
        logger.warning("read.path: %s is a link to a folder and is not followed; name the folder itself.", name)
    elif not filesystem.exists(name):
        logger.warning("read.path: %s is a link to a file that is not there, and is left out.", name)
    return bool(filesystem.isfile(name))


def _absence(path: str) -> str:
    """Why there are no files, as far as can be seen from here, and what may be meant instead."""
    absent = "does not exist, or has no files."
    if is_remote(path):
        return absent
    filesystem, root = filesystem_of(path, FilesystemConfig())
    try:
        if Path(root).is_symlink() and not filesystem.exists(root):
            return f"is a link to {Path(root).readlink()}, which does not exist."
        if not filesystem.isdir(root):
            return f"{absent}{_nearest(filesystem, root)}{variable_hint(path)}"
        filesystem.ls(root)
    except PermissionError as error:
        return f"cannot be looked at: {error.strerror}."
    hidden = " but hidden ones, which are left out (names that begin with . or _)" if filesystem.find(root) else ""
    return f"has no files{hidden}."


def _nearest(filesystem: Any, root: str) -> str:
    parent = posixpath.dirname(root.rstrip("/"))
    if not filesystem.isdir(parent):
        return ""
    names = [posixpath.basename(name) for name in filesystem.ls(parent, detail=False)]
    return did_you_mean(posixpath.basename(root.rstrip("/")), names)
