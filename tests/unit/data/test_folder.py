"""The folder that a user names, and whether it can be written to."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_pipelines.data.folder import Folder
from ray_pipelines.data.job import check_job
from ray_pipelines.data.lease import hold_lease
from ray_pipelines.errors import ConfigError, StorageError
from ray_pipelines.job_file import validate_job
from ray_pipelines.storage import FilesystemConfig

LOCAL = FilesystemConfig()
NOT_WRITABLE = r"write\.path: /proc/no/folder{} cannot be written{}: No such file or directory\."


def test_a_path_is_absolute_and_begins_at_the_home_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    cases = {
        "~/out": "/home/somebody/out",
        "out/": f"{tmp_path}/out",
        "./a//b": f"{tmp_path}/a/b",
        "~nobody-of-that-name/out": f"{tmp_path}/~nobody-of-that-name/out",
        "s3://bucket/~/out": "s3://bucket/~/out",
    }
    assert {path: Folder.of(path, LOCAL).path for path in cases} == cases


def test_a_folder_that_cannot_be_written_to_is_found_before_and_refused_in_one_line(tmp_path: Path) -> None:
    assert Folder.of(str(tmp_path / "a/b"), LOCAL).problem() is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "in.txt").write_text("a row")
    job = {"task": "fill-mask", "read": {"path": str(tmp_path / "in.txt")}, "write": {"path": "/proc/no/folder"}}
    with pytest.raises(ConfigError, match=NOT_WRITABLE.format("", " to")) as raised:
        check_job(validate_job(job))
    assert len(raised.value.problems) == 1
    refused = pytest.raises(ConfigError, match=NOT_WRITABLE.format("/_run/lease.json", ""))
    with refused, hold_lease(Folder.of("/proc/no/folder", LOCAL), "run"):
        raise AssertionError


def test_what_a_store_refuses_names_the_file_and_what_was_done_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.of(str(tmp_path), LOCAL)
    (tmp_path / "_run").write_text("a file in place of a folder")
    (tmp_path / "a.json/b").mkdir(parents=True)
    cases: dict[str, Callable[[], object]] = {
        "_run/run.json cannot be written: ": lambda: folder.write("_run/run.json", b""),
        "_run/run.json cannot be read: Not a directory.": lambda: folder.read("_run/run.json"),
        "a.json cannot be read: Is a directory.": lambda: folder.read("a.json"),
        "a.json cannot be removed: Is a directory.": lambda: folder.remove(["a.json"]),
    }
    for message, operation in cases.items():
        with pytest.raises(StorageError, match=re.escape(f"{tmp_path}/{message}")):
            operation()
    away = Folder.of("no-such-protocol://bucket/out", LOCAL)
    with pytest.raises(StorageError, match=r"out/_run cannot be listed: .* no protocol that fsspec knows"):
        away.sizes("_run")


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.of(str(tmp_path), LOCAL)
    folder.write("a.json", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"a\.json cannot be written: File too large\."):
            folder.write("a.json", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.json": b"old"}


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.of(str(tmp_path), LOCAL)
    folder.write("results/a", b"1")
    assert folder.sizes() == {"results/a": 1} and folder.sizes("_run/commits") == {}

    def scandir(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(StorageError, match=r"results cannot be listed: Permission denied\."):
        folder.sizes("results")


def test_a_store_that_fails_under_a_run_says_that_the_run_can_go_on(tmp_path: Path) -> None:
    folder = Folder.of(str(tmp_path), LOCAL)
    went_on = pytest.raises(StorageError, match=r"a/b cannot be written: .*\. What is written stays: the same command")
    with went_on, hold_lease(folder, "run"):
        (tmp_path / "a").write_text("a file in place of a folder")
        folder.write("a/b", b"")
    with pytest.raises(OSError, match="of the program"), hold_lease(folder, "run"):
        raise OSError("an error of the program")
