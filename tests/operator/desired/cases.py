"""The jobs of jobs/ as the API server hands them to the operator, and all that they become."""

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from windlass_operator.desired.objects import support_objects
from windlass_operator.desired.pods import cleanup_pod, head_pod, worker_pod
from windlass_operator.job import Job, Object
from windlass_operator.settings import Settings

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in (FOLDER / "jobs").glob("*.yaml"))
SETTINGS = Settings(trainer_image="registry.example.com/trainer:0.1.0", key=b"key", prometheus_namespace="monitoring")


def job_of(name: str = "minimal", **spec: Any) -> Job:
    """The job of a file in jobs/, with other values for fields of its spec."""
    resource = YAML(typ="safe", pure=True).load(FOLDER / "jobs" / f"{name}.yaml")
    job = Job(resource | {"spec": resource["spec"] | spec})
    assert not job.invalid
    return job


def objects_of(job: Job) -> list[Object]:
    """Everything that the operator ever makes for a job, as it reaches the API server."""
    pods = [head_pod(job, SETTINGS, attempt=3, restarts=2), worker_pod(job, SETTINGS, index=1)]
    made = [*support_objects(job, SETTINGS), *pods, cleanup_pod(job, SETTINGS)]
    objects: list[Object] = json.loads(json.dumps(made))
    return objects
