"""The output of a run, as tables of other libraries."""

from __future__ import annotations

import datetime
import decimal
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.arrow import IMAGE_TYPE
from ray_pipelines.config import FilesystemConfig, WriteConfig
from ray_pipelines.data.folder import Folder
from ray_pipelines.data.output import Output, RunOutput, schema_to_text
from ray_pipelines.data.resume import OutputFile
from ray_pipelines.data.sinks import Sink

PREDICTION = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))
RESULTS = pa.table(
    {
        "id": [3, 1, 2],
        "prediction": pa.array([[{"label": "a", "score": 0.5}], [], [{"label": "b", "score": 1.0}]], type=PREDICTION),
    }
)
DEAD_LETTERS = pa.table({"row": [7], "message": ["text: expected a value; got null."]})


REST_OF_MANIFEST = {"run_id": "a run", "attempt": 1, "num_errors": 0, "sources": "_run/sources-0.parquet"}


def finished_run(path: Path, schema: pa.Schema, **settings: Any) -> rp.RunOutput:
    """The output in `path`, of whose results all files belong to a finished run."""
    files = sorted(file for file in (path / "results").rglob("*") if file.is_file())
    manifest = {
        **REST_OF_MANIFEST,
        "files": {"results": [str(file.relative_to(path)) for file in files], "dead_letters": []},
        "schemas": {"results": schema_to_text(schema), "dead_letters": schema_to_text(DEAD_LETTERS.schema)},
        "file_sizes": {
            str(file.relative_to(path)): {"num_rows": 0, "num_bytes": file.stat().st_size} for file in files
        },
        "job": {"write": settings},
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return rp.read_output(str(path))


@pytest.fixture
def output(tmp_path: Path) -> rp.RunOutput:
    """A finished run of two files of results, beside one that the manifest does not name."""
    for name, table in {
        "results/part-0.parquet": RESULTS.slice(0, 2),
        "results/part-1.parquet": RESULTS.slice(2),
        "results/stray.parquet": RESULTS,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / name)
    (tmp_path / "dead_letters").mkdir()
    pq.write_table(DEAD_LETTERS, tmp_path / "dead_letters/part-0.parquet")
    files = {
        "results": ["results/part-0.parquet", "results/part-1.parquet"],
        "dead_letters": ["dead_letters/part-0.parquet"],
    }
    manifest = {
        **REST_OF_MANIFEST,
        "files": files,
        "file_sizes": {name: {"num_rows": 1, "num_bytes": 10} for names in files.values() for name in names},
        "schemas": {"results": schema_to_text(RESULTS.schema), "dead_letters": schema_to_text(DEAD_LETTERS.schema)},
        "job": {"write": {}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return rp.read_output(str(tmp_path))


def test_results_are_the_files_of_the_manifest_as_arrow_pandas_and_datasets(output: rp.RunOutput) -> None:
    assert output.to_arrow().equals(RESULTS)
    frame = output.to_pandas()
    assert frame["id"].tolist() == [3, 1, 2]
    assert list(frame["prediction"][2]) == [{"label": "b", "score": 1.0}]
    dataset = output.to_datasets()
    assert dataset[0] == {"id": 3, "prediction": [{"label": "a", "score": 0.5}]}
    assert dataset["id"][:] == [3, 1, 2]


def test_files_are_what_pyarrow_takes(output: rp.RunOutput) -> None:
    for path in (output.path, f"file://{output.path}"):
        files = rp.read_output(path).files()
        assert files == [f"{output.path}/results/part-{index}.parquet" for index in range(2)]
        assert pyarrow.dataset.dataset(files).to_table().equals(RESULTS)


def test_dead_letters_and_chosen_columns(output: rp.RunOutput) -> None:
    assert output.to_pandas("dead_letters")["row"].tolist() == [7]
    assert output.to_datasets("dead_letters").column_names == ["row", "message"]
    assert output.to_arrow(columns=["id"]).equals(RESULTS.select(["id"]))
    assert output.to_pandas(columns=["prediction"]).columns.tolist() == ["prediction"]


def test_column_that_is_not_there_is_refused_with_the_one_that_is_meant(output: rp.RunOutput) -> None:
    with pytest.raises(rp.ConfigError, match=r'no column "predictions".*prediction.*It has: id, prediction'):
        output.to_arrow(columns=["id", "predictions"])


@pytest.mark.parametrize("name", ["results/mine.txt", "manifest.json", "mine.txt"])
def test_files_of_others_are_not_taken_for_those_of_a_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"name": "of another program", "files": []}')
    for mode in ("resume", "overwrite"):
        (problem,) = Output(Folder(str(tmp_path))).problems(mode)
        assert f"holds files that no run has written ({name.split('/')[0]})" in problem
    with pytest.raises(rp.ConfigError, match="expected the output of a finished run; found no manifest"):
        rp.read_output(str(tmp_path))


def test_no_rows_of_extension_types_are_an_empty_table(tmp_path: Path) -> None:
    schema = pa.schema([("input", pa.struct([("x", pa.uuid())]))])
    assert finished_run(tmp_path, schema).to_arrow().equals(pa.table({"input": pa.nulls(0, schema.types[0])}))


DAY = datetime.datetime(2026, 1, 2, 3, 4, 5, 6)
ODD = pa.table(
    {
        "text": ["2024-01-01T00:00:00Z", None],
        "long": ["x" * 3_000_000] * 2,
        "small": pa.array([1, None], pa.int32()),
        "score": pa.array([0.1, None], pa.float32()),
        "half": pa.array([np.float16(0.5), None], pa.float16()),
        "map": pa.array([[("k", 1), ("l", None)], None], pa.map_(pa.string(), pa.int64())),
        "day": pa.array([DAY.date(), None]),
        "time": pa.array([DAY.time(), None], pa.time64("us")),
        "at": pa.array([DAY, None], pa.timestamp("us", "Europe/Berlin")),
        "took": pa.array([datetime.timedelta(days=1, microseconds=5), None]),
        "price": pa.array([decimal.Decimal("1.50"), None]),
        "kind": pa.array(["a", None]).dictionary_encode(),
        "image": pa.array([{"bytes": b"\x00\xff", "path": None}, None], IMAGE_TYPE),
        "vector": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
        "days": pa.array([[DAY.date()], []], pa.large_list(pa.date32())),
        "large": pa.array([2**63 + 1, None], pa.uint64()),
        "key": pa.array([1, None], pa.int16()),
    }
)


@pytest.mark.parametrize("partition_by", [[], ["key"]])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_json_lines_come_back_with_the_types_of_the_run(
    compression: str, partition_by: list[str], tmp_path: Path
) -> None:
    config = WriteConfig.model_validate(
        {"path": "x", "format": "jsonl", "compression": compression, "partition_by": partition_by}
    )
    for file in Sink(config, FilesystemConfig()).results(ODD, "part-0", "{}"):
        (tmp_path / "results" / file.path).parent.mkdir(parents=True)
        (tmp_path / "results" / file.path).write_bytes(file.data)
    output = finished_run(tmp_path, ODD.schema, partition_by=partition_by)
    assert output.to_arrow().select(ODD.schema.names).sort_by("small").equals(ODD)
    assert output.to_arrow(columns=["map", "key"]).schema.types == [ODD.schema.field("map").type, pa.int16()]


def test_old_zones_nanoseconds_and_tensors_come_back_from_json_lines(tmp_path: Path) -> None:
    tensors = pa.array([[1.0, 2.0, 3.0, 4.0], None], pa.fixed_shape_tensor(pa.float32(), (2, 2)))
    took = pa.array([5, None], pa.duration("ns"))
    table = pa.table(
        {
            "old": pa.array([datetime.datetime(1880, 1, 1), None], pa.timestamp("us", "Europe/Berlin")),
            "at": pa.array([1_700_000_000_000_000_007, None], pa.timestamp("ns")),
            "zoned": pa.array([1_700_000_000_000_000_007, None], pa.timestamp("ns", "Asia/Kolkata")),
            "took": took,
            "uuid": pa.array([b"0123456789abcdef", None], pa.uuid()),
            "tensor": tensors,
            "uuids": pa.ListArray.from_arrays([0, 1, 1], pa.array([b"0123456789abcdef"], pa.uuid())),
            "deep": pa.StructArray.from_arrays([tensors, took], ["tensor", "took"]),
            "map": pa.array([[("k", 3)], None], pa.map_(pa.string(), pa.duration("ns"))),
            "fixed": pa.array([[1, 2], None], pa.list_(pa.duration("ns"), 2)),
            "hour": pa.array([86_399_999_999_999, None], pa.time64("ns")),
            "hours": pa.array([[{"at": 7}], None], pa.list_(pa.struct([("at", pa.time64("ns"))]))),
            "ats": pa.array([[1, None], None], pa.list_(pa.timestamp("ns", "UTC"))),
        }
    )
    (file,) = Sink(WriteConfig(path="x", format="jsonl"), FilesystemConfig()).results(table, "part-0", "{}")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / file.path).write_bytes(file.data)
    output = finished_run(tmp_path, table.schema)
    for name in table.column_names:
        assert output.to_arrow(columns=[name])[name].equals(table[name]), name
    assert b'"uuid": "30313233-3435-3637-3839-616263646566"' in file.data
    assert b'"old": "1880-01-01T00:00:00+00:00"' in file.data
    assert b'"at": "2023-11-14T22:13:20.000000007"' in file.data


def test_json_lines_are_parsed_file_by_file_whether_gzipped_or_not(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    files, values = [], [["short"] * 200_000, ["é" * 1_000_000, "short"], ["short"] * 150_000]
    for index, texts in enumerate(values):
        config = WriteConfig(path="x", format="jsonl", compression="gzip" if index else "none")
        (file,) = Sink(config, FilesystemConfig()).results(pa.table({"text": texts}), f"part-{index}", "{}")
        (tmp_path / "results" / file.path).write_bytes(file.data)
        files.append(OutputFile(f"results/{file.path}", file.num_rows, len(file.data), file.unzipped_bytes))
    old = finished_run(tmp_path, pa.schema([("text", pa.string())]))
    output = RunOutput(old.folder, {**old.manifest, "file_sizes": {file.path: file.sizes() for file in files}})
    names = output.manifest["files"]["results"]
    largest = len('{"text": "short"}\n') * 200_000
    assert (old._block_bytes(names), output._block_bytes(names), output._block_bytes(names[1:])) == (
        512 << 20,
        largest,
        len('{"text": "short"}\n') * 150_000,
    )
    assert output.to_arrow()["text"].to_pylist() == [text for texts in values for text in texts]


DAMAGES: dict[str, Any] = {
    "files": [],
    "files ": {"results": []},
    "schemas": {"results": "no schema", "dead_letters": ""},
    "file_sizes": {},
    "job": {"write": []},
    "num_errors": None,
    "run_id": 5,
    "runs": 1,
}


@pytest.mark.parametrize("key", [*DAMAGES, "half", "list", "nothing"])
def test_a_damaged_manifest_is_named(key: str, output: rp.RunOutput) -> None:
    texts = {"half": '{"files"', "list": "[]", "nothing": ""}
    values = {**output.manifest, key.strip(): DAMAGES.get(key)}
    Path(output.path, "manifest.json").write_text(texts.get(key, json.dumps(values)))
    named = r"/manifest\.json: is damaged, or of another program \(.+\)\. Put it back as it was, or remove it and run"
    with pytest.raises(rp.ConfigError, match=named):
        rp.read_output(output.path)
    for mode in ("resume", "overwrite"):
        (problem,) = Output(output.folder).problems(mode)
        assert re.search(named, problem) and "\n" not in problem
