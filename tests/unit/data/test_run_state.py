"""What is left of a run in its folder, whenever its process ends."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyroaring import BitMap64

from ray_pipelines.config import FilesystemConfig, ReadConfig
from ray_pipelines.data.execute import check_schemas
from ray_pipelines.data.files import find_files
from ray_pipelines.data.folder import Folder
from ray_pipelines.data.inventory import Inventory
from ray_pipelines.data.output import MANIFEST, RUN, Output, read_manifest, schema_to_text
from ray_pipelines.data.read import describe_input
from ray_pipelines.data.resume import Commit, Ledger
from ray_pipelines.data.run_state import (
    Run,
    RunRecord,
    check_unchanged,
    clean_up,
    finish_cleaning,
    open_retry,
    open_run,
    read_record,
)
from ray_pipelines.errors import ConfigError, JobError
from ray_pipelines.job_file import validate_job

KEPT = {"results/new.parquet", "dead_letters/new.parquet", "_run/sources-b.parquet", MANIFEST}
REPORTS = {"report.json", "report.html"}
HALVES = {f".{name}.0123abcd.tmp" for name in (MANIFEST, *REPORTS)}
LEFT = {"results/old.parquet", "dead_letters/old.parquet", "_run/sources-a.parquet", "_run/commits/1.json"} | HALVES
RECORD = RunRecord(run_id="new", kind="run", mode="overwrite", prefix="b", attempt=1, configuration={}, versions={})


def manifest_of(run_id: str, sources: str) -> dict[str, Any]:
    files = {"results": ["results/new.parquet"], "dead_letters": ["dead_letters/new.parquet"]}
    return {
        "run_id": run_id,
        "attempt": 1,
        "num_errors": 0,
        "files": files,
        "file_sizes": {name: {"num_rows": 1, "num_bytes": 10} for names in files.values() for name in names},
        "schemas": dict.fromkeys(files, schema_to_text(pa.schema([]))),
        "sources": sources,
        "job": {"write": {}},
    }


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
    for name in REPORTS:
        folder.write(name, b"of the other")
        folder.write(f"_run/{name}", b"new")
    folder.write(".report.json.mine.tmp", b"of somebody")
    folder.write_json(MANIFEST, manifest_of("new", "_run/sources-b.parquet"))
    folder.write_json(RUN, RECORD.model_dump())
    return Output(folder)


def test_a_finished_run_that_is_killed_while_it_cleans_up_is_cleaned_up_by_the_next_command(tmp_path: Path) -> None:
    for num_removed in itertools.count():
        output = finished(Folder(str(tmp_path / str(num_removed))))
        manifest = read_manifest(output.folder)
        assert manifest is not None
        DyingFolder.num_removed = num_removed
        try:
            clean_up(Output(DyingFolder(output.path)), manifest["files"], manifest["sources"])
        except Killed:
            finish_cleaning(output)
            assert output.folder.sizes().keys() == KEPT | REPORTS | {".report.json.mine.tmp"}
            assert {output.folder.read(name) for name in REPORTS} == {b"new"}
        else:
            break
    assert num_removed == len(LEFT) + len(REPORTS) + 1


def opened(path: Path, mode: str, run_id: str) -> Run:
    """A run of the file in `path`, just opened; another is finished there if it has a manifest."""
    write = {"path": str(path / "out"), "mode": mode}
    values = {"task": "text-classification", "inputs": {"text": "n"}, "read": {"path": str(path / "in.parquet")}}
    job = validate_job({**values, "write": write})
    return open_run(job, describe_input(job), {"seed": 0}, Output.of(job), run_id)


def test_a_run_that_overwrites_another_has_no_file_of_the_same_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": ["a"]}), tmp_path / "in.parquet")
    first = opened(tmp_path, "resume", "first")
    first.output.write_json(MANIFEST, manifest_of("first", first.record.sources_file))
    first.output.folder.remove([RUN])
    second = opened(tmp_path, "overwrite", "second")
    assert second.record.prefix != first.record.prefix
    assert opened(tmp_path, "overwrite", "third").record == second.record


def test_a_retry_does_not_drop_an_unfinished_run_that_overwrites(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": ["a"]}), tmp_path / "in.parquet")
    run = opened(tmp_path, "overwrite", "second")
    manifest = manifest_of("first", run.record.sources_file)
    run.output.write_json(MANIFEST, manifest)

    def retry() -> Run:
        return open_retry(manifest, BitMap64([0]), run.inventory, {}, run.output, "retry")

    before = run.output.folder.sizes()
    with pytest.raises(ConfigError, match=rf"unfinished run .* same job .*, or remove .*/out/{RUN} to give it up\.$"):
        retry()
    assert run.output.folder.sizes() == before
    run.output.folder.remove([RUN])
    assert retry().record.kind == "retry"


def test_files_that_change_while_they_are_read_end_a_run_and_a_retry_of_their_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.table({"n": [name]}), tmp_path / f"in-{name}.parquet")
    read = ReadConfig(path=str(tmp_path / "in-*.parquet"))
    inventory = Inventory.of(find_files(read, FilesystemConfig())[1], "parquet", FilesystemConfig())
    folder = Folder(str(tmp_path / "out"))
    run = Run(Output(folder), RECORD, inventory, Ledger(folder))
    pq.write_table(pa.table({"n": ["others", "now"]}), tmp_path / "in-b.parquet")
    (tmp_path / "in-a.parquet").unlink()
    now = find_files(read, FilesystemConfig())[1]
    a, b = (BitMap64([inventory.ids_of_file(source).start]) for source in (0, 1))
    for run.only in (None, b, a | b):
        with pytest.raises(
            JobError, match=r"1 file\(s\) have changed since the run began: .*in-b\.parquet\. Rows of both"
        ):
            check_unchanged(run, now)
    run.only = a
    check_unchanged(run, now)


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
def test_a_damaged_inventory_is_named_and_can_be_left_behind(damage: bytes | None, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": ["a"]}), tmp_path / "in.parquet")
    run = opened(tmp_path, "overwrite", "first")
    run.output.folder.remove([run.record.sources_file])
    if damage is not None:
        run.output.folder.write(run.record.sources_file, damage)
    with pytest.raises(ConfigError, match=rf"{run.record.sources_file}: is .* Remove .*/{RUN} to start anew\.$"):
        opened(tmp_path, "overwrite", "second")
    run.output.folder.remove([RUN])
    assert opened(tmp_path, "overwrite", "third").record.run_id == "third"


def test_an_unfinished_run_and_a_folder_of_somebody_else_are_left_as_they_are(tmp_path: Path) -> None:
    output = finished(Folder(str(tmp_path / "run")))
    output.folder.write_json(RUN, {**RECORD.model_dump(), "run_id": "newer"})
    before = output.folder.sizes()
    finish_cleaning(output)
    assert output.folder.sizes() == before
    finish_cleaning(Output(Folder(str(tmp_path / "nothing"))))
    assert not (tmp_path / "nothing").exists()


DAMAGED_RECORDS = [
    "",
    "[]",
    "null",
    '{"run_id": "newer"}',
    *(json.dumps({**RECORD.model_dump(), **damage}) for damage in ({"attempt": []}, {"configuration": "a"}, {"x": 1})),
]


@pytest.mark.parametrize("damaged", DAMAGED_RECORDS)
def test_a_damaged_record_is_named_and_can_be_left_behind(damaged: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": ["a"]}), tmp_path / "in.parquet")
    run = opened(tmp_path, "resume", "first")
    run.output.folder.write(RUN, damaged.encode())
    for reading in (read_record, finish_cleaning):
        with pytest.raises(
            ConfigError, match=r"out/_run/run\.json: is damaged, or of another program .*to start anew\.$"
        ):
            reading(run.output)
    run.output.folder.remove([RUN])
    assert opened(tmp_path, "resume", "second").record.run_id == "second"


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


def test_what_a_retry_has_written_is_not_dropped_for_one_of_other_settings(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": ["a"]}), tmp_path / "in.parquet")
    run = opened(tmp_path, "resume", "first")
    run.output.folder.remove([RUN])
    manifest = manifest_of("first", run.record.sources_file)

    def retry(seed: int) -> Run:
        return open_retry(manifest, BitMap64([0]), run.inventory, {"seed": seed}, run.output, f"retry {seed}")

    assert retry(0).record.run_id == "retry 0"
    # Nothing is written yet.
    assert retry(1).record.run_id == "retry 1"
    Commit(BitMap64([0]), 0).write(run.output.folder)
    with pytest.raises(ConfigError, match=rf"unfinished retry .*: seed .* same settings, or remove .*/out/{RUN} to"):
        retry(2)
    assert retry(1).ledger.num_rows == 1
