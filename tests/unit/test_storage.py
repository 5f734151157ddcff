"""Options of filesystems: where they come from, and that no secret shows."""

from __future__ import annotations

import pickle

import pytest

import ray_pipelines as rp
from ray_pipelines.job_file import validate_job
from ray_pipelines.storage import FilesystemConfig

AWS = {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "envsecret", "AWS_DEFAULT_REGION": "eu-central-1"}
SECRETS = {
    "key": "AKIASECRET1",
    "secret": "top/secret+2",
    "token": "secret-token-3",
    "hub_token": "hf_secret4",
    "storage_options": {"account_key": "secret-account-5"},
}
VALUES = [value if isinstance(value, str) else value["account_key"] for value in SECRETS.values()]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*AWS, "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_secrets_show_nowhere_but_reach_other_processes() -> None:
    config = FilesystemConfig.model_validate(SECRETS)
    shown = f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
    assert not [value for value in VALUES if value in shown]
    text = config.scrub(f"denied: {' '.join(VALUES)} at https://user:pass@host/f?X-Amz-Signature=abc")
    assert text == "denied: *** *** *** *** *** at https://***@host/f?***"
    options = pickle.loads(pickle.dumps(config)).options("s3")
    assert (options["key"], options["secret"], options["token"]) == tuple(VALUES[:3])
    assert config.options("hf")["token"] == "hf_secret4"
    assert config.options("file") == {}


def test_the_environment_fills_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    options = FilesystemConfig().resolved().options("s3")
    assert (options["key"], options["secret"]) == ("AKIAENV", "envsecret")
    assert options["client_kwargs"] == {"region_name": "eu-central-1"}
    assert "key" not in FilesystemConfig(anonymous=True).resolved().options("s3")
    assert "key" not in FilesystemConfig(profile="me").resolved().options("s3")
    given = FilesystemConfig.model_validate({"key": "${AWS_ACCESS_KEY_ID}", "secret": "other"})
    assert given.resolved().options("s3")["key"] == "AKIAENV"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"key": "AKIASECRET1"}, "expected key and secret together"),
        ({"key": "AKIASECRET1", "secret": "s", "anonymous": True}, "expected one of profile, anonymous and key"),
        ({"secret": "${NO_SUCH_VARIABLE_HERE}", "key": "k"}, "the environment has no such variable"),
        ({"secret": ["AKIASECRET1"]}, "a value that is not shown"),
        ("AKIASECRET1", "a value that is not shown"),
        ({"endpoint": "x"}, "unknown name"),
    ],
)
def test_wrong_settings_are_refused_without_showing_them(values: object, message: str) -> None:
    job = {"task": "text-classification", "read": {"path": "x", "filesystem": values}, "write": {"path": "y"}}
    with pytest.raises(rp.ConfigError, match=message) as caught:
        validate_job(job)
    assert "AKIASECRET1" not in str(caught.value)


def test_writing_inherits_everything_but_anonymity() -> None:
    job = validate_job(
        {
            "task": "text-classification",
            "read": {"path": "s3://public/x", "filesystem": {"anonymous": True, "region": "us-east-1"}},
            "write": {"path": "s3://mine/y"},
        }
    )
    assert job.read_filesystem.anonymous
    assert not job.write_filesystem.anonymous
    assert job.write_filesystem.region == "us-east-1"
