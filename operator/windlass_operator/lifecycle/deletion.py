"""Deleting a job: its pods go with it, and where its storage does too, a finalizer holds the job until that is done."""

from datetime import datetime, timedelta

from windlass.spec.status import Failure, WorkerStatus
from windlass_operator.job import STORAGE_FINALIZER
from windlass_operator.lifecycle.decision import CreateCleanup, Event, SetFinalizer
from windlass_operator.lifecycle.draft import Draft
from windlass_operator.lifecycle.failures import moment, record
from windlass_operator.lifecycle.observed import Pod

TRIES = 3
PAUSE = timedelta(seconds=10)
"""Between tries."""
PATIENCE = timedelta(minutes=10)
"""For a pod that does not start, or can't be made at all, as in a namespace that is being deleted itself."""


def clear_away(draft: Draft) -> None:
    """End the head, so that it saves and lets go of its storage; then the workers; then delete the storage."""
    head = draft.observed.head
    if draft.status.completion_time is None:
        _tell(draft, stopping=head is not None and not head.ended)
    if STORAGE_FINALIZER not in draft.job.finalizers:
        return
    if draft.status.attempt == 0:
        draft.actions.append(SetFinalizer(False))  # nothing was ever written
        return
    living = [pod for pod in draft.observed.pods if pod.role != "cleanup" and not pod.ended]
    heads = [pod for pod in living if pod.role == "head"]
    if living:
        for pod in heads or living:
            draft.delete(pod)
    elif draft.job.invalid:
        _give_up(draft, "its spec cannot be read")
    else:
        _delete_storage(draft)


def _tell(draft: Draft, *, stopping: bool) -> None:
    """A job that is being deleted does not go on; the phases know no better word than Suspended."""
    if stopping:
        draft.tell_stopping()
    else:
        draft.status.phase, draft.status.workers = "Suspended", WorkerStatus()
        draft.set_condition("Training", "False", "Deleting", "The job is being deleted.")
        draft.set_condition("PodsReady", "False", "Deleting", "The job is being deleted.")


def _delete_storage(draft: Draft) -> None:
    pod, name = draft.observed.cleanup, f"{draft.job.name}-cleanup"
    failures = [failure for failure in draft.status.failures if failure.pod == name]
    if pod is not None and pod.phase == "Succeeded":
        draft.actions.append(SetFinalizer(False))
    elif pod is not None:
        if (words := _how_it_failed(draft, pod)) and not pod.deleting:
            if not failures or pod.created is None or moment(failures[-1]) <= pod.created:
                record(draft, "StorageUnavailable", f"The job's storage was not deleted: {words}", pod)
            draft.delete(pod)
        elif pod.node_lost:
            draft.delete(pod)
    elif len(failures) >= TRIES:
        _give_up(draft, failures[-1].message)
    elif (refusal := _refusal(draft)) and draft.is_over(_last_sign(draft, failures) + PATIENCE):
        _give_up(draft, f"no pod could be made that deletes it: {refusal}")
    elif not failures or draft.is_over(moment(failures[-1]) + PAUSE):
        draft.actions.append(CreateCleanup())


def _refusal(draft: Draft) -> str | None:
    """Why the cleanup that was asked for last was not made; None where none was asked for."""
    refusal = draft.observed.refusal
    return refusal.message if refusal is not None and refusal.role == "cleanup" else None


def _how_it_failed(draft: Draft, pod: Pod) -> str | None:
    """Why a cleanup is to be tried again; None while it may still succeed."""
    if pod.node_lost:
        return f"node {pod.node} has stopped answering"
    if pod.phase == "Failed":
        said = pod.verdict.message if pod.verdict else pod.message
        return said or f"pod {pod.name} ended with exit code {pod.exit_code}"
    if pod.phase == "Pending" and pod.created is not None and draft.is_over(pod.created + PATIENCE):
        return pod.waiting.message if pod.waiting else f"pod {pod.name} does not start"
    return None


def _last_sign(draft: Draft, failures: list[Failure]) -> datetime:
    """When the job was deleted, or a cleanup last failed."""
    assert draft.job.deleting is not None
    return max([draft.job.deleting, *(moment(failure) for failure in failures)])


def _give_up(draft: Draft, why: str) -> None:
    """Let the job go without its storage, rather than hold its namespace for ever."""
    place = draft.job.resource["spec"].get("checkpoints", {}).get("uri") or "the run folder"
    draft.events.append(Event("Warning", "StorageKept", f"Delete the storage at {place} by hand: {why}"))
    draft.actions.append(SetFinalizer(False))
