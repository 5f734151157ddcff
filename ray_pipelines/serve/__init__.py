"""One pipeline behind HTTP, on Ray Serve: the same specification as a job's, and the same executor.

    ray-pipelines serve job.yaml
    serve run ray_pipelines.serve:app task=text-classification model=org/model

Each model is one Serve application whose replica holds the pipeline and is itself the ingress: a deployment of its own
in front of it would cost more than the forward of a small encoder.

    http.py       routes                                  requests.py    what clients send → rows.py, client_json.py
    bodies.py     what is read, within bounds             parameters.py  what clients may set
    events.py     tokens as events                        replies.py     results → what clients parse
    openai.py     OpenAI's routes    chats.py  its chats  transcripts.py  … of OpenAI's transcriptions
    endpoint.py   one pipeline for many callers           streaming.py   generation token by token
    scheduler.py  two lanes in front of one device        lanes.py, device.py, slices.py, cpu.py  its parts
    blocks.py     rows of batch jobs between requests     schema.py      the OpenAPI document
    security.py   keys    fetch.py   allowed URLs         refusals.py    errors as answers
    stopping.py   what nobody waits for any more
    application.py  on Ray Serve                          metrics.py     for Prometheus
    autoscaling.py  how many replicas                     starting.py    beside what else Serve runs
    room.py       whether replicas fit
"""

from __future__ import annotations

from typing import Any

__all__ = ["app", "start"]  # loaded when first asked for


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ray_pipelines.serve import application, starting

        return getattr(starting if name == "start" else application, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
