"""Events: what `kubectl describe` tells of a change of the status. Each is told once, with the write of that change."""

from collections.abc import Iterator

from windlass.spec.reasons import REASONS
from windlass.spec.status import Condition, ConditionType, JobStatus
from windlass_operator.lifecycle.decision import Event
from windlass_operator.lifecycle.draft import Draft
from windlass_operator.lifecycle.failures import unheard


def transitions(draft: Draft) -> Iterator[Event]:
    """The events of the difference between the status that was and the one that will be."""
    old, new = draft.job.status, draft.status
    for failure in unheard(old, new):
        yield Event("Warning", failure.reason, failure.message or REASONS[failure.reason].meaning)
    if _status(old, "Suspended") == "True" and _status(new, "Suspended") == "False":
        yield Event("Normal", "Resumed", "Continues from the last checkpoint.")
    if new.attempt > old.attempt and new.head is not None:
        yield Event("Normal", "Started", f"Attempt {new.attempt}, to start at {new.head.start_time}.")
    yield from _waiting(old, new)
    if new.phase != old.phase:
        yield from _phase(new)


def _waiting(old: JobStatus, new: JobStatus) -> Iterator[Event]:
    ready, before = _condition(new, "PodsReady"), _condition(old, "PodsReady")
    if ready is None or ready.reason not in REASONS or (before is not None and before.reason == ready.reason):
        return
    yield Event("Warning", ready.reason, ready.message)


def _phase(status: JobStatus) -> Iterator[Event]:
    training = _condition(status, "Training")
    message = training.message if training else ""
    match status.phase:
        case "Preparing" | "Running" | "Recovering" | "Succeeded":
            yield Event("Normal", status.phase, message)
        case "Suspended":
            yield Event("Normal", training.reason if training else status.phase, message)
        case "Failed":
            yield Event("Warning", "Failed", f"{training.reason}: {message}" if training else message)


def _condition(status: JobStatus, kind: ConditionType) -> Condition | None:
    return next((condition for condition in status.conditions if condition.type == kind), None)


def _status(status: JobStatus, kind: ConditionType) -> str | None:
    condition = _condition(status, kind)
    return condition.status if condition else None
