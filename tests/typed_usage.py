"""What editors and type checkers see of the public names: checked by mypy (`make lint`), never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

import ray_pipelines as rp
from ray_pipelines.tasks import TaskName

NAME: TaskName = "text-classification"
ALIAS: TaskName = "sentiment-analysis"
WRONG: TaskName = "text-clasification"  # type: ignore[assignment]


def of_one_task(texts: list[str], stream: Iterator[str]) -> None:
    spec = rp.pipeline("text-classification", model="org/model", top_k=2)
    assert_type(spec, rp.PipelineSpec)
    assert_type(rp.pipeline("translation_en_to_fr"), rp.PipelineSpec)
    assert_type(spec.run(texts), list[Any])
    assert_type(spec.run(stream), Iterator[Any])
    assert_type(spec.map(texts), list[Any])
    assert_type(spec.map(stream), Iterator[Any])
    rp.pipeline("fill-mask", stages="fusd")  # type: ignore[arg-type]


def of_several_tasks(texts: list[str]) -> None:
    both = rp.pipelines({"sentiment": rp.pipeline("text-classification"), "vector": rp.pipeline("feature-extraction")})
    assert_type(both, rp.PipelinesSpec)
    assert_type(both.run(texts), list[dict[str, Any] | rp.RowError])


def of_jobs() -> None:
    result = rp.run_job(rp.read_job("job.yaml", ["read.limit=10"]))
    assert_type(result, rp.JobResult)
    assert_type(result.report.num_errors, int)
    assert_type(rp.retry_job(rp.job_of_retry("out")), rp.JobResult | None)
    assert_type(rp.read_output("out"), rp.RunOutput)
