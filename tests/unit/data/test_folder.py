"""The folder that a user names, and whether it can be written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_pipelines.data.folder import Folder
from ray_pipelines.data.job import check_job
from ray_pipelines.data.lease import hold_lease
from ray_pipelines.errors import ConfigError
from ray_pipelines.job_file import validate_job
from ray_pipelines.storage import FilesystemConfig

LOCAL = FilesystemConfig()
NOT_WRITABLE = r"write\.path: /proc/no/folder cannot be written to: No such file or directory\."


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
    with pytest.raises(ConfigError, match=NOT_WRITABLE) as raised:
        check_job(validate_job(job))
    assert len(raised.value.problems) == 1
    with pytest.raises(ConfigError, match=NOT_WRITABLE), hold_lease(Folder.of("/proc/no/folder", LOCAL), "run"):
        raise AssertionError
