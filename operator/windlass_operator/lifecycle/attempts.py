"""Attempts: a head pod each, one at a time; how one ends, and whether another follows."""

from datetime import datetime, timedelta

from windlass.spec.job import Restarts
from windlass.spec.reasons import REASONS
from windlass.spec.status import Failure, HeadStatus
from windlass_operator.job import parse_time
from windlass_operator.lifecycle.decision import CreateHead
from windlass_operator.lifecycle.draft import Draft, stamp
from windlass_operator.lifecycle.end import fail, succeed
from windlass_operator.lifecycle.failures import pod_trouble, record, record_trouble, recorded
from windlass_operator.lifecycle.observed import Pod, Verdict

UNSEEN = timedelta(minutes=5)
"""For so long a head that was never seen may be created again under the same attempt's number.

The API server may have refused it. After that it may just as well have run while no operator looked, and be cut off on
a lost node by now; Kubernetes itself takes this long before it gives up the pods of a node.
"""


def begin(draft: Draft, start: datetime) -> None:
    """Put the next attempt on record, to start then."""
    status = draft.status
    status.attempt += 1
    status.head = HeadStatus(start_time=stamp(start), restarts_before=status.restarts.infrastructure)
    status.start_time = status.start_time or stamp(draft.now)


def keep_head(draft: Draft) -> None:
    """See that the current attempt has its head, and no other attempt has one."""
    head, current = draft.observed.head, draft.status.head
    assert current is not None
    if head is None:
        if draft.is_over(parse_time(current.start_time)):
            _create_head(draft)
    elif (head.attempt or 0) < draft.status.attempt:
        if not head.ended or draft.is_over(parse_time(current.start_time)):  # until then its logs can be read
            draft.delete(head)
    elif head.attempt == draft.status.attempt and not head.ended:
        record_trouble(draft, head)
        if head.node_lost:
            draft.delete(head)


def _create_head(draft: Draft) -> None:
    current = draft.status.head
    assert current is not None
    if draft.since(current.start_time) > UNSEEN:
        begin(draft, draft.now)
    draft.actions.append(CreateHead(draft.status.attempt, current.restarts_before))


def head_is_gone(draft: Draft) -> bool:
    """Whether the current attempt's head has run and is there no more, nor any word of how it ended."""
    head, current = draft.observed.head, draft.status.head
    if current is None or current.uid is None:
        return False
    return head is None or (head.attempt == draft.status.attempt and head.uid != current.uid)


def attempt_is_over(draft: Draft) -> bool:
    """Whether the current attempt's head has ended, with or without a word."""
    return head_is_gone(draft) or (draft.head is not None and draft.head.ended)


def after_attempt(draft: Draft) -> None:
    """The current attempt is over: the job has its result, or another attempt follows, or it has failed."""
    head = draft.head
    verdict = head.verdict if head else None
    if verdict is not None and verdict.status == "Succeeded":
        succeed(draft, verdict)
        return
    failure = _record_end(draft, head, verdict)
    kind, budget, used = REASONS[failure.reason].kind, draft.job.spec.lifecycle.restarts, draft.status.restarts
    if failure.reason == "RestartsExhausted" and used.infrastructure < budget.infrastructure:
        kind = "Infrastructure"  # its head was born with a smaller budget
    if kind == "Infrastructure" and used.infrastructure < budget.infrastructure:
        draft.status.restarts = used.model_copy(update={"infrastructure": used.infrastructure + 1})
    elif kind == "User" and used.user < budget.user:
        draft.status.restarts = used.model_copy(update={"user": used.user + 1})
    elif kind == "Infrastructure":
        fail(
            draft,
            "RestartsExhausted",
            f"All {budget.infrastructure} restarts of spec.lifecycle.restarts.infrastructure are used; "
            f"the last failure: {failure.reason}: {failure.message}",
        )
        return
    else:
        fail(draft, failure.reason, failure.message)
        return
    draft.status.phase = "Recovering"
    begin(draft, draft.now + timedelta(seconds=backoff(budget, draft.status.failures)))


def _record_end(draft: Draft, head: Pod | None, verdict: Verdict | None) -> Failure:
    """The failure that ended the attempt, recorded."""
    if verdict is not None and verdict.status == "Failed":
        reason = verdict.reason if verdict.reason in REASONS else "UserError"
        told = verdict.failures[-1] if verdict.failures else None
        if told is not None and told.reason == reason:
            return told
        return record(draft, reason, verdict.message or REASONS[reason].meaning, head)
    if noticed := _noticed(draft, head):
        return noticed
    if head is not None:
        return record(draft, *_unspoken(head), head)
    return record(draft, "HeadLost", f"Pod {draft.job.name}-head is gone.")


def _noticed(draft: Draft, head: Pod | None) -> Failure | None:
    """What was recorded of the attempt's head while it lived."""
    if head is not None:
        return recorded(draft.status, head)
    name, attempt = f"{draft.job.name}-head", draft.status.attempt
    return next((item for item in reversed(draft.status.failures) if (item.pod, item.attempt) == (name, attempt)), None)


def _unspoken(head: Pod) -> tuple[str, str]:
    """Reason and message of an end that the head left no reason for."""
    if head.reason == "OOMKilled":
        return "OutOfMemory", (
            f"Pod {head.name} needed more memory than its limit; raise spec.head.resources.limits.memory."
        )
    if trouble := pod_trouble(head):
        return trouble
    if head.verdict is not None:
        return "Evicted", f"Pod {head.name} was told to stop, and saved a checkpoint."
    code = "" if head.exit_code is None else f" with exit code {head.exit_code}"
    return "HeadLost", f"Pod {head.name} ended{code} and left no reason.{f' {head.message}' if head.message else ''}"


def backoff(budget: Restarts, failures: list[Failure]) -> float:
    """Seconds until the next attempt: none at first, and doubled while attempts train no further than those before."""
    reached: dict[int, int] = {}
    for failure in failures:
        reached[failure.attempt] = max(reached.get(failure.attempt, 0), failure.step or 0)
    steps = [step for _, step in sorted(reached.items())]
    fruitless = 0
    while fruitless + 1 < len(steps) and steps[-1 - fruitless] <= max(steps[: -1 - fruitless]):
        fruitless += 1
    if fruitless == 0:
        return 0.0
    return float(min(budget.max_backoff_seconds, budget.backoff_seconds * 2 ** (fruitless - 1)))
