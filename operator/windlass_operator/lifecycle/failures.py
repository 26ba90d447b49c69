"""The record of failures: each is told once, and the last ten are kept."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from windlass.spec.reasons import REASONS
from windlass.spec.status import Failure, JobStatus
from windlass_operator.job import parse_time
from windlass_operator.lifecycle.draft import LONGEST_MESSAGE, Draft, stamp
from windlass_operator.lifecycle.observed import Pod

KEPT = 10
LONGEST_LINE = 500
"""Characters of a line of the log."""
SECOND = timedelta(seconds=1)
EVICTIONS = {
    *("Evicted", "NodeShutdown", "Terminated"),  # by the kubelet
    *("EvictionByEvictionAPI", "DeletionByTaintManager", "TerminationByKubelet"),  # a pod's DisruptionTarget
}
POD_REASONS = ("NodeLost", "Evicted", "Preempted")
"""What happens to pods from outside: the operator's to record. The rest is told by the heads."""


def pod_trouble(pod: Pod) -> tuple[str, str] | None:
    """Reason and message of what ends a pod from outside; None for a pod in peace."""
    if pod.node_lost:
        return "NodeLost", f"Node {pod.node}, where {pod.name} was, has stopped answering."
    words = f" Kubernetes says: {pod.message}" if pod.message else ""
    if pod.reason is not None and pod.reason.startswith("Preempt"):
        return "Preempted", f"Pod {pod.name} gave way to one of higher priority.{words}"
    if pod.reason in EVICTIONS:
        return "Evicted", f"Pod {pod.name} was evicted from node {pod.node}.{words}"
    if pod.deleting:
        return "Evicted", f"Pod {pod.name} was deleted: evicted, drained from node {pod.node}, or by hand."
    return None


def trouble(draft: Draft, pod: Pod) -> tuple[str, str] | None:
    """What ends a pod from outside: what Kubernetes shows of it, or else a worker's silence that stopped the ranks.

    A kubelet that lives would not call the pod ready for long; the control plane may need 40 s to miss that kubelet.
    """
    report = draft.report
    if (shown := pod_trouble(pod)) or report is None or report.phase not in {"Starting", "Recovering"}:
        return shown
    if pod.worker in report.lost and pod.phase == "Running" and pod.ready:
        return "NodeLost", f"Pod {pod.name} on node {pod.node} has stopped answering its head."
    return None


def record(draft: Draft, reason: str, message: str, pod: Pod | None = None, since: datetime | None = None) -> Failure:
    """Record what the operator noticed, now or `since` then."""
    noticed = since or draft.now
    if pod is not None and pod.created is not None:
        # Times are whole seconds, and the API server's clock may be ahead: a failure is always younger than its pod.
        noticed = max(noticed, pod.created + SECOND)
    failure = Failure(
        time=stamp(noticed),
        attempt=draft.status.attempt,
        kind="Infrastructure" if REASONS[reason].kind == "Infrastructure" else "User",
        reason=reason,
        pod=pod.name if pod else None,
        node=pod.node if pod else None,
        exit_code=pod.exit_code if pod else None,
        step=step_of(draft),
        message=message,
        last_log_lines=[],
    )
    add(draft, [failure])
    return failure


def record_trouble(draft: Draft, pod: Pod) -> None:
    """Record what ends a pod from outside, once for each pod.

    Of more than are kept, those that are left out are as old at each look, and stay out.
    """
    found = trouble(draft, pod)
    if found is not None and recorded(draft.status, pod) is None:
        told = draft.report if pod_trouble(pod) is None else None  # by the head
        record(draft, *found, pod, told.since if told else pod.disrupted)


def recorded(status: JobStatus, pod: Pod) -> Failure | None:
    """What was recorded of this very pod: since it was created, for pods follow each other under one name."""
    return next(
        (
            failure
            for failure in reversed(status.failures)
            if failure.pod == pod.name
            and failure.reason in POD_REASONS
            and (pod.created is None or moment(failure) > pod.created)
        ),
        None,
    )


def add(draft: Draft, news: Iterable[Failure]) -> None:
    """Merge failures into the record. The order is total, so that the same ten stay whoever tells them again."""
    kept = {identity(failure): failure for failure in draft.status.failures}
    changed: dict[tuple[object, ...], Failure] = {}
    for failure in map(_storable, news):
        known = kept.get(identity(failure))
        if known is None:
            changed[identity(failure)] = failure
        elif failure.pod is not None and (failure.pod, failure.rank) != (known.pod, known.rank):
            changed[identity(failure)] = failure.model_copy(update={"step": known.step})
    if changed:
        merged = sorted((kept | changed).values(), key=lambda item: (moment(item), str(identity(item))))
        draft.status.failures = merged[-KEPT:]


def _storable(failure: Failure) -> Failure:
    """What the API server can take, whatever a head has told: its image may be newer, and a line may have no end."""
    fields: dict[str, object] = {
        "message": failure.message[:LONGEST_MESSAGE],
        "last_log_lines": [line[:LONGEST_LINE] for line in failure.last_log_lines],
    }
    if failure.reason not in REASONS:
        fields["reason"] = "RankFailed" if failure.kind == "Infrastructure" else "UserError"
        fields["message"] = f"{failure.reason}: {failure.message}"[:LONGEST_MESSAGE]
    return failure.model_copy(update=fields)


def step_of(draft: Draft) -> int | None:
    """Steps done, as far as is known."""
    return draft.status.progress.step if draft.status.progress else None


def unheard(old: JobStatus, new: JobStatus) -> list[Failure]:
    """What the new status adds to the record."""
    told = {identity(failure) for failure in old.failures}
    return [failure for failure in new.failures if identity(failure) not in told]


def moment(failure: Failure) -> datetime:
    """When it was noticed."""
    time = parse_time(failure.time)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def identity(failure: Failure) -> tuple[object, ...]:
    """What makes it the same failure. Which rank died, and where, a head may hear after it has told of the failure."""
    whose = (failure.reason, failure.pod) if failure.reason in POD_REASONS else ()
    return failure.attempt, failure.time, *whose
