"""The state machine: what a job's state and its pods call for, step by step.

A decision is a pure function of the job, with the status that was written last, of what is observed, and of the time.
Nothing else is remembered, so the operator can be killed between any two writes: the status says which attempt is on
record and whether its head was seen, and what is missing is done again.
"""

from datetime import datetime, timedelta

from windlass.spec.reasons import REASONS
from windlass.spec.status import WorkerStatus
from windlass_operator.job import STORAGE_FINALIZER, Job
from windlass_operator.lifecycle.attempts import after_attempt, attempt_is_over, begin, keep_head
from windlass_operator.lifecycle.decision import Decision, SetFinalizer
from windlass_operator.lifecycle.deletion import clear_away
from windlass_operator.lifecycle.draft import Draft
from windlass_operator.lifecycle.end import after_end, fail
from windlass_operator.lifecycle.observed import Observed
from windlass_operator.lifecycle.report import active_time, settle, take_over
from windlass_operator.lifecycle.seats import keep_workers
from windlass_operator.lifecycle.training import tell
from windlass_operator.lifecycle.transitions import transitions


def decide(job: Job, observed: Observed, now: datetime) -> Decision:
    """What is to be done now, what the status should say, and what to tell."""
    draft = Draft(job, observed, now)
    draft.status.observed_generation = job.generation
    if job.deleting:
        clear_away(draft)
    elif job.status.phase in {"Succeeded", "Failed"}:
        after_end(draft)
    elif job.invalid:
        fail(draft, "ConfigInvalid", f"{job.invalid}\nCorrect the job, delete this one, and apply it again.")
    elif observed.refusal and observed.refusal.final:
        fail(draft, "ConfigInvalid", f"The cluster refuses a pod of this job: {observed.refusal.message}")
    else:
        _look_after(draft)
    settle(draft)
    draft.events += transitions(draft)
    return draft.decision()


def _look_after(draft: Draft) -> None:
    """A job that has not ended: stop it where it should stop, and see that it runs where it should run."""
    take_over(draft)
    _tell_quota(draft)
    suspend = draft.job.spec.lifecycle.suspend
    over_deadline = not suspend and _is_over_deadline(draft)
    if suspend or over_deadline or _is_stopping(draft):
        _stop(draft, over_deadline=over_deadline)
    elif draft.job.spec.checkpoints.on_delete == "Delete" and STORAGE_FINALIZER not in draft.job.finalizers:
        draft.actions.append(SetFinalizer(True))  # alone, before the first pod
    else:
        _run(draft)


def _run(draft: Draft) -> None:
    if draft.status.head is None:
        _start(draft)
    elif attempt_is_over(draft):
        after_attempt(draft)
    if draft.status.completion_time is None:
        keep_head(draft)
        keep_workers(draft)
        tell(draft)


def _start(draft: Draft) -> None:
    """The first attempt, or the one after a suspension."""
    suspended = draft.condition("Suspended")
    if suspended is not None and suspended.status == "True":
        if draft.status.start_time is not None:
            draft.status.suspended_seconds += draft.since(suspended.last_transition_time) // timedelta(seconds=1)
        draft.set_condition("Suspended", "False", "Resumed", "Continues from the last checkpoint.")
    draft.status.phase = "Starting"
    begin(draft, draft.now)


def _stop(draft: Draft, *, over_deadline: bool) -> None:
    """End the head first, which saves a checkpoint; then the workers. The phase stays until the head has ended."""
    head = draft.observed.head
    if head is not None and not head.ended:
        draft.delete(head)
        draft.tell_stopping()
        return
    if _ended_by_itself(draft):
        after_attempt(draft)
    if draft.status.completion_time is not None:
        return
    if over_deadline:
        seconds = draft.job.spec.lifecycle.active_deadline_seconds
        fail(draft, "DeadlineExceeded", f"The {seconds} seconds of spec.lifecycle.activeDeadlineSeconds are over.")
    else:
        _suspend(draft)


def _suspend(draft: Draft) -> None:
    for pod in draft.observed.pods:
        draft.delete(pod)
    draft.status.phase, draft.status.head, draft.status.workers = "Suspended", None, WorkerStatus()
    message = "Holds nothing; continues from its last checkpoint when spec.lifecycle.suspend is false."
    draft.set_condition("Suspended", "True", "Suspended", message)
    draft.set_condition("Training", "False", "Suspended", message)
    draft.set_condition("PodsReady", "False", "Suspended", message)


def _is_stopping(draft: Draft) -> bool:
    """Whether the head was told to stop: it can't be told otherwise, so that is seen through whatever the spec says."""
    training = draft.condition("Training")
    return training is not None and training.reason == "Stopping"


def _ended_by_itself(draft: Draft) -> bool:
    """Whether the head had ended for good before it was stopped: with a result, or by the user's own failure."""
    verdict = draft.head.verdict if draft.head else None
    if verdict is None or verdict.status == "Stopped":
        return False
    return verdict.status == "Succeeded" or verdict.reason not in REASONS or REASONS[verdict.reason].kind == "User"


def _is_over_deadline(draft: Draft) -> bool:
    """Whether activeDeadlineSeconds are over.

    What counts is the time since startTime: training, starting, recovering, waiting for nodes, saving a checkpoint
    before a suspension. The time from Suspended to resumed does not.
    """
    seconds = draft.job.spec.lifecycle.active_deadline_seconds
    if seconds is None or draft.status.start_time is None:
        return False
    return draft.is_over(draft.now + timedelta(seconds=seconds) - active_time(draft))


def _tell_quota(draft: Draft) -> None:
    if draft.job.spec.lifecycle.queue_name is not None:
        draft.set_condition(
            "QuotaReserved", "True", "NotQueued", "This version does not queue; the job starts at once."
        )
