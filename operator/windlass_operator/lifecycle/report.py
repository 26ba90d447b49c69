"""What a head tells of its attempt, in its reports and in its last word, taken over into the status."""

from datetime import timedelta

from windlass.spec.status import Goodput, JobStatus, Progress
from windlass_operator.job import parse_time
from windlass_operator.lifecycle.columns import columns
from windlass_operator.lifecycle.draft import Draft, stamp
from windlass_operator.lifecycle.failures import add, step_of

_SOFT = ("progress", "checkpoint", "goodput", "columns")
"""Fields that can wait."""


def take_over(draft: Draft) -> None:
    """Progress, checkpoint, restarts and failures of the current attempt, and that its head has been seen."""
    head, status = draft.head, draft.status
    if head is None or status.head is None:
        return
    status.head = status.head.model_copy(update={"uid": head.uid})
    told = head.verdict or draft.report
    if told is None:
        return
    status.progress = _newer(status.progress, told.progress, stamp(draft.now))
    status.checkpoint = told.checkpoint or status.checkpoint
    restarts = max(status.restarts.infrastructure, status.head.restarts_before + told.restarts)
    status.restarts = status.restarts.model_copy(update={"infrastructure": restarts})
    step = step_of(draft)
    add(draft, [item if item.step is not None else item.model_copy(update={"step": step}) for item in told.failures])


def _newer(old: Progress | None, new: Progress | None, now: str) -> Progress | None:
    """The new progress and when it was heard of; the old one as it is where nothing has changed."""
    if new is None:
        return old
    if old is not None and old.model_copy(update={"updated_at": None}) == new.model_copy(update={"updated_at": None}):
        return old
    return new.model_copy(update={"updated_at": now})


def active_time(draft: Draft) -> timedelta:
    """Time since the first attempt started, without the time that the job was suspended."""
    status = draft.status
    if status.start_time is None:
        return timedelta()
    suspended = timedelta(seconds=status.suspended_seconds)
    if draft.is_true("Suspended") and (condition := draft.condition("Suspended")):
        suspended += draft.since(condition.last_transition_time)
    end = parse_time(status.completion_time) if status.completion_time else draft.now
    return max(timedelta(), end - parse_time(status.start_time) - suspended)


def settle(draft: Draft) -> None:
    """Leave the status as it was where nothing is new, or nothing but progress soon after the last write of it."""
    old, new = draft.job.status, draft.status
    if _core(old) == _core(new):
        if (old.progress, old.checkpoint) == (new.progress, new.checkpoint):
            draft.status = old
            return
        if old.progress and old.progress.updated_at:
            written = parse_time(old.progress.updated_at)
            if draft.now >= written and not draft.is_over(written + draft.observed.progress_every):
                draft.status = old
                return
    else:
        draft.can_wait = _but_presence(old) == _but_presence(new)
    new.goodput = _goodput(draft)
    new.columns = columns(new)


def _core(status: JobStatus) -> dict[str, object]:
    return {name: value for name, value in status if name not in _SOFT}


def _but_presence(status: JobStatus) -> dict[str, object]:
    """What is told at once: all but who is there, which changes with every pod while a job starts."""
    head = status.head.model_copy(update={"uid": None}) if status.head else None
    conditions = [condition for condition in status.conditions if condition.type != "PodsReady"]
    return _core(status) | {"head": head, "workers": status.workers.desired, "conditions": conditions}


def _goodput(draft: Draft) -> Goodput | None:
    old, report, total = draft.status.goodput, draft.report, active_time(draft).total_seconds()
    if not total or (old is None and report is None):
        return old
    productive = report.productive_seconds if report else old.productive_seconds if old else 0.0
    return Goodput(
        productive_seconds=round(productive, 1),
        total_seconds=round(total, 1),
        ratio=round(min(1.0, productive / total), 4),
    )
