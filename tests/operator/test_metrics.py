"""What is counted of the jobs' statuses."""

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.operator.lifecycle.simulation import START

from windlass.spec.status import JobStatus
from windlass_operator.job import Job
from windlass_operator.lifecycle.draft import stamp
from windlass_operator.metrics import Metrics


def condition(kind: str, seconds: int) -> dict[str, Any]:
    since = stamp(START + timedelta(seconds=seconds))
    return {"type": kind, "status": "False", "reason": "Waiting", "lastTransitionTime": since}


@pytest.mark.parametrize(
    ("phase", "conditions", "trained", "seconds"),
    [
        ("Recovering", [condition("Training", 100)], True, 20),
        ("Preparing", [condition("Training", 100)], True, 20),  # a new head reads the corpus
        ("Starting", [condition("Training", 90), condition("Suspended", 10)], True, 30),
        ("Starting", [condition("Training", 10), condition("Suspended", 100)], True, 0),  # it was resumed
        ("Starting", [condition("Training", 0)], False, 0),  # it has never trained
        ("Running", [condition("Training", 100)], True, 0),
    ],
)
def test_a_recovery_lasts_from_a_failure_until_the_job_trains_again(
    phase: str, conditions: list[dict[str, Any]], trained: bool, seconds: float
) -> None:
    registry = CollectorRegistry()
    status = {"phase": phase, "conditions": conditions} | ({"progress": {"step": 7}} if trained else {})
    job = Job({"metadata": {"name": "play", "namespace": "team", "uid": "u"}, "status": status})
    Metrics(registry, list).count(job, JobStatus.model_validate({"phase": "Running"}), START + timedelta(seconds=120))
    assert registry.get_sample_value("windlass_operator_recovery_seconds_sum") == seconds
