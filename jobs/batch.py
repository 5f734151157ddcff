"""The entry point for `ray job submit`: runs a job file, and ends as Ray should see it.

    ray job submit --address http://head:8265 --working-dir . -- python -m jobs.batch job.yaml --set read.limit=1000

Takes what `ray-pipelines run` takes. Ray calls a job failed whatever its exit status, unless that is 0; a run that ends
within the job's `max_error_rate` has done what was asked, so its dead letters (status 3 of `run`) are a success here:
Ray says SUCCEEDED, and what watches Ray jobs (KubeRay's backoffLimit, Airflow) does not run it again. Add
`--fail-on-dead-letters` to have 3, and a failed Ray job, instead. 1 (the job failed) and 2 (it is wrong) stay.
"""

from __future__ import annotations

import sys

from ray_pipelines.cli import app

if __name__ == "__main__":
    app(["run", "--allow-dead-letters", *sys.argv[1:]])
