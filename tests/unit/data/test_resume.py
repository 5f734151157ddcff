"""The ledger counts every row once, whatever was committed, and says what is left to read."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import EndpointConnectionError
from pyroaring import BitMap64

from ray_pipelines.config import ReadConfig
from ray_pipelines.data.files import find_files
from ray_pipelines.data.folder import Folder
from ray_pipelines.data.inventory import ROW_BITS, Inventory, source_of
from ray_pipelines.data.lease import LEASE, PATIENCE_S, Lease, hold_lease
from ray_pipelines.data.read import ID_COLUMN, numbered, wanted_rows
from ray_pipelines.data.resume import COMMITS, Commit, Ledger, OutputFile, remaining_units
from ray_pipelines.errors import ConfigError, JobError, StorageError
from ray_pipelines.storage import FilesystemConfig

LOCAL = FilesystemConfig()
PREFIX = "0a1b2c3d"
ELSEWHERE = {"run_id": "far", "token": "x", "machine": "other", "host": "h", "pid": 1, "process_start": "1"}
DAMAGED_COMMITS = [
    *(b"{", b"[]", b"{}", b"\xff\xfe\x00", b'{"rows": "abcd"}'),
    *(
        json.dumps({**json.loads(Commit(BitMap64([2]), 0).to_json()), **wrong}).encode()
        for wrong in ({"num_errors": "a"}, {"results": [[1, 2, 3, 4]]}, {"ends": []}, {"reasons": None})
    ),
]
DAMAGED_LEASES = [b"", b"[]", b"null", b'{"run_id": "a"}', json.dumps({**ELSEWHERE, "pid": []}).encode()]


def folder_of(path: Path) -> Folder:
    return Folder(str(path), LOCAL)


def commit_of(folder: Folder, rows: list[int], prefix: str = PREFIX) -> Commit:
    commit = Commit(BitMap64(rows), num_errors=0)
    path = f"results/part-{prefix}-{commit.name}.parquet"
    folder.write(path, b"some bytes")
    commit = Commit(commit.rows, 0, (OutputFile(path, len(rows), 10),))
    commit.write(folder)
    return commit


def inventory_of(tmp_path: Path, *sizes: int) -> Inventory:
    (tmp_path / "in").mkdir()
    for part, size in enumerate(sizes):
        pq.write_table(pa.table({"n": range(size)}), tmp_path / f"in/{part}.parquet", row_group_size=10)
    read_format, files = find_files(ReadConfig(path=str(tmp_path / "in")), LOCAL)
    return Inventory.of(files, read_format, LOCAL)


def test_overlapping_commits_count_once_and_those_without_files_not_at_all(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    commit_of(folder, [1, 2, 3])
    commit_of(folder, [3, 4])
    lost = commit_of(folder, [7, 8])
    folder.remove([lost.results[0].path])
    ledger = Ledger.read(folder, PREFIX)
    assert set(ledger.done) in ({1, 2, 3}, {3, 4})
    again = Ledger.read(folder, PREFIX)
    assert again.done == ledger.done
    assert not again.add(Commit(BitMap64([2, 3, 4, 9]), 0))
    assert sum(len(commit.rows) for commit in again.commits()) == len(ledger.done)


def test_what_a_task_of_another_run_commits_late_does_not_count(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    commit_of(folder, [1, 2])
    commit_of(folder, [3, 4], prefix="another")
    ledger = Ledger.read(folder, PREFIX)
    assert ledger.done == BitMap64([1, 2])
    assert [commit.rows for commit in ledger.commits()] == [BitMap64([1, 2])]


@pytest.mark.parametrize("damage", DAMAGED_COMMITS)
def test_a_damaged_commit_is_named_and_files_of_others_are_none(damage: bytes, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    commit_of(folder, [1])
    name = f"{COMMITS}/{commit_of(folder, [2]).name}.json"
    for foreign in ("notes.json", "merged-old.json"):
        folder.write(f"{COMMITS}/{foreign}", damage)
    folder.write(name, damage)
    with pytest.raises(ConfigError, match=rf"{name}: is damaged, .*\. Remove it: its rows are read again\.$"):
        Ledger.read(folder, PREFIX)
    folder.remove([name])
    assert Ledger.read(folder, PREFIX).done == BitMap64([1])


def test_merged_commits_are_all_there_after_any_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)
    monkeypatch.setattr("ray_pipelines.data.resume.MERGED_COMMITS", 4)
    ledger = Ledger(folder)
    for block in range(10):
        commit = commit_of(folder, [2 * block, 2 * block + 1])
        assert ledger.add(commit)
    assert len([name for name in folder.sizes(COMMITS) if "merged" not in name]) == 2
    assert Ledger.read(folder, PREFIX).done == BitMap64(range(20))


def test_files_that_are_done_are_not_opened_and_rows_that_are_done_are_left_out(tmp_path: Path) -> None:
    inventory = inventory_of(tmp_path, 25, 25)
    inventory = Inventory.from_bytes(inventory.to_bytes())
    first, second = inventory.ids_of_file(0), inventory.ids_of_file(1)
    ledger = Ledger(folder_of(tmp_path))
    ledger.add(Commit(BitMap64(range(first.start, first.start + 25)), 0))
    scattered = [second.start + row for row in range(0, 25, 2)]
    ledger.add(Commit(BitMap64(scattered), 0))
    (unit,) = remaining_units(inventory, ledger)
    assert unit.planned.source == source_of(second.start) == 1
    table = pa.table({"__row": pa.array(range(25), type=pa.int64())})
    (left,) = wanted_rows(numbered([table], unit.planned), unit)
    assert left[ID_COLUMN].to_pylist() == [second.start + row for row in range(1, 25, 2)]
    ledger.add(Commit(BitMap64(left[ID_COLUMN].to_pylist()), 0))
    assert remaining_units(inventory, ledger) == []
    only = BitMap64([second.start + 3])
    (wanted,) = remaining_units(inventory, Ledger(folder_of(tmp_path)), only)
    (row,) = wanted_rows(numbered([table], wanted.planned), wanted)
    assert row[ID_COLUMN].to_pylist() == list(only)


def test_limit_cuts_the_first_rows_and_always_the_same(tmp_path: Path) -> None:
    inventory = inventory_of(tmp_path, 25, 25).limited(30, pa.schema([("n", pa.int64())]), LOCAL)
    assert inventory.num_rows == 30
    assert [unit.num_rows for unit in inventory.all_units] == [25, 5]
    assert Inventory.from_bytes(inventory.to_bytes()) == inventory


def test_a_commit_of_neighbours_is_small_and_one_of_scattered_rows_two_bytes_a_row() -> None:
    dense = Commit(BitMap64(range(5 << ROW_BITS, (5 << ROW_BITS) + 100_000)), 0)
    scattered = Commit(BitMap64(range(0, 100_000, 7)), 0)
    assert len(dense.to_json()) < 1000
    assert len(scattered.to_json()) < 2.7 * len(scattered.rows)
    assert Commit.from_json(scattered.to_json()) == scattered


def lease_in(folder: Folder) -> dict[str, Any]:
    found = json.loads(folder.read(LEASE) or b"")
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("damage", DAMAGED_LEASES)
def test_a_damaged_lease_is_named(damage: bytes, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    named = rf"{LEASE}: is damaged, or of another program \(.+\)\. Remove it if no other run writes there\.$"
    folder.write(LEASE, damage)
    with pytest.raises(ConfigError, match=named), hold_lease(folder, "next"):
        raise AssertionError
    folder.remove([LEASE])
    with hold_lease(folder, "next") as lease:
        folder.write(LEASE, damage)
        with pytest.raises(ConfigError, match=named):
            lease.renew()
    assert folder.read(LEASE) == damage


def test_lease_of_a_living_process_is_kept_and_that_of_a_dead_one_taken(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    first, second = hold_lease(folder, "first"), hold_lease(folder, "second")
    with first, pytest.raises(ConfigError, match="being written to by run first"), second:
        raise AssertionError
    assert folder.read(LEASE) is None
    with hold_lease(folder, "dead"):
        left = lease_in(folder)
    folder.write_json(LEASE, {**left, "pid": 1 << 22, "process_start": "1"})
    with hold_lease(folder, "heir") as lease:
        assert lease.is_mine()


def test_lease_of_another_machine_is_taken_only_if_it_is_not_renewed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    elsewhere = {**ELSEWHERE, "renewals": 1}
    folder.write_json(LEASE, elsewhere)
    with hold_lease(folder, "here", sleep=lambda seconds: None):
        pass
    folder.write_json(LEASE, elsewhere)

    def renewed(seconds: float) -> None:
        folder.write_json(LEASE, {**elsewhere, "renewals": 2})

    with pytest.raises(ConfigError, match="run far"), hold_lease(folder, "here", sleep=renewed):
        raise AssertionError


def test_run_that_lost_its_lease_gives_up(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with hold_lease(folder, "paused") as lease:
        folder.write_json(LEASE, {**ELSEWHERE, "run_id": "heir"})
        assert not lease.is_mine()
        with pytest.raises(Exception, match="taken over by run heir"):
            lease.check()
    assert folder.read(LEASE) is not None


class Store(Folder):
    """A folder in a store that cannot be reached at times."""

    is_away = False

    def _filesystem(self) -> tuple[Any, str]:
        if type(self).is_away:
            raise EndpointConnectionError(endpoint_url="http://store")
        return super()._filesystem()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield Store(str(tmp_path), LOCAL)
    Store.is_away = False


def test_renewals_go_on_after_the_store_was_away(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_pipelines.data.lease.RENEWAL_S", 0.001)
    lease = Lease(store, "run")
    lease.write()
    Store.is_away = True
    thread = threading.Thread(target=lease.renew_until_released, daemon=True)
    thread.start()
    thread.join(timeout=0.1)
    lost = (tmp_path / LEASE).read_bytes()
    Store.is_away = False
    deadline = time.monotonic() + 60
    while (tmp_path / LEASE).read_bytes() == lost and time.monotonic() < deadline:
        time.sleep(0.001)
    assert thread.is_alive() and (tmp_path / LEASE).read_bytes() != lost
    Store.is_away = True
    lease.release()
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [StorageError, KeyboardInterrupt])
def test_lease_that_could_not_be_removed_is_taken_by_the_next_run_of_the_process(
    error: type[BaseException], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(self: Folder, names: Iterable[str]) -> None:
        raise error

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt), hold_lease(store, "cut off"):
        patch.setattr(Folder, "remove", remove)
    assert lease_in(store)["run_id"] == "cut off"
    early = hold_lease(store, "too early")
    with hold_lease(store, "next"), pytest.raises(ConfigError, match="written to by run next"), early:
        raise AssertionError
    assert store.read(LEASE) is None


def test_of_two_runs_that_start_at_the_same_moment_one_gets_the_folder(tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def hold(folder: Folder, run_id: str) -> str:
        together.wait()
        try:
            with hold_lease(folder, run_id):
                time.sleep(0.3)
                return "held"
        except ConfigError:
            return "refused"

    with ThreadPoolExecutor(2) as threads:
        for attempt in range(5):
            folder = Folder.of(f"{tmp_path}/{attempt}", LOCAL)
            assert sorted(threads.map(hold, [folder] * 2, ["one", "other"])) == ["held", "refused"]


def test_lease_that_is_stopped_while_it_is_taken_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)
    monkeypatch.setattr(Folder, "is_local", False)

    def stopped(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), hold_lease(folder, "stopped", sleep=stopped):
        raise AssertionError
    assert folder.read(LEASE) is None


def test_lease_that_is_old_is_renewed_before_the_run_goes_on(store: Store) -> None:
    now = 0.0
    lease = Lease(store, "run", clock=lambda: now)
    lease.write()
    Store.is_away = True
    now = PATIENCE_S - 1
    lease.check()
    now = PATIENCE_S + 1
    with pytest.raises(StorageError, match=r"renewed for 16 s: .*lease\.json cannot be read: Could not connect"):
        lease.check()
    Store.is_away = False
    lease.check()
    assert lease_in(store)["renewals"] == 2
    now += PATIENCE_S + 1
    store.remove([LEASE])
    with pytest.raises(JobError, match=r"was taken over by run that has ended, as"):
        lease.check()


def test_local_files_are_never_seen_half_written(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.write("a/b.json", b"1")
    folder.write("a/b.json", b"22")
    assert folder.sizes() == {"a/b.json": 2}


def test_names_that_were_left_out_outlive_an_interruption(tmp_path: Path) -> None:
    folder = Folder.of(str(tmp_path), LOCAL)
    for row in range(3):
        Commit(BitMap64([row]), 0, left_out={"new": 1, f"own {row}": 1}).write(folder)
    found = Ledger.read(folder, PREFIX).counters.left_out
    assert found == Ledger.read(folder, PREFIX).counters.left_out == {"new": 3, "own 0": 1, "own 1": 1, "own 2": 1}
