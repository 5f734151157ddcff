"""Clients in a process of their own that ask an endpoint for some seconds; what each answer took, as JSON.

    echo '["a text", …]' | python -m benchmarks.http_load URL --clients 3 --rest-ms 100 --seconds 15
    echo '["a text", …]' | python -m benchmarks.http_load URL --per-second 20 --seconds 15

Closed loop by default: each client asks, waits for the answer, rests, and asks again. With `--per-second` the loop is
open: requests come at random moments (Poisson), however slow the answers are. It runs at the nice value of Ray's
workers, so that it does not take the processor from what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import aiohttp

NICE = 15
PARAMETERS = {"truncation": True, "max_length": 256}


def main() -> None:
    """Asks, and prints {"seconds": of all, "latencies_s": […], "failed": {status: number}}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=1, help="of a closed loop (default: 1)")
    parser.add_argument("--rest-ms", type=float, default=0, help="of a client between two requests (default: 0)")
    parser.add_argument("--per-second", type=float, help="an open loop with so many requests per second")
    parser.add_argument("--seconds", type=float, default=10, help="how long (default: 10)")
    arguments = parser.parse_args()
    os.nice(max(0, NICE - os.nice(0)))
    print(json.dumps(asyncio.run(_load(arguments, json.load(sys.stdin)))))


async def _load(arguments: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    latencies: list[float] = []
    failed: dict[str, int] = {}
    inputs = itertools.cycle(texts)
    start_s = time.perf_counter()
    end_s = start_s + arguments.seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> None:
            asked_s = time.perf_counter()
            async with session.post(arguments.url, json={"inputs": next(inputs), "parameters": PARAMETERS}) as answer:
                await answer.read()
            if answer.status == 200:
                latencies.append(time.perf_counter() - asked_s)
            else:
                failed[str(answer.status)] = failed.get(str(answer.status), 0) + 1

        async def client() -> None:
            while time.perf_counter() < end_s:
                await ask()
                await asyncio.sleep(arguments.rest_ms / 1000)

        if arguments.per_second:
            asked = []
            for moment_s in _moments(arguments.per_second, arguments.seconds):
                await asyncio.sleep(max(0.0, start_s + moment_s - time.perf_counter()))
                asked.append(asyncio.create_task(ask()))
            await asyncio.gather(*asked)
        else:
            await asyncio.gather(*[client() for _ in range(arguments.clients)])
    return {"seconds": time.perf_counter() - start_s, "latencies_s": latencies, "failed": failed}


def _moments(per_second: float, seconds: float) -> Iterator[float]:
    """Seconds after the start at which an open loop asks."""
    numbers = random.Random(0)
    moment_s = numbers.expovariate(per_second)
    while moment_s < seconds:
        yield moment_s
        moment_s += numbers.expovariate(per_second)


if __name__ == "__main__":
    main()
