"""Data on S3: real requests to a server in another process, with credentials and with trouble."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.config import FilesystemConfig, ReadConfig
from ray_pipelines.data.files import find_files
from ray_pipelines.data.formats import read_units, sample_schema, units_of_file
from ray_pipelines.data.read import describe_input
from ray_pipelines.job_file import validate_job
from tests.cases.media import image, png
from tests.integration.s3_server import KEY, SECRET, S3Server, run_s3_server

Model = Callable[[str], str]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """A server with a bucket."""
    with run_s3_server() as server:
        server.client().mkdir("bucket")
        yield server


@pytest.fixture
def config(s3: S3Server) -> FilesystemConfig:
    return FilesystemConfig.model_validate(s3.filesystem_options)


def rows_of(config: FilesystemConfig, path: str, columns: list[str] | None = None, **settings: Any) -> pa.Table:
    read = ReadConfig.model_validate({"path": path, **settings})
    read_format, files = find_files(read, config)
    schema = sample_schema(files, read_format, [], config)
    schema = pa.schema([column for column in schema if columns is None or column.name in columns])
    units = [unit for file in files for unit in units_of_file(file, read_format, config)]
    return pa.concat_tables(list(read_units(units, read_format, schema, 1000, config)))


def results_of(s3: S3Server, folder: str) -> list[dict[str, Any]]:
    """The rows of the files that the manifest lists."""
    client = s3.client()
    manifest = json.loads(client.cat_file(f"{folder}/manifest.json"))
    names = [f"{folder}/{name}" for name in manifest["files"]["results"]]
    rows: list[dict[str, Any]] = pyarrow.dataset.dataset(names, filesystem=client).to_table().to_pylist()
    return rows


def test_only_the_bytes_of_the_wanted_columns_are_read(s3: S3Server, config: FilesystemConfig) -> None:
    random = np.random.default_rng(0)
    table = pa.table({"text": [f"row {n}" for n in range(4000)], "payload": [random.bytes(2000) for _ in range(4000)]})
    with s3.client().open("bucket/wide/a.parquet", "wb") as file:
        pq.write_table(table, file, row_group_size=500)
    size = s3.client().size("bucket/wide/a.parquet")
    s3.requests.clear()
    assert rows_of(config, "s3://bucket/wide/", ["text"])["text"].to_pylist() == table["text"].to_pylist()
    sent = sum(num_bytes for method, path, num_bytes in s3.requests if method == "GET" and "a.parquet" in path)
    assert size > 8_000_000
    assert sent < size / 10


def test_many_small_files_are_read_at_the_same_time(s3: S3Server, config: FilesystemConfig) -> None:
    client = s3.client()
    contents = {f"bucket/many/{n:03}.jsonl.gz": gzip.compress(b'{"n": %d}\n' % n) for n in range(200)}
    client.pipe(contents)
    assert rows_of(config, "s3://bucket/many/")["n"].to_pylist() == list(range(200))


def test_trouble_with_requests_is_not_trouble_with_files(s3: S3Server, config: FilesystemConfig) -> None:
    lines = b"".join(json.dumps({"n": n, "text": "x" * 500}).encode() + b"\n" for n in range(40_000))
    s3.client().pipe_file("bucket/large/a.jsonl", lines)
    with s3.trouble(slow_down_every=3, cut_every=4):
        table = rows_of(config, "s3://bucket/large/")
        assert s3.num_slowed > 0
        assert s3.num_cut > 0
    assert table["n"].to_pylist() == list(range(40_000))
    assert table["__read_error"].null_count == 40_000


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_on_s3_with_throttling_and_broken_connections(s3: S3Server, model: Model, tmp_path: Path) -> None:
    """Rows, pictures named by URI, results, manifest: all over S3, and no secret left anywhere."""
    client = s3.client()
    client.pipe({f"bucket/pictures/{n}.png": png(image(seed=n)) for n in range(24)})
    uris = [f"s3://bucket/pictures/{n}.png" for n in range(24)]
    uris[5] = "s3://bucket/pictures/missing.png"
    uris[9] = "git://host/picture.png"
    for part in range(3):
        table = pa.table({"n": range(part * 8, part * 8 + 8), "uri": uris[part * 8 : part * 8 + 8]})
        with client.open(f"bucket/rows/{part}.parquet", "wb") as file:
            pq.write_table(table, file)
    job = validate_job(
        {
            "task": "image-classification",
            "model": model("vit-classifier"),
            "inputs": {"image": "uri"},
            "read": {"path": "s3://bucket/rows/", "filesystem": s3.filesystem_options, "rows_per_block": 8},
            "write": {"path": "s3://bucket/out"},
            "workers": {"num_cpus": 1},
        }
    )
    with s3.trouble(slow_down_every=7, cut_every=11):
        result = rp.run_job(job)
        assert s3.num_slowed > 0
        assert s3.num_cut > 0
    assert result.report.counts() == {"num_rows": 24, "num_results": 22, "num_errors": 2}
    assert sorted(row["n"] for row in results_of(s3, "bucket/out")) == [n for n in range(24) if n not in (5, 9)]
    manifest = json.loads(client.cat_file("bucket/out/manifest.json"))
    (letters,) = [client.cat_file(f"bucket/out/{name}") for name in manifest["files"]["dead_letters"]][:1] or [b""]
    assert letters
    left = [client.cat_file(name) for name in client.find("bucket/out")]
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    left += [path.read_bytes() for path in session.rglob("*") if path.is_file()]
    assert len(left) > 10
    assert not any(KEY.encode() in content or SECRET.encode() in content for content in left)
    assert SECRET not in repr(job) + job.model_dump_json() + str(job.model_dump())


@pytest.mark.usefixtures("ray_cluster")
def test_credentials_come_from_the_environment_of_the_driver(
    s3: S3Server, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster was started without them, as other nodes are."""
    assert "AWS_ACCESS_KEY_ID" not in os.environ
    s3.client().pipe_file("bucket/texts/a.jsonl", b'{"text": "good"}\n{"text": "bad"}\n')
    environment = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL_S3": s3.url,
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    job = validate_job(
        {
            "task": "text-classification",
            "model": model("bert-classifier"),
            "read": {"path": "s3://bucket/texts/"},
            "write": {"path": "s3://bucket/labels/"},
            "workers": {"num_cpus": 1},
        }
    )
    assert rp.run_job(job).report.num_results == 2
    assert len(results_of(s3, "bucket/labels")) == 2


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["_run/run.json", "_run/commits/", "_run/report.json", "manifest.json"])
def test_a_store_that_refuses_in_the_middle_ends_the_job_which_can_go_on(s3: S3Server, model: Model, name: str) -> None:
    s3.client().pipe_file("bucket/lines/a.txt", b"one\ntwo\nthree\n")
    out = f"bucket/refused-{name.strip('/').replace('/', '-')}"
    job = validate_job(
        {
            "task": "text-classification",
            "model": model("bert-classifier"),
            "read": {"path": "s3://bucket/lines/", "filesystem": s3.filesystem_options},
            "write": {"path": f"s3://{out}"},
            "workers": {"num_cpus": 1},
        }
    )
    s3.refused = f"{out}/{name}"
    try:
        with pytest.raises(rp.StorageError) as raised:
            rp.run_job(job)
    finally:
        s3.refused = ""
    assert f"s3://{out}/{name}" in str(raised.value)
    assert "cannot be written: Access Denied. The credentials are wrong, or may not do this" in str(raised.value)
    assert str(raised.value).endswith(" What is written stays: the same command goes on from here.")
    assert rp.run_job(job).report.counts() == {"num_rows": 3, "num_results": 3, "num_errors": 0}
    assert len(results_of(s3, out)) == 3


WRONG = {
    "bucket": ({}, "s3://buckett/in/", r'there is no bucket .buckett.\. Did you mean "bucket"\?'),
    "folder": ({}, "s3://bucket/nothing-here/", "does not exist, or has no files"),
    "key": ({"key": "AKIAWRONG", "secret": "wrongwrong"}, "s3://bucket/texts/", "credentials are wrong"),
    "endpoint": ({"endpoint_url": "http://127.0.0.1:9"}, "s3://bucket/texts/", "cannot connect to 127.0.0.1:9"),
    "address": ({"endpoint_url": "127.0.0.1"}, "s3://bucket/texts/", r"expected http\(s\)://host"),
    "profile": ({"key": None, "secret": None, "profile": "nobody"}, "s3://bucket/texts/", "filesystem.profile"),
    "protocol": ({}, "s4://bucket/texts/", "no protocol that fsspec knows"),
    "user": ({}, "s3://key:secret@bucket/texts/", "without credentials"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_address_is_refused_with_what_to_do(case: str, s3: S3Server) -> None:
    changed, path, message = WRONG[case]
    s3.client().pipe_file("bucket/texts/a.jsonl", b'{"text": "good"}\n')
    options = {**s3.filesystem_options, **changed}
    job = validate_job(
        {
            "task": "text-classification",
            "read": {"path": path, "filesystem": options},
            "write": {"path": "s3://bucket/elsewhere"},
        }
    )
    with pytest.raises(rp.ConfigError, match=message) as caught:
        describe_input(job)
    assert SECRET not in str(caught.value)
