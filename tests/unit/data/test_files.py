"""Which files a job reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from ray_pipelines.config import ReadConfig
from ray_pipelines.data.files import find_files
from ray_pipelines.errors import ConfigError
from ray_pipelines.storage import FilesystemConfig


def test_a_file_that_is_named_in_several_spellings_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("a row")
    monkeypatch.chdir(tmp_path)
    spellings = ("in", "./in", "in/a.txt", "in/*.txt", "in/../in", f"{tmp_path}//in/", f"file://{tmp_path}/in")
    for first in spellings:
        _, files = find_files(ReadConfig(path=(first, *spellings)), FilesystemConfig())
        assert [Path(file.path).name for file in files] == ["a.txt", "b.txt"]


def test_files_that_only_look_alike_are_all_read(tmp_path: Path) -> None:
    for folder in ("x/in", "y/in", "y/z"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text("a row")
    (tmp_path / "x/link").symlink_to(tmp_path / "y/z")
    (tmp_path / "x/in/same.txt").symlink_to(tmp_path / "x/in/a.txt")
    paths = (str(tmp_path / "x/in"), str(tmp_path / "x/link/../in"))
    assert len(find_files(ReadConfig(path=paths), FilesystemConfig())[1]) == 3


def test_no_path_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"read\.path: expected at least one file, folder or glob"):
        find_files(ReadConfig(path=()), FilesystemConfig())


def test_why_there_are_no_files_is_said(tmp_path: Path) -> None:
    for name in ("empty", "hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "hidden/_a.txt").write_text("a row")
    (tmp_path / "link.txt").symlink_to("gone.txt")
    reasons = {
        "empty": r"has no files\.$",
        "hidden": r"has no files but hidden ones",
        "link.txt": r"is a link to gone\.txt, which does not exist\.$",
        "emty": r'does not exist, or has no files\. Did you mean "empty"\?$',
        "${DAY}/in": r"does not exist, or has no files\. No variable is replaced here, such as \$\{DAY\}:",
    }
    for name, reason in reasons.items():
        with pytest.raises(ConfigError, match=reason):
            find_files(ReadConfig(path=str(tmp_path / name)), FilesystemConfig())


def test_a_link_to_nothing_in_a_folder_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("a row")
    (tmp_path / "b.txt").symlink_to("gone.txt")
    _, files = find_files(ReadConfig(path=str(tmp_path)), FilesystemConfig())
    assert [Path(file.path).name for file in files] == ["a.txt"]
    assert "b.txt is a link to a file that is not there" in caplog.text


def test_folders_that_may_not_be_listed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("in/open", "in/closed"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text("a row")
    listed = LocalFileSystem.ls

    def ls(self: LocalFileSystem, path: str, *arguments: Any, **options: Any) -> Any:
        if path.rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return listed(self, path, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    for name in ("in/closed", "in/closed/b.txt"):
        with pytest.raises(ConfigError, match=r"closed(/b\.txt)? cannot be looked at: Permission denied\.$"):
            find_files(ReadConfig(path=str(tmp_path / name)), FilesystemConfig())
    assert len(find_files(ReadConfig(path=str(tmp_path / "in")), FilesystemConfig())[1]) == 1
    assert "in/closed is left out: Permission denied." in caplog.text
