"""What is uploaded to a cluster, and how it is reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_pipelines.data.submit import choose_auth_mode, connect, secrets_of, submit
from ray_pipelines.errors import ConfigError
from ray_pipelines.job_file import validate_job


@pytest.mark.parametrize(
    ("environment", "has_token_file", "expected"),
    [
        ({}, False, "disabled"),
        ({}, True, "token"),
        ({"RAY_AUTH_TOKEN": "abc"}, False, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/run/token"}, False, "token"),
        ({"RAY_AUTH_MODE": "disabled"}, True, "disabled"),
        ({"RAY_AUTH_MODE": "TOKEN"}, False, "token"),
    ],
)
def test_a_token_is_sent_where_there_is_one(
    environment: dict[str, str], has_token_file: bool, expected: str, tmp_path: Path
) -> None:
    if has_token_file:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("abc")
    assert choose_auth_mode(environment, tmp_path) == expected


def test_secrets_are_found_wherever_they_stand() -> None:
    job = validate_job(
        {
            "task": "fill-mask",
            "model": {"name": "org/model", "token": "hf_abc"},
            "read": {"path": ["s3://bucket/in", "https://me:secret@host/in"]},
            "write": {"path": "out"},
        }
    )
    assert secrets_of(job) == ["model.token", "read.path"]


def test_a_job_without_secrets_has_none() -> None:
    values = {"task": "fill-mask", "model": "org/model", "read": {"path": "in"}, "write": {"path": "out"}}
    assert secrets_of(validate_job(values)) == []


def test_a_job_with_a_secret_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    job_file = tmp_path / "job.yaml"
    job_file.write_text("task: fill-mask\nmodel: org/model\nread: {path: in}\nwrite: {path: out}\n")
    with pytest.raises(ConfigError, match=r"^model\.token: expected no secret") as refused:
        submit(None, job_file, ["model.token=hf_abc"])  # type: ignore[arg-type]  # never reached
    assert "hf_abc" not in str(refused.value)


def test_the_working_directory_must_hold_the_job_file(tmp_path: Path) -> None:
    job_file = tmp_path / "job.yaml"
    job_file.write_text("task: fill-mask\nmodel: org/model\nread: {path: in}\nwrite: {path: out}\n")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="expected a folder that holds"):
        submit(None, job_file, working_dir=other)  # type: ignore[arg-type]  # never reached


def test_what_is_no_address_is_the_callers_mistake() -> None:
    with pytest.raises(ConfigError, match="--address head: expected a Ray dashboard such as"):
        connect("head")
