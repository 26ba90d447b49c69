"""The end of a job: what is written, and what is cleared away after it."""

from datetime import timedelta

from windlass.spec.status import WorkerStatus
from windlass_operator.job import parse_time
from windlass_operator.lifecycle.decision import DeleteJob
from windlass_operator.lifecycle.draft import Draft, stamp
from windlass_operator.lifecycle.observed import Verdict

LEAVING = timedelta(seconds=30)
"""How long pods have to end by themselves after the job."""


def succeed(draft: Draft, verdict: Verdict) -> None:
    """The job has its result."""
    draft.status.phase = "Succeeded"
    draft.status.result = verdict.result
    step = draft.status.progress.step if draft.status.progress else 0
    place = f"; the model is at {verdict.result.uri}" if verdict.result and verdict.result.uri else ""
    message = verdict.message or f"{step} steps{place}."
    draft.set_condition("Complete", "True", "Succeeded", message)
    _finish(draft, "Succeeded", message)


def fail(draft: Draft, reason: str, message: str) -> None:
    """The job has failed for good."""
    draft.status.phase = "Failed"
    draft.set_condition("Failed", "True", reason, message)
    _finish(draft, reason, message)


def _finish(draft: Draft, reason: str, message: str) -> None:
    draft.status.completion_time = stamp(draft.now)
    draft.status.workers = WorkerStatus(desired=draft.status.workers.desired, ready=0)
    draft.set_condition("Training", "False", reason, message)
    draft.set_condition("PodsReady", "False", "Finished", "Pods stay for their logs until the job is deleted.")


def after_end(draft: Draft) -> None:
    """Pods that still run are deleted after a while, and the job itself when its time is over."""
    assert draft.status.completion_time is not None
    ended = parse_time(draft.status.completion_time)
    living = [pod for pod in draft.observed.pods if not pod.ended]
    if living and draft.is_over(ended + LEAVING):
        for pod in living:
            draft.delete(pod)
    # Read as it stands: a job may have failed because its spec can't be read as a whole.
    ttl = (draft.job.resource["spec"].get("lifecycle") or {}).get("ttlSecondsAfterFinished")
    if ttl is not None and draft.is_over(ended + timedelta(seconds=ttl)):
        draft.actions.append(DeleteJob())
