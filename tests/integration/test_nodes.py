"""Jobs on a cluster of several nodes: what runs where, what each node loads, nodes that go and nodes that come.

Each node has a hub cache of its own, as machines have. The GPU is one that only Ray knows of.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.job_file import validate_job
from tests.closeness import assert_close
from tests.hub_server import HubServer, hub_server
from tests.machine import free_port, inherited
from tests.ray_nodes import GO, WAITING, RayNode, wait_until

# Up to five nodes share what processors this machine has with the tests beside them.
pytestmark = pytest.mark.timeout(600)
Model = Callable[[str], str]
ROOT = Path(__file__).parents[2]
NUM_ROWS = 200
TEXTS = [f"row {n}" for n in range(NUM_ROWS)]


def connect(environment: dict[str, str]) -> None:
    """Makes this process the driver of a cluster's jobs."""
    os.environ.clear()
    os.environ.update(environment)
    import ray

    ray.init(address=environment["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.ERROR)


def run(values: dict[str, Any]) -> dict[str, int]:
    """Runs a job, in the driver's process."""
    return rp.run_job(validate_job(values)).report.counts()


class Cluster:
    """A head that takes no work, a node of CPUs and one with a GPU, and a process that runs jobs on them.

    Args:
        folder: Of all of its files.
        hub: Where nodes find models.
    """

    def __init__(self, folder: str, hub: HubServer) -> None:
        self.folder, self.hub = Path(folder), hub
        self.notes = self.folder / "notes"
        self.notes.mkdir()
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.nodes: dict[str, RayNode] = {}
        self.driver = ProcessPoolExecutor(1, get_context("spawn"), connect, (self.environment("driver"),))

    def start_all(self) -> None:
        self.start("head", "--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=0")
        self.start("cpu", "--num-cpus=3", "--labels=pool=cpu", '--resources={"disk": 1}')
        self.start("gpu", "--num-cpus=2", "--num-gpus=1", "--labels=pool=gpu", '--resources={"accelerator_type:L4": 1}')

    def environment(self, name: str) -> dict[str, str]:
        return inherited("RAY_", "CUDA_VISIBLE_DEVICES", "HF_") | {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "disabled",
            "RAY_BACKEND_LOG_LEVEL": "fatal",
            # A node that is gone is missed after three seconds rather than twenty.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_PIPELINES_CACHE": str(self.folder / f"cache-{name}"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(self.folder / f"hub-{name}"),
            "HF_ENDPOINT": self.hub.url,
            "TEST_NODE": name,
            "TEST_NOTES": str(self.notes),
        }

    def start(self, name: str, *arguments: str) -> None:
        if name != "head":
            arguments = (f"--address={self.address}", *arguments)
        self.nodes[name] = RayNode(str(self.folder / name), arguments, self.environment(name))
        # One after the other: Ray gives up on a node that takes half a minute.
        self.nodes[name].wait()

    def stop(self, *names: str) -> None:
        for name in names:
            self.nodes[name].stop()
        for name in names:
            self.nodes.pop(name).join()

    def stop_all(self) -> None:
        try:
            self.driver.shutdown(cancel_futures=True)
        finally:
            self.stop(*self.nodes)

    def submit(self, folder: Path, name: str, texts: list[str], **values: Any) -> Future[dict[str, int]]:
        """A job over texts that begins now, with the notes of the last one gone."""
        for path in self.notes.iterdir():
            path.unlink()
        pq.write_table(pa.table({"n": range(len(texts)), "text": texts}), folder / "in.parquet", row_group_size=20)
        job: dict[str, Any] = {
            "task": "text-classification",
            "model": {"name": name, "pipeline_class": "tests.integration.watched_pipelines:WatchedPipeline"},
            "read": {"path": str(folder / "in.parquet"), "rows_per_block": 20},
            "write": {"path": str(folder / "out"), "columns": ["n"]},
            "batch": {"window_rows": 20},
        }
        job["model"] |= values.pop("model", {})
        return self.driver.submit(run, job | values)

    def go(self) -> None:
        """Lets rows that wait go on."""
        (self.notes / GO).touch()

    def processes(self, stage: str) -> dict[str, set[int]]:
        """Node: its processes that have worked at a stage."""
        found = defaultdict(set)
        for path in self.notes.iterdir():
            noted, *where = path.name.split()
            if noted == stage:
                found[where[0]].add(int(where[1]))
        return dict(found)

    def with_weights(self, name: str) -> set[str]:
        """The nodes whose hub cache has the weights of a model."""
        found = self.folder.glob(f"hub-*/hub/models--{name.replace('/', '--')}/snapshots/*/model.safetensors")
        return {path.relative_to(self.folder).parts[0].removeprefix("hub-") for path in found}

    def num_downloads(self, name: str) -> int:
        """How often the weights of a model were downloaded."""
        return sum(
            method == "GET" and path.startswith(f"/{name}/") and path.endswith("/model.safetensors")
            for method, path in self.hub.requests
        )


@pytest.fixture
def cluster(all_nodes: Cluster) -> Iterator[Cluster]:
    """The cluster; rows that wait when a test fails go on, so that the next has it to itself."""
    yield all_nodes
    all_nodes.go()


@pytest.fixture(scope="module")
def all_nodes(model: Model) -> Iterator[Cluster]:
    folder = Path(model("bert-classifier"))
    with (
        hub_server({"org/one": folder, "org/two": folder}) as hub,
        tempfile.TemporaryDirectory(prefix="rn-", dir="/tmp", ignore_cleanup_errors=True) as where,
    ):
        cluster = Cluster(where, hub)
        try:
            cluster.start_all()
            yield cluster
        finally:
            cluster.stop_all()


def assert_equal_to_a_run_alone(folder: Path, expected: list[Any]) -> None:
    """Every row is there once, with the result that it has in a process by itself."""
    table = rp.read_output(str(folder / "out")).to_arrow().sort_by("n")
    assert table["n"].to_pylist() == list(range(len(expected)))
    assert_close(table["prediction"].to_pylist(), expected)


def test_forwards_run_on_the_gpu_and_only_its_node_has_the_weights(
    cluster: Cluster, model: Model, tmp_path: Path
) -> None:
    workers = {"stages": "split", "num_gpus": 1, "num_cpus": 2, "accelerator_type": "L4"}
    job = cluster.submit(tmp_path, "org/one", TEXTS, workers=workers, model={"device": "cpu"})
    assert job.result() == {"num_rows": NUM_ROWS, "num_results": NUM_ROWS, "num_errors": 0}
    assert cluster.processes("forward").keys() == {"gpu"}
    # The GPU's node has no processor left for other stages, until its worker has done all there is to do.
    assert cluster.processes("preprocess").keys() == {"cpu"} and "cpu" in cluster.processes("postprocess")
    assert cluster.with_weights("org/one") == {"gpu"} and cluster.num_downloads("org/one") == 1
    assert_equal_to_a_run_alone(tmp_path, rp.pipeline("text-classification", model=model("bert-classifier")).run(TEXTS))


def test_workers_of_a_node_download_its_weights_once(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(
        tmp_path, "org/two", [WAITING + text for text in TEXTS], workers={"concurrency": 4, "num_cpus": 1}
    )
    wait_until(lambda: sum(map(len, cluster.processes("preprocess").values())) == 4, job)
    cluster.go()
    assert job.result()["num_results"] == NUM_ROWS
    forwards = cluster.processes("forward")
    assert forwards.keys() == {"cpu", "gpu"} and max(map(len, forwards.values())) > 1
    assert cluster.with_weights("org/two") == {"cpu", "gpu"} and cluster.num_downloads("org/two") == 2


@pytest.mark.parametrize(
    ("workers", "node"),
    [
        ({"label_selector": {"pool": "!cpu"}}, "gpu"),
        ({"resources": {"disk": 1}}, "cpu"),
    ],
)
def test_workers_run_where_their_labels_and_resources_say(
    workers: dict[str, Any], node: str, cluster: Cluster, model: Model, tmp_path: Path
) -> None:
    job = cluster.submit(tmp_path, model("bert-classifier"), TEXTS[:40], workers={"num_cpus": 1, **workers})
    assert job.result()["num_results"] == 40
    assert cluster.processes("forward").keys() == {node}


def test_workers_grow_to_the_most_that_are_allowed_and_no_further(
    cluster: Cluster, model: Model, tmp_path: Path
) -> None:
    job = cluster.submit(
        tmp_path,
        model("bert-classifier"),
        [WAITING + text for text in TEXTS],
        workers={"concurrency": [1, 2], "num_cpus": 1},
    )
    wait_until(lambda: sum(map(len, cluster.processes("preprocess").values())) == 2, job)
    cluster.go()
    assert job.result()["num_results"] == NUM_ROWS
    assert sum(map(len, cluster.processes("forward").values())) == 2, "there are processors for five"


CHUNKED = {
    "task": "zero-shot-classification",
    "parameters": {"candidate_labels": ["sport", "news", "art"]},
    "model": {"pipeline_class": "tests.integration.watched_pipelines:WatchedChunks"},
    "batch": {"window_rows": 20, "window_chunks": 16},
}


@pytest.mark.parametrize("chunking", ["auto", "groupby"])
def test_a_node_that_goes_and_one_that_comes_in_the_middle_of_a_job_change_nothing(
    chunking: str, cluster: Cluster, model: Model, tmp_path: Path
) -> None:
    """The workers need what only the node that goes, one that stays and the one that comes have."""
    is_chunked = chunking == "groupby"
    folder = model("bert-nli" if is_chunked else "bert-classifier")
    old, steady, new = (f"{kind}-{chunking}" for kind in ("old", "steady", "new"))
    seat = ("--num-cpus=1", f'--resources={{"{chunking}": 1}}')
    for name in (old, steady):
        cluster.start(name, *seat)
    # The first rows are done when the others wait; all forwards of chunks do.
    stage = "forward" if is_chunked else "preprocess"
    # Few rows make few partitions, and so few actors, each of which loads transformers on this machine.
    texts = TEXTS[:32] if is_chunked else TEXTS
    waiting = texts if is_chunked else [text if n < 80 else WAITING + text for n, text in enumerate(texts)]
    job = cluster.submit(
        tmp_path,
        folder,
        waiting,
        workers={"concurrency": 2, "num_cpus": 1, "resources": {chunking: 1}, "chunking": chunking},
        **(CHUNKED if is_chunked else {}),
    )
    wait_until(lambda: {old, steady} <= cluster.processes(stage).keys(), job)
    cluster.nodes[old].kill_raylet()
    cluster.nodes.pop(old).join()
    cluster.start(new, *seat)
    cluster.go()
    assert job.result() == {"num_rows": len(texts), "num_results": len(texts), "num_errors": 0}
    assert cluster.processes(stage).keys() == {old, steady, new}
    task = "zero-shot-classification" if is_chunked else "text-classification"
    spec = rp.pipeline(task, model=folder, **(CHUNKED["parameters"] if is_chunked else {}))
    assert_equal_to_a_run_alone(tmp_path, spec.run(texts))
    cluster.stop(steady, new)
