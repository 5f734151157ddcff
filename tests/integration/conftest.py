"""One real local Ray cluster for all integration tests, with a temporary directory and ports of its own."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local cluster of four logical CPUs."""
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray
    import ray.data

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(
            num_cpus=4,
            object_store_memory=500 << 20,
            include_dashboard=False,
            _temp_dir=folder,
            logging_level=logging.ERROR,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield
        ray.shutdown()
