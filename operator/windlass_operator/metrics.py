"""The operator's metrics; docs/operator.md explains them. The runtime adds its own to the same registry."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from windlass.spec.status import JobStatus
from windlass_operator.job import Job, Object, parse_time
from windlass_operator.lifecycle.failures import unheard

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RECOVERY_SECONDS = (1, 2, 5, 10, 15, 20, 30, 45, 60, 120, 300, 600, 1800)


class Metrics:
    """What is counted while the operator runs."""

    def __init__(self, registry: CollectorRegistry, jobs: Callable[[], Iterable[Object]]) -> None:
        """`jobs` lists the jobs there are, whenever the metrics are asked for."""
        self.reconcile_seconds = Histogram(
            "windlass_operator_reconcile_seconds",
            "Seconds that one look at one job took, its writes included.",
            ["outcome"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.failures = CounterMetric(
            "windlass_operator_job_failures",
            "Failures of jobs, by reason; most are recovered from.",
            ["namespace", "reason"],
            registry=registry,
        )
        self.recovery_seconds = Histogram(
            "windlass_operator_recovery_seconds",
            "Seconds from a failure that was noticed until the job trained again.",
            buckets=_RECOVERY_SECONDS,
            registry=registry,
        )
        registry.register(_Jobs(jobs))

    def count(self, job: Job, status: JobStatus, now: datetime) -> None:
        """Count what a new status of a job tells: its failures, and a recovery."""
        for failure in unheard(job.status, status):
            self.failures.labels(job.namespace, failure.reason).inc()
        if status.phase == "Running" and (lost := _lost_since(job.status)):
            self.recovery_seconds.observe((now - parse_time(lost)).total_seconds())


def _lost_since(status: JobStatus) -> str | None:
    """Since when a job that has trained stands still by a failure; a suspension is none."""
    since = {item.type: item.last_transition_time for item in status.conditions if item.status == "False"}
    lost = since.get("Training")
    recovers = status.phase in {"Recovering", "Preparing", "Starting"} and status.progress is not None
    return lost if recovers and lost and lost > since.get("Suspended", "") else None


class _Jobs(Collector):
    """Gauges of the jobs' statuses, read when they are asked for."""

    def __init__(self, jobs: Callable[[], Iterable[Object]]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        phases: Counter[tuple[str, str]] = Counter()
        goodput = GaugeMetricFamily(
            "windlass_operator_job_goodput", "Share of a job's time that was well spent.", labels=["namespace", "job"]
        )
        for job in self._jobs():
            namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
            status = job.get("status", {})
            phases[namespace, status.get("phase", "Queued")] += 1
            if "goodput" in status:
                goodput.add_metric([namespace, name], status["goodput"]["ratio"])
        by_phase = GaugeMetricFamily("windlass_operator_jobs", "Jobs in each phase.", labels=["namespace", "phase"])
        for labels, count in phases.items():
            by_phase.add_metric(labels, count)
        yield by_phase
        yield goodput
