"""What a job reads, and why it does not."""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines import data
from ray_pipelines.data.formats import read_units, units_of_file
from ray_pipelines.data.read import INTERNAL_COLUMNS, Input, describe_input
from ray_pipelines.job_file import validate_job
from tests.tables import write_table


def described(path: Path, task: str = "text-classification", **settings: Any) -> Input:
    job = {"task": task, "read": {"path": str(path / "in")}, "write": {"path": str(path / "out")}, **settings}
    return describe_input(validate_job(job))


def write(path: Path, **columns: Any) -> None:
    (path / "in").mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": ["a"], **columns}), path / "in/a.parquet")


def test_a_file_whose_name_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "in/a.parquet").rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.parquet"))
    with pytest.raises(rp.ConfigError, match=r"^read\.path: expected names in UTF-8; got .*caf\\xe9\.parquet\."):
        described(tmp_path)


def test_a_file_whose_only_column_is_that_of_its_folder_has_its_rows(tmp_path: Path) -> None:
    (tmp_path / "in/text=of folder").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "in/text=of folder/a.parquet")
    source = described(tmp_path)
    (unit,) = units_of_file(source.files[0], source.read_format, source.filesystem)
    (table,) = read_units([unit], source.read_format, source.schema, 10, source.filesystem)
    assert table["text"].to_pylist() == ["of folder"] * 2


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "arrow"])
def test_rows_of_which_no_column_is_wanted_are_read_all_the_same(ending: str, tmp_path: Path) -> None:
    write_table(pa.table({"n": [1, 2], "m": [3, 4]}), tmp_path / f"in/text=a/0.{ending}")
    for inputs in ({"text": "text"}, {"text": {"constant": "a"}}):
        source = described(tmp_path, inputs=inputs, write={"path": str(tmp_path / "out"), "columns": []})
        assert source.kept_columns == () and "n" in source.dropped_columns and "m" not in source.schema.names
        (unit,) = units_of_file(source.files[0], source.read_format, source.filesystem)
        tables = read_units([unit], source.read_format, source.schema, 10, source.filesystem)
        assert sum(table.num_rows for table in tables) == 2


@pytest.mark.parametrize("name", INTERNAL_COLUMNS)
def test_a_column_with_a_name_of_this_package_is_refused_unless_it_is_left_out(name: str, tmp_path: Path) -> None:
    write(tmp_path, **{name: [1], "__mine": [2]})
    with pytest.raises(rp.ConfigError, match=f'^read.path: the dataset has a column "{name}", .* write.columns.$'):
        described(tmp_path)
    write_settings = {"path": str(tmp_path / "out"), "columns": ["text", "__mine"]}
    assert described(tmp_path, write=write_settings).schema.names == ["text", "__mine"]


def test_all_columns_of_this_package_are_known_as_such() -> None:
    modules = [importlib.import_module(f"{data.__name__}.{one.name}") for one in pkgutil.iter_modules(data.__path__)]
    columns = {value for module in modules for name, value in vars(module).items() if name.endswith("_COLUMN")}
    assert {column for column in columns if column.startswith("__")} == {*INTERNAL_COLUMNS}


def test_the_hidden_column_of_a_task_is_no_name_for_a_column(tmp_path: Path) -> None:
    write(tmp_path, image=[b"1"], question=["q"], __words=["w"])
    with pytest.raises(rp.ConfigError, match=r'^read\.path: the dataset has a column "__words"'):
        described(tmp_path, task="document-question-answering")


def test_a_folder_whose_value_does_not_fit_is_refused_only_where_its_column_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "in/year=unknown").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a"], "year": [2026]}), tmp_path / "in/year=unknown/a.parquet")
    with pytest.raises(rp.ConfigError, match=r"the folder year=unknown does not fit the column 'year'"):
        described(tmp_path)
    read_settings = {"path": str(tmp_path / "in"), "columns": ["text"]}
    assert described(tmp_path, read=read_settings).schema.names == ["text"]


@pytest.mark.parametrize(("name", "where"), [("prediction", "output_column"), ("error", "read.path")])
def test_a_column_in_the_place_of_a_result_may_be_left_out_unless_it_is_read(
    name: str, where: str, tmp_path: Path
) -> None:
    write(tmp_path, **{name: ["b"]})
    refused = rf'{where}: .* column "{name}".* Rename it'
    with pytest.raises(rp.ConfigError, match=rf"{refused}, .*leave it out with write\.columns"):
        described(tmp_path)
    left_out = {"write": {"path": "out", "columns": ["text"]}}
    assert described(tmp_path, **left_out).schema.names == ["text"]
    with pytest.raises(rp.ConfigError, match=rf"{refused}(\.|, or choose)"):
        described(tmp_path, inputs={"text": name}, **left_out)


def test_files_without_a_column_are_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").touch()
    with pytest.raises(rp.ConfigError, match=r"read\.path: no file .* has a column, such as .*a\.jsonl\. Is it"):
        described(tmp_path)
