"""Which files a job reads."""

from __future__ import annotations

from pathlib import Path

import pytest

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
