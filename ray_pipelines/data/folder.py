"""Folders of small files on any filesystem, written so that nobody ever sees half a file.

A local file is written under a hidden name and renamed. An object store shows an object when it is whole; there is no
rename, and none is needed.

What a store refuses is a `StorageError` here, which names the file; nobody else has to know what stores raise.
"""

from __future__ import annotations

import fcntl
import json
import os
import posixpath
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from ray_pipelines.errors import ConfigError, RowError, StorageError, attempt
from ray_pipelines.storage import FilesystemConfig, explain, filesystem_of, storage_errors

__all__ = ["Folder"]

T = TypeVar("T")


@dataclass(frozen=True)
class Folder:
    """A folder.

    Attributes:
        path: An absolute path or a URI: the tasks that write may run in another working directory.
        filesystem: How it is reached.
    """

    path: str
    filesystem: FilesystemConfig = field(default_factory=FilesystemConfig)

    @classmethod
    def of(cls, path: str, filesystem: FilesystemConfig) -> Folder:
        """The folder that a user names; `~` is a home, as where files are read."""
        absolute = path if "://" in path else str(Path(filesystem_of(path, filesystem)[1]).absolute())
        return cls(absolute.rstrip("/"), filesystem)

    @property
    def is_local(self) -> bool:
        """Whether the folder is a path of this machine, or of a mount that looks like one."""
        return isinstance(self._filesystem()[0], LocalFileSystem)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes of this machine that lock a local folder out of it; any other folder is left open."""
        with ExitStack() as stack:
            # Where it cannot be made or locked, writing to it says why.
            with suppress(OSError):
                if self.is_local:
                    root = Path(self._filesystem()[1])
                    root.mkdir(parents=True, exist_ok=True)
                    handle = os.open(root, os.O_RDONLY)
                    stack.callback(os.close, handle)
                    fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def problem(self) -> str | None:
        """Why a local folder cannot be written to, or None; a file without a name is tried, and leaves no trace."""
        if not self.is_local:
            return None
        root = Path(self._filesystem()[1])
        try:
            with tempfile.TemporaryFile(dir=next(place for place in (root, *root.parents) if place.exists())):
                return None
        except OSError as error:
            return f"write.path: {self.path} cannot be written to: {self._reason(error)}"

    def write(self, name: str, data: bytes) -> None:
        """Writes the file `name`, whole or not at all, in place of one of that name."""
        with self._reaching("written", name) as (filesystem, root):
            if isinstance(filesystem, LocalFileSystem):
                _write_local(Path(f"{root}/{name}"), data)
            else:
                filesystem.pipe_file(f"{root}/{name}", data)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Writes `values` as the file called `name`."""
        self.write(name, json.dumps(values, indent=2, default=str).encode())

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None if there is none of that name."""
        with self._reaching("read", name) as (filesystem, root):
            try:
                data = filesystem.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None
        assert isinstance(data, bytes)
        return data

    def read_as(self, name: str, parse: Callable[[bytes], T], remedy: str) -> T | None:
        """What `parse` makes of the content of a file, or None if there is none of that name.

        Raises:
            ConfigError: It makes nothing of it; `remedy` says what to do.
        """
        data = self.read(name)
        if data is None:
            return None
        parsed = attempt("read", partial(parse, data))
        if isinstance(parsed, RowError):
            reason = " ".join(parsed.message.split()).rstrip(".")
            raise ConfigError(f"{self.path}/{name}: is damaged, or of another program ({reason}). {remedy}")
        return parsed

    def sizes(self, below: str = "") -> dict[str, int]:
        """Name and bytes of every file below a folder of this one, as they are now; hidden files too."""
        with self._reaching("listed", below) as (filesystem, root):
            filesystem.invalidate_cache()
            # What cannot be listed would be left out of local folders, and taken for lost.
            strict = {"on_error": _raise_unless_gone} if isinstance(filesystem, LocalFileSystem) else {}
            found = filesystem.find(f"{root}/{below}".rstrip("/"), detail=True, **strict)
        return {posixpath.relpath(path, root): int(info.get("size") or 0) for path, info in found.items()}

    def top_names(self) -> set[str]:
        """The names that stand in the folder itself; empty if it does not exist."""
        with self._reaching("listed") as (filesystem, root):
            filesystem.invalidate_cache()
            try:
                return {posixpath.basename(name.rstrip("/")) for name in filesystem.ls(root, detail=False)}
            except FileNotFoundError:
                return set()

    def is_file(self) -> bool:
        """Whether the path is a file and no folder."""
        with self._reaching("listed") as (filesystem, root):
            return bool(filesystem.isfile(root))

    def remove(self, names: Iterable[str]) -> None:
        """Removes files; one that is gone already is none too many."""
        gone = list(names)
        with self._reaching("removed", next(iter(gone), "")) as (filesystem, root):
            paths = [f"{root}/{name}" for name in gone]
            if isinstance(filesystem, LocalFileSystem):
                for path in paths:
                    Path(path).unlink(missing_ok=True)
            elif paths:
                filesystem.rm(paths)

    def arrow(self) -> tuple[Any, str]:
        """The filesystem as pyarrow takes it, and the folder's path in it."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem
        from pyarrow.fs import LocalFileSystem as ArrowLocal

        filesystem, root = self._filesystem()
        if isinstance(filesystem, LocalFileSystem):
            return ArrowLocal(), root
        return PyFileSystem(FSSpecHandler(filesystem)), root

    def _filesystem(self) -> tuple[Any, str]:
        return filesystem_of(self.path, self.filesystem)

    @contextmanager
    def _reaching(self, done: str, name: str = "") -> Iterator[tuple[Any, str]]:
        """The filesystem and the folder's path in it, while something is done with the file or folder `name`.

        Raises:
            StorageError: It cannot be.
        """
        try:
            yield self._filesystem()
        except storage_errors() as error:
            path = f"{self.path}/{name}".rstrip("/")
            raise StorageError(f"{path} cannot be {done}: {self._reason(error)}") from None

    def _reason(self, error: Exception) -> str:
        """Why a store has refused something."""
        # `is_local` opens the filesystem, which may be what has failed.
        short = error.strerror if "://" not in self.path and isinstance(error, OSError) else None
        reason = short or explain(self.path, error, self.filesystem, "write")
        return f"{reason.rstrip('.')}."


def _write_local(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with hidden.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(target)
    except OSError:
        # On a full disk, half a file would be in the way of others.
        hidden.unlink(missing_ok=True)
        raise


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
