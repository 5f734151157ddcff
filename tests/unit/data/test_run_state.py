"""What is left of a run in its folder, whenever its process ends."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from ray_pipelines.data.execute import check_schemas
from ray_pipelines.data.folder import Folder
from ray_pipelines.data.inventory import Inventory
from ray_pipelines.data.output import MANIFEST, RUN, Output, schema_to_text
from ray_pipelines.data.resume import Ledger
from ray_pipelines.data.run_state import Run, RunRecord, clean_up, finish_cleaning, read_record
from ray_pipelines.errors import ConfigError

KEPT = {"results/new.parquet", "dead_letters/new.parquet", "_run/sources-b.parquet", MANIFEST}
LEFT = {"results/old.parquet", "dead_letters/old.parquet", "_run/sources-a.parquet", "_run/commits/1.json"}
RECORD = RunRecord("new", "run", "overwrite", "b", 1, configuration={}, versions={})


class Killed(Exception):
    pass


class DyingFolder(Folder):
    """A folder whose process is killed before it removes one more file than `num_removed`."""

    num_removed = 0

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            if type(self).num_removed == 0:
                raise Killed
            type(self).num_removed -= 1
            super().remove([name])


def finished(folder: Folder) -> Output:
    """The folder of a run that has just written its manifest over that of another."""
    for name in (KEPT | LEFT) - {MANIFEST}:
        folder.write(name, b"some bytes")
    files = {"results": ["results/new.parquet"], "dead_letters": ["dead_letters/new.parquet"]}
    folder.write_json(MANIFEST, {"run_id": "new", "files": files, "sources": "_run/sources-b.parquet"})
    folder.write_json(RUN, dataclasses.asdict(RECORD))
    return Output(folder)


def test_a_finished_run_that_is_killed_while_it_cleans_up_is_cleaned_up_by_the_next_command(tmp_path: Path) -> None:
    for num_removed in itertools.count():
        output = finished(Folder(str(tmp_path / str(num_removed))))
        manifest = output.folder.read_json(MANIFEST)
        assert manifest is not None
        DyingFolder.num_removed = num_removed
        try:
            clean_up(Output(DyingFolder(output.path)), manifest["files"], manifest["sources"])
        except Killed:
            finish_cleaning(output)
            assert output.folder.sizes().keys() == KEPT
        else:
            break
    assert num_removed == len(LEFT) + 1


def test_an_unfinished_run_and_a_folder_of_somebody_else_are_left_as_they_are(tmp_path: Path) -> None:
    output = finished(Folder(str(tmp_path / "run")))
    output.folder.write_json(RUN, {"run_id": "newer"})
    before = output.folder.sizes()
    finish_cleaning(output)
    assert output.folder.sizes() == before
    with pytest.raises(ConfigError, match=r"_run/run\.json is of another version of this package"):
        read_record(output)
    finish_cleaning(Output(Folder(str(tmp_path / "nothing"))))
    assert not (tmp_path / "nothing").exists()


def test_retry_whose_results_would_differ_names_the_column() -> None:
    then, now = (
        {"results": schema_to_text(pa.schema([("id", pa.int64()), ("prediction", pa.list_(kind))]))}
        for kind in (pa.float32(), pa.string())
    )
    folder, manifest = Folder("/out"), {"schemas": then}
    run = Run(Output(folder), RECORD, Inventory("parquet", (), ()), Ledger(folder), base_manifest=manifest)
    check_schemas(run, then)
    with pytest.raises(ConfigError, match=r'prediction was "list<.*float>", is "list<.*string>"\. Drop') as raised:
        check_schemas(run, now)
    assert "id was" not in str(raised.value)
