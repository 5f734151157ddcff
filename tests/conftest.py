"""Fixtures of all tests: the folder is the marker, and tiny models are built once."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.machine import NICENESS

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray's workers would give way to every other process (nice 15): to the tests of the other process, for minutes.
os.environ.setdefault(NICENESS, "0")
# Threads of torch that wait for each other would spin on the core that the other process's tests need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_PIPELINES_CACHE", tempfile.mkdtemp(prefix="ray-pipelines-cache-"))
if not any("gpu" in argument for argument in sys.argv):
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

LEVELS = ("unit", "integration", "e2e", "gpu")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("RAY_PIPELINES_LONG_TESTS"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    for item in items:
        level = item.path.relative_to(Path(__file__).parent).parts[0]
        if level in LEVELS:
            item.add_marker(level)


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def model(models_folder: Path) -> Callable[[str], str]:
    """The folder of a tiny model, built when it is first asked for."""
    import torch
    import transformers

    from tests.tiny_models import build_model

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return lambda name: str(build_model(name, models_folder / name))
