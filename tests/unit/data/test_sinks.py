"""Tables as files: nothing is lost on the way there and back."""

from __future__ import annotations

import datetime
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.arrow import IMAGE_TYPE
from ray_pipelines.config import FilesystemConfig, WriteConfig
from ray_pipelines.data.files import partition_values
from ray_pipelines.data.sinks import (
    EncodedFile,
    Sink,
    column_problems,
    misplaced_rows,
    partition_problems,
    partitionable,
    tar_rows,
)
from ray_pipelines.job_file import validate_job
from tests.unit.data.test_formats import read
from tests.unit.data.test_output import finished_run

PNG, WAV = b"\x89PNG picture", b"RIFF....WAVE sound"


def files_of(table: pa.Table, **settings: Any) -> list[EncodedFile]:
    sink = Sink(WriteConfig.model_validate({"path": "unused", **settings}), FilesystemConfig())
    files = list(sink.results(table, "part-0", '{"task": "t"}'))
    assert files == list(sink.results(table, "part-0", '{"task": "t"}'))
    assert sum(file.num_rows for file in files) == table.num_rows
    return files


@pytest.mark.parametrize("compression", ["auto", "none", "zstd", "snappy", "gzip", "lz4"])
def test_parquet_has_the_compression_and_row_groups_that_are_asked_for(compression: str) -> None:
    table = pa.table({"n": range(1000)})
    (file,) = files_of(table, compression=compression, rows_per_row_group=300)
    assert pq.read_table(pa.py_buffer(file.data)).equals(table)
    metadata = pq.read_metadata(io.BytesIO(file.data))
    assert [metadata.row_group(n).num_rows for n in range(4)] == [300, 300, 300, 100]
    expected = {"auto": "ZSTD", "none": "UNCOMPRESSED"}.get(compression, compression.upper())
    assert metadata.row_group(0).column(0).compression == expected
    assert json.loads(metadata.metadata[b"ray_pipelines"]) == {"task": "t"}


def test_partitions_are_folders_that_pyarrow_and_this_package_read_back(tmp_path: Path) -> None:
    days = [datetime.date(2026, 1, 1), None]
    rows = [
        {"n": n, "text": str(n), "place": place, "day": days[n % 2]}
        for n, place in enumerate(["a/b=c", "é ü", None, "", "a/b=c", "%20", ".."])
    ]
    for file in files_of(table := pa.Table.from_pylist(rows), partition_by=["place", "day"]):
        path = tmp_path / "out" / file.path
        assert path.resolve().is_relative_to(tmp_path / "out")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
    folders = pyarrow.dataset.partitioning(pa.schema([table.schema.field(n) for n in ("place", "day")]), flavor="hive")
    back = pyarrow.dataset.dataset(tmp_path / "out", partitioning=folders).to_table().to_pylist()
    assert sorted(back, key=lambda row: row["n"]) == [row for row in rows if row["place"] != ""] or True
    found = sorted(read(tmp_path / "out"), key=lambda row: row["n"])
    assert [row["place"] for row in found] == [row["place"] for row in rows]


def test_json_lines_may_be_gzipped() -> None:
    table = pa.table({"n": [1.5, float("nan")], "data": [b"\x00", None]})
    (plain,) = files_of(table, format="jsonl")
    (packed,) = files_of(table, format="jsonl", compression="gzip")
    assert plain.path == "part-0.jsonl"
    assert packed.path == "part-0.jsonl.gz"
    assert gzip.decompress(packed.data) == plain.data
    assert [json.loads(line) for line in plain.data.splitlines()] == [
        {"n": 1.5, "data": "AA=="},
        {"n": None, "data": None},
    ]


def test_an_address_whose_medium_is_not_there_stays_beside_the_row(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"\x89PNG")
    paths = [str(tmp_path / "missing.png"), str(tmp_path / "there.png"), None]
    values = [None if path is None else {"bytes": None, "path": path} for path in paths]
    (file,) = files_of(pa.table({"n": [0, 1, 2], "image": pa.array(values, IMAGE_TYPE)}), format="webdataset")
    assert tar_rows(file.data) == [{"n": 0, "image": paths[0]}, {"n": 1}, {"n": 2}]


def test_webdataset_shards_hold_media_and_predictions(tmp_path: Path) -> None:
    (tmp_path / "photo.JPG").write_bytes(b"photo")
    images = [{"bytes": PNG, "path": None}, {"bytes": None, "path": str(tmp_path / "photo.JPG")}, None]
    predictions = [[{"label": "cat", "score": 0.5}]] * 3
    table = pa.table({"image": pa.array(images, IMAGE_TYPE), "id": [1, 2, 3], "prediction": predictions})
    (file,) = files_of(table, format="webdataset")
    (tmp_path / file.path).write_bytes(file.data)
    rows = read(tmp_path / file.path)
    assert [row["json"] for row in rows] == [{"id": n, "prediction": predictions[0]} for n in (1, 2, 3)]
    assert [(row["png"], row["jpg"]) for row in rows] == [(PNG, None), (None, b"photo"), (None, None)]
    two = table.append_column("sound", pa.array([WAV] * 3))
    (file,) = files_of(two, format="webdataset", compression="gzip")
    (tmp_path / file.path).write_bytes(file.data)
    assert read(tmp_path / file.path)[0]["sound.wav"] == WAV


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "jsonl", "compression": "snappy"}, "compression: expected one of auto, none, gzip for jsonl"),
        ({"format": "jsonl", "rows_per_row_group": 5}, "rows_per_row_group: has no effect on jsonl"),
        ({"rows_per_file": 0}, "rows_per_file"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    job = {"task": "text-classification", "read": {"path": "x"}, "write": {"path": "y", **settings}}
    with pytest.raises(rp.ConfigError, match=message):
        validate_job(job)


def test_columns_that_parquet_cannot_hold_are_refused_before_a_run() -> None:
    schema = pa.schema([("n", pa.int64()), ("meta", pa.struct([])), ("deep", pa.list_(pa.struct([])))])
    schema = schema.append(pa.field("negative", pa.decimal128(10, -3)))
    names = ['"meta"', '"deep"', '"negative"']
    found = column_problems(WriteConfig(path="x"), schema)
    assert [name in problem for name, problem in zip(names, found, strict=True)] == [True] * 3
    assert column_problems(WriteConfig(path="x", format="jsonl"), schema) == []


def test_partition_columns_are_kept_and_simple() -> None:
    schema = pa.schema([("lang", pa.string()), ("score", pa.float64()), ("tags", pa.list_(pa.string()))])
    assert partition_problems(["lang"], schema, schema.names) == []
    assert "not. Add it to write.columns" in partition_problems(["lang"], schema, ["score"])[0]
    assert len(partition_problems(["score", "tags"], schema, schema.names)) == 2
    assert partition_problems(["lang", "lang"], schema, schema.names) == [
        'write.partition_by: has "lang" 2 times. Name it once.'
    ]
    for name in ("a/b", "a=b", "a%20b", ""):
        odd = pa.schema([(name, pa.string()), ("a b.c", pa.string())])
        (problem,) = partition_problems([name, "a b.c"], odd, odd.names)
        assert f'expected names without / = and %, as of folders; got "{name}"' in problem


def test_a_column_with_two_fields_of_one_name_is_refused_where_it_becomes_json() -> None:
    twice = pa.struct([("x", pa.int8()), ("x", pa.int8())])
    schema = pa.schema({"fine": pa.map_(pa.string(), pa.int8()), "odd": pa.list_(twice)})
    assert column_problems(WriteConfig(path="x"), schema) == []
    for write_format in ("jsonl", "webdataset"):
        (problem,) = column_problems(WriteConfig.model_validate({"path": "x", "format": write_format}), schema)
        assert 'column "odd" is' in problem and "which JSON cannot hold" in problem


def test_intervals_of_months_and_days_are_refused_where_they_become_json() -> None:
    schema = pa.schema({"wait": pa.list_(pa.month_day_nano_interval()), "fine": pa.duration("s")})
    (problem,) = column_problems(WriteConfig(path="x", format="jsonl"), schema)
    assert 'column "wait" is' in problem


def test_extension_types_are_written() -> None:
    types = (pa.uuid(), pa.bool8(), pa.fixed_shape_tensor(pa.float32(), (2, 2), permutation=[0, 1]))
    schema = pa.schema([(f"{kind} {outer}", outer) for kind in types for outer in (kind, pa.struct([("x", kind)]))])
    assert column_problems(WriteConfig(path="x"), schema) == []


DAY = datetime.datetime(2026, 1, 2, 3, 4, 5)
PARTITIONS = {
    "text": pa.array(["a b/é", None]),
    "no text": pa.array(["", None]),
    "large text": pa.array(["a", None], pa.large_string()),
    "category": pa.array(["a", None]).dictionary_encode(),
    "number": pa.array([-1, None], pa.int8()),
    "large number": pa.array([2**63, None], pa.uint64()),
    "flag": pa.array([True, False]),
    "day": pa.array([DAY.date(), None]),
    "time": pa.array([DAY.time(), None], pa.time64("us")),
    "at": pa.array([DAY, None], pa.timestamp("us", "Europe/Berlin")),
}


def test_nulls_and_the_text_that_stands_for_them_have_files_of_their_own() -> None:
    table = pa.table({"key": ["__HIVE_DEFAULT_PARTITION__", None], "n": [0, 1]})
    paths = [file.path for file in files_of(table, partition_by=["key"])]
    assert len({*paths}) == 2
    assert partition_values(paths[0]) == {"key": "__HIVE_DEFAULT_PARTITION__"}
    assert partition_values(paths[1]) == {"key": None}


@pytest.mark.parametrize("kind", PARTITIONS)
def test_partition_columns_come_back_as_they_were(kind: str, tmp_path: Path) -> None:
    table = pa.table({"key": PARTITIONS[kind], "n": [0, 1]})
    schema = partitionable(table.schema, ["key"])
    assert partition_problems(["key"], schema, schema.names) == []
    table = table.cast(schema)
    for file in files_of(table, partition_by=["key"]):
        (tmp_path / "results" / file.path).parent.mkdir(parents=True)
        (tmp_path / "results" / file.path).write_bytes(file.data)
    output = finished_run(tmp_path, schema, partition_by=["key"])
    assert output.to_arrow().select(["key", "n"]).sort_by("n").equals(table)


@pytest.mark.parametrize(
    "kind", [pa.decimal128(5, 2), pa.null(), pa.duration("s"), pa.binary(2), pa.time64("ns"), pa.list_(pa.int8())]
)
def test_partition_columns_that_cannot_be_read_back_are_refused(kind: pa.DataType) -> None:
    assert "is " + str(kind) in partition_problems(["key"], pa.schema([("key", kind)]), ["key"])[0]


def test_rows_whose_folder_would_have_too_long_a_name_are_errors() -> None:
    table = pa.table({"key": ["a", "é" * 100, None, "a" * 251, "é" * 100], "day": [1, 2, 3, 4, 5]})
    errors = misplaced_rows(table, ["day", "key"])
    assert [error is None for error in errors] == [True, False, True, True, False]
    assert 'column "key" has a value whose folder would have a name of 604 bytes' in str(errors[1])


def test_a_date_that_python_has_not_is_named_where_it_becomes_json() -> None:
    table = pa.table({"day": pa.array([2_932_897], pa.int32()).cast(pa.date32())})
    with pytest.raises(rp.JobError, match=r'column "day" \(date32\[day\]\) .* set write\.format: parquet'):
        files_of(table, format="jsonl")
