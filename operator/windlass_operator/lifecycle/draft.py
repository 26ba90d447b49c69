"""A decision while it is being made."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from windlass.spec.status import Condition, ConditionType, JobStatus
from windlass_operator.job import Job, parse_time
from windlass_operator.lifecycle.decision import Action, Decision, DeletePod, Event
from windlass_operator.lifecycle.observed import HeadReport, Observed, Pod

LONGEST_MESSAGE = 4096
"""Characters of a condition's message; a status should stay small."""


def stamp(moment: datetime) -> str:
    """A time as the API server writes it, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Draft:
    """What is known, and what has been decided so far; what `status` holds is replaced, never changed in place."""

    job: Job
    observed: Observed
    now: datetime
    status: JobStatus = field(init=False)
    actions: list[Action] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    moments: list[datetime] = field(default_factory=list)
    """When time alone may change the decision."""
    can_wait: bool = False

    def __post_init__(self) -> None:
        self.status = self.job.status.model_copy()

    @property
    def head(self) -> Pod | None:
        """The current attempt's head pod."""
        head, current = self.observed.head, self.status.head
        if head is None or current is None or head.attempt != self.status.attempt:
            return None
        return head if current.uid in (None, head.uid) else None

    @property
    def report(self) -> HeadReport | None:
        """What the current attempt's head said last."""
        report = self.observed.report
        if report is None or self.head is None or report.attempt != self.status.attempt:
            return None
        return report

    def since(self, text: str) -> timedelta:
        """Time since a moment of the status."""
        return self.now - parse_time(text)

    def is_over(self, moment: datetime) -> bool:
        """Whether a moment has come; if not, the job is looked at again then."""
        if self.now >= moment:
            return True
        self.moments.append(moment)
        return False

    def condition(self, kind: ConditionType) -> Condition | None:
        return next((condition for condition in self.status.conditions if condition.type == kind), None)

    def is_true(self, kind: ConditionType) -> bool:
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"

    def set_condition(
        self, kind: ConditionType, value: Literal["True", "False", "Unknown"], reason: str, message: str
    ) -> None:
        """Set a condition; its transition time stays while its status does."""
        old = self.condition(kind)
        new = Condition(
            type=kind,
            status=value,
            reason=reason,
            message=message[:LONGEST_MESSAGE],
            last_transition_time=old.last_transition_time if old and old.status == value else stamp(self.now),
            observed_generation=self.job.generation,
        )
        others = [condition for condition in self.status.conditions if condition.type != kind]
        self.status.conditions = sorted([*others, new], key=lambda condition: condition.type)

    def tell_stopping(self) -> None:
        """The head was told to stop. Until it has ended, what it did counts as going on: it makes its last step."""
        training = self.condition("Training")
        if training is not None:
            message = "Saving a checkpoint." if training.status == "True" else "Stopping before it trained."
            self.set_condition("Training", training.status, "Stopping", message)

    def delete(self, pod: Pod) -> None:
        """Delete a pod, unless that has been asked for already; by force where its node can't answer any more."""
        if pod.node_lost or not pod.deleting:
            self.actions.append(DeletePod(pod.name, pod.uid, force=pod.node_lost))

    def decision(self) -> Decision:
        waits = [(moment - self.now).total_seconds() for moment in self.moments]
        again = min((wait for wait in waits if wait > 0), default=None)
        return Decision(self.status, tuple(self.actions), tuple(self.events), again, self.can_wait)
