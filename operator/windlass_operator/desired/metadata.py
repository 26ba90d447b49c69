"""What all objects of a job have in common: names, labels, and the owner with which they are deleted."""

from typing import Literal

from windlass.spec.job import API_VERSION, KIND
from windlass_operator.job import JOB_LABEL, ROLE_LABEL, Job, Object

Role = Literal["head", "worker", "cleanup"]

SERVICE_ACCOUNT = "windlass-trainer"
HTTP_PORT = 8080
"""Health, metrics and progress, in every pod."""
GCS_PORT = 6379
"""Ray's control store, in the head."""
RECOMMENDED = {"app.kubernetes.io/name": "windlass", "app.kubernetes.io/managed-by": "windlass-operator"}


def head_name(job: Job) -> str:
    """Of the head pod, and of the Service that leads to it."""
    return f"{job.name}-head"


def token_name(job: Job) -> str:
    """Of the Secret with the job's token."""
    return f"{job.name}-token"


def metadata(job: Job, name: str, role: Role | None = None) -> Object:
    """Metadata of an object that goes with the job; with a role, of a pod."""
    return {
        "name": name,
        "namespace": job.namespace,
        "labels": job.labels | RECOMMENDED | selector(job, role) | {"app.kubernetes.io/instance": job.name},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": job.name,
                "uid": job.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def selector(job: Job, role: Role | None = None) -> dict[str, str]:
    """Labels of the job's pods, or of those of one role."""
    return {JOB_LABEL: job.name} | ({ROLE_LABEL: role} if role else {})
