"""An application of two replicas that is deployed again and again; `python -m tests.integration.serve.live PORT MODEL`
has it on a Ray cluster and a Serve of its own, behind the proxy that the environment says.

Each line of the standard input, `name=value …`, deploys it with these settings, unless it is empty; the answer is a
line with the process ids of its replicas. Ends with its input.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile

NAME, ROUTE_PREFIX, NUM_REPLICAS, PIDS = "live", "/live", 2, "pids:"


def pids(model: str, settings: str) -> set[int]:
    """The process ids of the replicas that answer, once they are deployed with these settings, if there are some."""
    import ray
    from ray import serve

    from ray_pipelines.serve.application import app

    if settings:
        values = {"task": "text-classification", "model": model, "workers.num_cpus": 0.1}
        values |= {"serve.replicas": NUM_REPLICAS, **dict(part.split("=", 1) for part in settings.split())}
        serve.run(app(values), name=NAME, route_prefix=ROUTE_PREFIX)
    handle = serve.get_app_handle(NAME)
    found: set[int] = set()
    while len(found) < NUM_REPLICAS:
        with contextlib.suppress(ray.exceptions.RayError):
            found.add(handle.describe.remote().result()["pid"])
    return found


def main() -> None:
    """Serves."""
    import ray
    from ray import serve

    port, model = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, _temp_dir=folder,
                 logging_level=logging.ERROR, log_to_driver=False)  # fmt: skip
        serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
        for line in sys.stdin:
            print(PIDS, *pids(model, line), flush=True)
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
