"""What the state machine decides: the next actions, the status to write, the events to tell."""

from dataclasses import dataclass
from typing import Literal

from windlass.spec.status import JobStatus


@dataclass(frozen=True)
class CreateHead:
    """Create the head pod of an attempt, once there are ServiceAccount, token Secret, NetworkPolicy and Service."""

    attempt: int
    restarts: int
    """Infrastructure restarts used so far; the head goes on counting."""


@dataclass(frozen=True)
class CreateWorker:
    """Create the worker pod of a seat."""

    index: int


@dataclass(frozen=True)
class CreateCleanup:
    """Create the pod that deletes the job's storage."""


@dataclass(frozen=True)
class DeletePod:
    """Delete one pod, and only the one with this UID."""

    name: str
    uid: str
    force: bool = False
    """Without waiting for its node; for nodes that are known dead."""


@dataclass(frozen=True)
class SetFinalizer:
    """Add the storage finalizer, or remove it."""

    present: bool


@dataclass(frozen=True)
class DeleteJob:
    """Delete the job itself: its time after the end is over."""


Action = CreateHead | CreateWorker | CreateCleanup | DeletePod | SetFinalizer | DeleteJob


@dataclass(frozen=True)
class Event:
    """A line of `kubectl describe`."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """What is to be done now. A status that differs comes before pods: an attempt is on record before it starts."""

    status: JobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    again_after: float | None = None
    """Seconds until time alone may change the decision; None: never."""
    can_wait: bool = False
    """Whether the status, and its events, may be written a little later, together with what comes until then."""
