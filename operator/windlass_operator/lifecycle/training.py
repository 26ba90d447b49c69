"""Whether a job trains, judged by its pods and its head's report together, and how phase and conditions say so."""

from collections.abc import Iterator
from datetime import timedelta

from windlass.spec.status import ConditionType, WorkerStatus
from windlass_operator.job import parse_time
from windlass_operator.lifecycle.draft import Draft
from windlass_operator.lifecycle.failures import pod_trouble, trouble, unheard
from windlass_operator.lifecycle.observed import HeadReport, Pod
from windlass_operator.lifecycle.seats import is_vacant, seated, wanted

PUNCTUAL = timedelta(seconds=30)
"""A start that takes no longer than this needs no explanation."""
SKEW = timedelta(seconds=60)
"""Clocks of nodes and of the API server may differ by less than this."""


def tell(draft: Draft) -> None:
    """Write phase and conditions of a job that should train."""
    _tell_pods(draft)
    report = draft.report if _head_is_believed(draft) else None
    before = draft.status.phase
    if _trains(draft, report):
        workers = draft.status.workers.desired if report is None else report.workers
        draft.status.phase = "Running"
        draft.set_condition("Training", "True", "Running", f"Attempt {draft.status.attempt}, {workers} workers.")
    elif report is not None and report.phase == "Preparing":
        draft.status.phase = "Preparing"
        _tell_stillness(draft, "Preparing", report.message)
    elif draft.report is None and _head_is_believed(draft) and before in {"Preparing", "Starting"}:
        return  # the operator's own restart: the head has yet to answer
    elif before in {"Running", "Recovering"} or _broke(draft, report):
        draft.status.phase = "Recovering"
        _tell_recovery(draft, report)
    else:
        draft.status.phase = "Starting"
        _tell_start(draft, report)


def _broke(draft: Draft, report: HeadReport | None) -> bool:
    """Whether something broke before the ranks trained."""
    if report is not None:
        return report.phase == "Recovering"
    return draft.observed.silent and draft.report is not None


def _head_is_believed(draft: Draft) -> bool:
    """Whether the head is alive as far as is known: it answers, or it is ready and has hardly been asked yet."""
    head, report = draft.head, draft.report
    if head is None or head.phase != "Running" or pod_trouble(head) is not None:
        return False
    return not draft.observed.silent and (head.ready or report is not None)


def _trains(draft: Draft, report: HeadReport | None) -> bool:
    """Whether the ranks train: the head says so, and no pod says otherwise.

    A worker that is not ready says nothing: its head hears of it within a second, and by then reports that the ranks
    stopped, or goes on training. A worker that is gone says much: a head on the far side of a broken network may not
    know it for a while. A report of n workers is true of n live pods that were there when training started.
    """
    before = draft.status.phase == "Running"
    if report is None:  # after the operator's own restart, before a head has answered
        alive = [pod for pod in seated(draft).values() if _lives(pod)]
        return before and _head_is_believed(draft) and len(alive) >= draft.job.status.workers.ready
    if report.phase in {"Stopping", "Succeeded", "Stopped", "Failed"}:
        return before  # the last steps are saved; the pod's end says how it went
    if report.phase != "Running":
        return False
    there = [pod for pod in draft.observed.workers if _was_there(draft, pod, report)]
    took_part = [pod for pod in there if _lives(pod) or (pod.phase == "Succeeded" and not is_vacant(draft, pod))]
    return len(took_part) >= max(1, report.workers)


def _lives(pod: Pod) -> bool:
    return pod.phase == "Running" and pod_trouble(pod) is None


def _was_there(draft: Draft, pod: Pod, report: HeadReport) -> bool:
    """Whether a worker's pod is older than the training that the head speaks of, as far as their clocks can tell."""
    if pod.created is None or pod.created <= report.since:
        return True
    certainly_not = pod.created > report.since + SKEW
    return not certainly_not and draft.is_over(pod.created + SKEW) and pod.created + SKEW <= report.received


def _tell_pods(draft: Draft) -> None:
    """The condition PodsReady, in the scheduler's or the kubelet's words where a pod can't start."""
    name, pods = draft.job.name, seated(draft)
    ready = [pod for pod in pods.values() if pod.ready and _lives(pod)]
    draft.status.workers = WorkerStatus(desired=len(wanted(draft)), ready=len(ready))
    seats: list[tuple[str, Pod | None]] = [(f"{name}-head", draft.head)]
    seats += [(f"{name}-worker-{index}", pods.get(index)) for index in wanted(draft)]
    missing = [(name, pod) for name, pod in seats if pod is None or not (pod.ready and _lives(pod))]
    waiting = next(((name, pod.waiting) for name, pod in missing if pod and pod.waiting and not pod.deleting), None)
    if not missing:
        draft.set_condition("PodsReady", "True", "Ready", f"Head and {len(ready)} workers are ready.")
    elif waiting:
        draft.set_condition("PodsReady", "False", waiting[1].reason, f"{waiting[0]}: {waiting[1].message}")
    elif draft.observed.refusal:
        draft.set_condition("PodsReady", "False", "PodRefused", draft.observed.refusal.message)
    elif _is_late(draft, "PodsReady"):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        listed = ", ".join(name for name, _ in missing[:3])
        draft.set_condition("PodsReady", "False", "NotReady", f"Waiting for {listed}{more}.")
    else:
        draft.set_condition("PodsReady", "False", "NotReady", "Waiting for pods.")


def _is_late(draft: Draft, kind: ConditionType) -> bool:
    """Whether a condition has been false for so long that somebody may ask why. Before that, each word is a write."""
    condition = draft.condition(kind)
    if condition is None or condition.status == "True":
        return False
    return draft.is_over(parse_time(condition.last_transition_time) + PUNCTUAL)


def _tell_start(draft: Draft, report: HeadReport | None) -> None:
    ready = draft.condition("PodsReady")
    if ready is not None and ready.reason in {"Unschedulable", "ImagePullFailed", "ReferenceMissing", "PodRefused"}:
        _tell_stillness(draft, ready.reason, ready.message)
    else:
        late = report is not None and _is_late(draft, "Training")
        _tell_stillness(draft, "Starting", report.message if report and late else "Pods start and find each other.")


def _tell_recovery(draft: Draft, report: HeadReport | None) -> None:
    """Why nothing trains. What was said first stays, until something new happens or training goes on."""
    news, training = unheard(draft.job.status, draft.status), draft.condition("Training")
    shown = next(_troubles(draft), None)
    if shown is not None:
        _tell_stillness(draft, *shown)
    elif news:
        _tell_stillness(draft, news[-1].reason, news[-1].message)
    elif training is None or training.status == "True" or draft.job.status.phase != "Recovering":
        _tell_stillness(draft, "Recovering", report.message if report else "")


def _troubles(draft: Draft) -> Iterator[tuple[str, str]]:
    """What the pods show of it."""
    head, pods = draft.head, seated(draft)
    for pod in [head, *pods.values()]:
        if pod is not None and (found := trouble(draft, pod)):
            yield found
    if head is not None and head.phase == "Running" and not _head_is_believed(draft):
        yield "HeadLost", f"Pod {head.name} does not answer."
    if draft.job.status.phase == "Running":
        for index in wanted(draft):
            if index not in pods:
                yield "RankFailed", f"Pod {draft.job.name}-worker-{index} is gone."


def _tell_stillness(draft: Draft, reason: str, message: str) -> None:
    """Nothing trains. A message that differs by its numbers only, as in a count, is not worth a write."""
    old = draft.condition("Training")
    if old is not None and old.reason == reason and _words(old.message) == _words(message):
        message = old.message
    draft.set_condition("Training", "False", reason, message)


def _words(message: str) -> str:
    return "".join(character for character in message if not character.isdigit())
