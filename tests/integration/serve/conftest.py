"""Endpoints of all tasks, over real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

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


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The URL of the endpoint of a task."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    log = (folder / "log").open("wb")
    pairs = [f"{task}={model}" for task, model in MODELS.items()]
    command = [sys.executable, "-m", "tests.integration.serve.endpoints", str(port), str(folder), *pairs]
    process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        _wait(process, f"http://127.0.0.1:{port}/decision/health", folder / "log")
        yield lambda task: f"http://127.0.0.1:{port}/{task}"
    finally:
        process.kill()
        process.wait()
        log.close()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        try:
            if httpx2.get(url).status_code == 200:
                return
        except httpx2.HTTPError:
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
