"""The driver of a job on a cluster: a child of the head's first process, which starts it again when it dies.

python -m windlass.engine.pods.driver
"""

import os
import sys

from windlass.engine.driver import drive
from windlass.engine.pods.pod import Pod
from windlass.engine.pods.ray_cluster import RayCluster
from windlass.engine.run_folder import read_lines
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import dump_job


def main() -> int:
    """Run the job that the environment holds; returns the exit code."""
    pod = Pod.here()
    run = pod.run
    job = LLMTrainingJob.model_validate_json(os.environ["WINDLASS_JOB"])
    run.path.mkdir(parents=True, exist_ok=True)
    run.job.write_text(dump_job(job), encoding="utf-8")
    attempt = int(os.environ["WINDLASS_ATTEMPT"])
    restarts = sum(event.get("phase") == "Recovering" and "reason" in event for event in read_lines(run.events))
    used = int(os.environ["WINDLASS_RESTARTS"]) + restarts
    return drive(job, run, lambda: RayCluster(job, run, pod, attempt), used)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without waiting for a thread that may still wait for Ray
