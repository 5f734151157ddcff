"""A driver script for `ray job submit`: one job file, run once for each folder of the input.

    ray job submit --address http://head:8265 --working-dir . -- \
        python -m jobs.driver job.yaml s3://bucket/reviews/day=01 s3://bucket/reviews/day=02

A job file says what to do with one dataset. What is around it (several datasets, a look at the results, a decision what
to run next) is Python: `rp.run_job` runs a job and gives its report, or raises an error that knows its exit status.
"""

from __future__ import annotations

import sys

import ray_pipelines as rp


def main(job_file: str, *inputs: str) -> int:
    """Runs the job over each input, into a folder of the input's name below `write.path`; gives the worst status."""
    worst = 0
    base = rp.read_job(job_file)
    for path in inputs or base.read.paths:
        name = path.rstrip("/").rpartition("/")[2]
        output = f"{base.write.path.rstrip('/')}/{name}"
        try:
            job = rp.read_job(job_file, [f"read.path={path}", f"write.path={output}"])
            report = rp.run_job(job).report
        except rp.RayPipelinesError as error:
            print(f"{path}: {error}", file=sys.stderr)
            worst = max(worst, error.exit_status)
            continue
        print(f"{path}: {report.num_results:,} results, {report.num_errors:,} dead letters in {output}")
    return worst


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
