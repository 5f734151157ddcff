"""Jobs whose rows run on the replicas of a Serve application."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

import ray_pipelines as rp
from ray_pipelines.errors import ConfigError, JobError
from ray_pipelines.job_file import validate_job
from tests.cases.media import TEXTS
from tests.closeness import assert_close
from tests.integration.serve.applications import deploy, remove
from tests.integration.serve.load import NUM_CLIENTS, RETRIABLE, Load

pytestmark = pytest.mark.usefixtures("serve_url")
Model = Callable[[str], str]
NUM_ROWS = 600


@pytest.fixture(scope="module")
def shared(serve_url: str, model: Model) -> Iterator[str]:
    """An application of two replicas, of which one row kills whichever has it."""
    deploy("shared", model("bert-classifier"), replicas=2)
    yield f"{serve_url}/shared"
    remove("shared")


def job_of(folder: Path, model_folder: str, **values: Any) -> rp.Job:
    settings = {
        "task": "text-classification",
        "model": model_folder,
        "parameters": {"top_k": 1},
        "read": {"path": str(folder / "in.jsonl"), "rows_per_block": 100},
        "write": {"path": str(folder / "out")},
        "workers": "serve://shared",
        **values,
    }
    return validate_job(settings)


def write_rows(folder: Path, num_rows: int, text: str = "", **special: str) -> list[str]:
    texts = [special.get(f"row_{n}", f"{text}{n} {TEXTS[n % 8][:30]}") for n in range(num_rows)]
    lines = [json.dumps({"n": n, "text": text}) for n, text in enumerate(texts)]
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    return texts


def read_folder(folder: Path) -> list[dict[str, Any]]:
    files = sorted(str(path) for path in folder.glob("*"))
    return pyarrow.dataset.dataset(files).to_table().to_pylist() if files else []


def kill_replica(name: str = "shared") -> None:
    """Kills the process of one replica of an application."""
    from ray import serve

    os.kill(serve.get_app_handle(name).describe.remote().result()["pid"], signal.SIGKILL)


def test_a_job_on_replicas_gives_what_workers_of_its_own_would(shared: str, model: Model, tmp_path: Path) -> None:
    texts = write_rows(tmp_path, NUM_ROWS)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('{"n": 600, "text": null}\n{"n": 601, "te\n')
    report = rp.run_job(job_of(tmp_path, model("bert-classifier"))).report
    assert report.counts() == {"num_rows": 602, "num_results": 600, "num_errors": 2}
    assert report.provenance["workers"] == "serve://shared"
    results = sorted(read_folder(tmp_path / "out/results"), key=lambda row: row["n"])
    assert [row["n"] for row in results] == list(range(600))
    expected = rp.pipeline("text-classification", model=model("bert-classifier"), top_k=1).run(texts[:40])
    assert_close([row["prediction"] for row in results[:40]], expected)
    letters = {letter["row"]: letter["stage"] for letter in read_folder(tmp_path / "out/dead_letters")}
    assert letters == {600: "decode", 601: "read"}


def test_a_dataset_on_replicas_keeps_its_order_and_columns(shared: str, model: Model) -> None:
    import ray

    spec = rp.pipeline("text-classification", model=model("bert-classifier"), top_k=2, workers="serve://shared")
    rows = [{"n": n, "review": None if n == 3 else TEXTS[n % 8]} for n in range(20)]
    made = spec(ray.data.from_items(rows, override_num_blocks=1), text="review").take_all()
    assert [row["n"] for row in made] == list(range(20))
    assert made[3]["prediction"] is None and made[3]["error"]["type"] == "InvalidInput"
    assert {len(row["prediction"]) for row in made if row["n"] != 3} == {2}


def test_what_a_program_has_runs_on_replicas_too(shared: str, model: Model) -> None:
    settings: dict[str, Any] = {"model": model("bert-classifier"), "top_k": 1}
    expected = rp.pipeline("text-classification", **settings).run(TEXTS)
    spec = rp.pipeline("text-classification", **settings, workers="serve://shared")
    assert_close(spec.map(TEXTS, progress=False), expected)
    assert_close(list(spec.map(iter(TEXTS), progress=False)), expected)


def test_replicas_that_are_killed_lose_no_row_and_double_none(shared: str, model: Model, tmp_path: Path) -> None:
    write_rows(tmp_path, 2000)
    stop = threading.Event()

    def kill() -> None:
        for _ in range(2):
            if stop.wait(1.0):
                return
            kill_replica()

    killer = threading.Thread(target=kill)
    job = job_of(tmp_path, model("bert-classifier"))
    with Load(shared) as load:
        killer.start()
        report = rp.run_job(job).report
        stop.set()
        killer.join()
        load.wait_for(20)
    assert load.failed.total() <= 2 * NUM_CLIENTS, "what was in flight, and nothing else"
    assert set(load.failed) <= RETRIABLE
    assert report.counts() == {"num_rows": 2000, "num_results": 2000, "num_errors": 0}
    assert sorted(row["n"] for row in read_folder(tmp_path / "out/results")) == list(range(2000))


def test_a_row_that_kills_replicas_is_a_dead_letter_and_its_neighbours_have_results(
    shared: str, model: Model, tmp_path: Path
) -> None:
    write_rows(tmp_path, 300, row_150="deadly")
    report = rp.run_job(job_of(tmp_path, model("bert-classifier"))).report
    assert report.counts() == {"num_rows": 300, "num_results": 299, "num_errors": 1}
    (letter,) = read_folder(tmp_path / "out/dead_letters")
    assert (letter["row"], letter["error_type"]) == (150, "WorkerKilled")


@pytest.mark.parametrize("event", ["recreated", "redeployed"])
def test_a_job_goes_on_when_its_application_is(event: str, serve_url: str, model: Model, tmp_path: Path) -> None:
    folder = model("bert-classifier")
    deploy("other", folder)
    write_rows(tmp_path, 2000, "slow ")
    happened = threading.Event()

    def on_progress(progress: Any) -> None:
        if progress.num_rows and not happened.is_set():
            happened.set()
            if event == "recreated":
                remove("other")
            deploy("other", folder, slice_budget_ms=10)

    job = job_of(tmp_path, folder, workers="serve://other")
    with Load(f"{serve_url}/other") as load:
        report = rp.run_job(job, on_progress).report
        load.wait_for(20)
    assert happened.is_set()
    assert event == "recreated" or not load.failed, "a rolling update loses no request"
    assert report.counts() == {"num_rows": 2000, "num_results": 2000, "num_errors": 0}
    assert sorted(row["n"] for row in read_folder(tmp_path / "out/results")) == list(range(2000))


def test_a_job_whose_application_goes_ends_with_a_clear_error_and_resumes(
    serve_url: str, model: Model, tmp_path: Path
) -> None:
    folder = model("bert-classifier")
    deploy("other", folder)
    # More rows than are sent at a time: those that a replica has, it answers before it goes.
    write_rows(tmp_path, 6000, "slow ")
    job = job_of(tmp_path, folder, workers={"serve": "other", "serve_wait_s": 2})
    gone = threading.Event()

    def on_progress(progress: Any) -> None:
        if progress.num_rows and not gone.is_set():
            gone.set()
            remove("other")

    with pytest.raises(JobError, match="the application 'other' is gone since"):
        rp.run_job(job, on_progress)
    with pytest.raises(ConfigError, match="there is no application 'other'"):
        rp.run_job(job)
    deploy("other", folder)
    assert rp.run_job(job).report.counts() == {"num_rows": 6000, "num_results": 6000, "num_errors": 0}
    assert sorted(row["n"] for row in read_folder(tmp_path / "out/results")) == list(range(6000))
    remove("other")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": "serve://shred"}, "there is no application 'shred'. Did you mean \"shared\"?"),
        ({"task": "fill-mask"}, "shared serves text-classification; the job asks for fill-mask"),
        ({"model": "bert-nli"}, "expected shared to have the job's model; model.name is"),
        ({"optimize": {"packed": True}}, 'optimize is ["packed"], shared has []'),
    ],
)
def test_an_application_that_will_not_do_is_refused_with_the_difference(
    values: dict[str, Any], message: str, shared: str, model: Model, tmp_path: Path
) -> None:
    write_rows(tmp_path, 3)
    folder = model(values.pop("model", "bert-classifier"))
    values.setdefault("parameters", {})
    with pytest.raises(ConfigError, match=re.escape(message)):
        rp.run_job(job_of(tmp_path, folder, **values))
