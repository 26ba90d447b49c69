"""Workers: a seat each, which keeps its name and number whichever pod sits in it."""

from datetime import timedelta

from windlass_operator.job import parse_time
from windlass_operator.lifecycle.decision import CreateWorker
from windlass_operator.lifecycle.draft import Draft
from windlass_operator.lifecycle.failures import record_trouble
from windlass_operator.lifecycle.observed import Pod

PAUSE = timedelta(seconds=10)
"""Between one pod of a seat and the next, where they end as fast as they are made."""
FAREWELL = timedelta(seconds=20)
"""A worker that has done its part ends before its head; the operator may see that first, and waits for the head."""


def wanted(draft: Draft) -> range:
    """The seats that there should be."""
    return range(draft.job.spec.workers.replicas)


def seated(draft: Draft) -> dict[int, Pod]:
    """The pods of the seats that there should be."""
    seats = wanted(draft)
    return {pod.worker: pod for pod in draft.observed.workers if pod.worker is not None and pod.worker in seats}


def keep_workers(draft: Draft) -> None:
    """See that each seat has its pod: replace what is lost, and only that; close seats that are too many."""
    pods = seated(draft)
    for pod in reversed(draft.observed.workers):
        if pod not in pods.values():
            draft.delete(pod)
    for index in wanted(draft):
        if index in pods:
            _keep(draft, pods[index])
        else:
            draft.actions.append(CreateWorker(index))


def _keep(draft: Draft, pod: Pod) -> None:
    if not _left_from_before_suspension(draft, pod):
        record_trouble(draft, pod)
    if pod.node_lost or (is_vacant(draft, pod) and draft.is_over((pod.created or draft.now) + PAUSE)):
        draft.delete(pod)


def is_vacant(draft: Draft, pod: Pod) -> bool:
    """Whether a pod has ended before its job. A worker that the head let go has done so for good reason."""
    if pod.phase == "Succeeded":
        let_go = draft.report is not None and draft.report.phase in {"Stopping", "Succeeded", "Stopped", "Failed"}
        return not let_go and draft.is_over((pod.finished or draft.now) + FAREWELL)
    return pod.phase == "Failed"


def _left_from_before_suspension(draft: Draft, pod: Pod) -> bool:
    """Whether a pod is still ending because the job was suspended."""
    suspended, asked = draft.condition("Suspended"), pod.disrupted
    return suspended is not None and asked is not None and asked <= parse_time(suspended.last_transition_time)
