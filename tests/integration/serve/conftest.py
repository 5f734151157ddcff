"""Endpoints of all tasks, over real sockets."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.machine import free_port

MODELS = {
    "text-classification": "bert-classifier",
    "token-classification": "bert-ner",
    "fill-mask": "bert-mlm",
    "feature-extraction": "bert-features",
    "question-answering": "bert-qa",
    "table-question-answering": "tapas-tableqa",
    "summarization": "t5-text2text",
    "translation": "t5-text2text",
    "text2text-generation": "t5-text2text",
    "text-generation": "llama-chat",
    "zero-shot-classification": "bert-nli",
    "image-classification": "vit-classifier",
    "object-detection": "yolos-detector",
    "image-segmentation": "detr-panoptic",
    "image-to-image": "swin2sr",
    "image-to-text": "vit-gpt2",
    "image-text-to-text": "llava",
    "image-feature-extraction": "vit-features",
    "depth-estimation": "dpt",
    "mask-generation": "sam",
    "visual-question-answering": "vilt-vqa",
    "document-question-answering": "layoutlm-docqa",
    "zero-shot-image-classification": "clip",
    "zero-shot-object-detection": "owlvit",
    "zero-shot-audio-classification": "clap",
    "audio-classification": "wav2vec2-classifier-mask",
    "automatic-speech-recognition": "wav2vec2-ctc",
    "text-to-audio": "vits",
    "video-classification": "videomae",
    "keypoint-matching": "superglue",
    "decision": "llama-decision",
}


BEHIND_PROXIES = (
    "text-classification",
    "fill-mask",
    "feature-extraction",
    "text-generation",
    "image-classification",
    "audio-classification",
    "automatic-speech-recognition",
    "text-to-audio",
    "image-to-image",
)
"""One for each kind of body and answer: JSON, base64, bare files, forms, events, files."""


Server = Callable[[str], str]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[Callable[[str], Server]]:
    """Starts endpoints once, all `bare`, or some behind Serve's `python` proxy or `haproxy`; gives the URL of each."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(kind: str) -> Server:
            return stack.enter_context(_all_endpoints(kind, tmp_path_factory.mktemp(kind), models_folder))

        yield start


@pytest.fixture
def endpoints(servers: Callable[[str], Server]) -> Server:
    """The URL of the endpoint of a task."""
    return servers("bare")


@pytest.fixture
def servers_log(endpoints: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """What the bare endpoints have logged."""
    return lambda: "".join(file.read_text() for file in tmp_path_factory.getbasetemp().glob("bare*/log"))


@contextlib.contextmanager
def _all_endpoints(kind: str, folder: Path, models: Path) -> Iterator[Server]:
    port = free_port()
    served = MODELS if kind == "bare" else BEHIND_PROXIES
    pairs = [f"{task}={MODELS[task]}" for task in served]
    command = [sys.executable, "-m", "tests.integration.serve.endpoints", str(port), str(models)]
    command += [*([] if kind == "bare" else ["--serve"]), *pairs]
    short = tempfile.TemporaryDirectory(prefix="haproxy-", dir="/tmp")  # a socket's path has at most 97 characters
    with short as files, (folder / "log").open("wb") as log:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **haproxy(files, kind == "haproxy")}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env)
        try:
            wait_for(process, f"http://127.0.0.1:{port}/text-classification/health", folder / "log")
            yield lambda task: f"http://127.0.0.1:{port}/{task}"
        finally:
            if kind == "bare":
                process.kill()
            process.communicate()


def haproxy(folder: str, is_on: bool) -> dict[str, str]:
    """The environment of a Serve with HAProxy, with files and ports of its own; or of one without."""
    if not is_on:
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    first = free_port() // 100 * 100
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 99),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Waits until a server answers, or shows why it does not."""
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def serve_url(ray_cluster: None) -> Iterator[str]:
    """Where the one Ray Serve on the tests' cluster answers."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
