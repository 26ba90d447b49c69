"""A job as the operator sees it: the resource of the API server, parsed once."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from windlass.spec.job import GROUP, JobSpec, LLMTrainingJob
from windlass.spec.problems import InvalidJob
from windlass.spec.status import JobStatus
from windlass.spec.validation import validate

Object = dict[str, Any]
"""A Kubernetes object as JSON."""
Key = tuple[str, str]
"""Namespace and name."""

JOB_LABEL = f"{GROUP}/job"
"""On every object of a job: the job's name."""
ROLE_LABEL = "app.kubernetes.io/component"
"""On pods: head, worker or cleanup."""
ATTEMPT_LABEL = f"{GROUP}/attempt"
"""On the head: which attempt it is."""
WORKER_LABEL = f"{GROUP}/worker-index"
"""On workers: which seat it is, from 0."""
STORAGE_FINALIZER = f"{GROUP}/storage"
"""On jobs with checkpoints.onDelete: Delete, until their storage is deleted."""


def parse_time(text: str) -> datetime:
    """A time of the API server, as in 2026-01-31T12:00:00Z."""
    return datetime.fromisoformat(text)


@dataclass(frozen=True)
class Job:
    """An LLMTrainingJob; what is expensive to work out is worked out when it is first asked for."""

    resource: Object

    @property
    def name(self) -> str:
        return str(self.resource["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.resource["metadata"]["namespace"])

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    @property
    def uid(self) -> str:
        return str(self.resource["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return int(self.resource["metadata"].get("generation", 0))

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.resource["metadata"].get("labels") or {})

    @property
    def finalizers(self) -> list[str]:
        return list(self.resource["metadata"].get("finalizers") or [])

    @property
    def created(self) -> datetime:
        return parse_time(self.resource["metadata"]["creationTimestamp"])

    @property
    def deleting(self) -> datetime | None:
        """Since when it is being deleted."""
        text = self.resource["metadata"].get("deletionTimestamp")
        return parse_time(text) if text else None

    @cached_property
    def status(self) -> JobStatus:
        return JobStatus.model_validate(self.resource.get("status") or {})

    @cached_property
    def _validated(self) -> tuple[LLMTrainingJob | None, str]:
        """The job and what is wrong with it; the API server's schema can't check everything.

        Rules between fields are for jobs that have not started: those of a newer operator may be stricter, and what may
        change of a job that runs is checked by the API server.
        """
        value = {
            "apiVersion": self.resource["apiVersion"],
            "kind": self.resource["kind"],
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": self.labels},
            "spec": self.resource.get("spec"),
        }
        job, problems = validate(value, cluster=True, rules=self.status.attempt == 0)
        return job, str(InvalidJob(problems)) if problems else ""

    @property
    def invalid(self) -> str:
        """What is wrong with the spec, a line for each problem; empty when it can run."""
        return self._validated[1]

    @property
    def spec(self) -> JobSpec:
        """The spec, of a job that is not `invalid`."""
        job = self._validated[0]
        assert job is not None, self.invalid
        return job.spec

    @property
    def document(self) -> LLMTrainingJob:
        """The job as its pods get it: without what only the API server needs."""
        job = self._validated[0]
        assert job is not None, self.invalid
        return job
