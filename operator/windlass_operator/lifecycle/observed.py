"""What the state machine knows of a job's pods and of its head's own report."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from windlass.spec.status import CheckpointStatus, Failure, JobResult, Progress

Role = Literal["head", "worker", "cleanup"]
HeadPhase = Literal["Preparing", "Starting", "Running", "Recovering", "Stopping", "Succeeded", "Stopped", "Failed"]


@dataclass(frozen=True)
class Waiting:
    """Why a pod does not start."""

    reason: Literal["Unschedulable", "ImagePullFailed", "ReferenceMissing"]
    message: str
    """In the scheduler's or the kubelet's own words."""


@dataclass(frozen=True)
class Pod:
    """A pod of a job."""

    name: str
    uid: str
    role: Role
    worker: int | None = None
    """A worker's seat."""
    attempt: int | None = None
    """A head's attempt."""
    phase: Literal["Pending", "Running", "Succeeded", "Failed"] = "Pending"
    ready: bool = False
    deleting: bool = False
    """It has a deletionTimestamp."""
    node: str | None = None
    node_lost: bool = False
    """Its node is gone, or has not been ready for a while: known dead, so the pod may be deleted by force."""
    created: datetime | None = None
    disrupted: datetime | None = None
    """When its end was asked for, as far as Kubernetes says."""
    waiting: Waiting | None = None
    exit_code: int | None = None
    """Of its main container, once it has ended."""
    finished: datetime | None = None
    """When that was."""
    reason: str | None = None
    """Kubernetes' own word, as in OOMKilled or Evicted."""
    message: str | None = None
    """Kubernetes' words to it."""
    verdict: "Verdict | None" = None
    """A head's last word: its termination message."""

    @property
    def ended(self) -> bool:
        """Whether its containers have ended for good."""
        return self.phase in {"Succeeded", "Failed"}


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended, as its head wrote it when it ended."""

    status: Literal["Succeeded", "Stopped", "Failed"]
    reason: str | None = None
    """Of a failure: a word of `windlass.spec.reasons`."""
    message: str | None = None
    result: JobResult | None = None
    checkpoint: CheckpointStatus | None = None
    progress: Progress | None = None
    restarts: int = 0
    """Restarts within the attempt that infrastructure was the cause of."""
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class HeadReport:
    """What a head answered when it was asked for its progress."""

    attempt: int
    phase: HeadPhase
    message: str
    since: datetime
    """When it entered the phase."""
    received: datetime
    """When the operator got this."""
    workers: int = 0
    """Workers that train now."""
    lost: frozenset[int] = frozenset()
    """Seats of workers that the head does not hear of any more, and that did not say that they leave."""
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = None
    restarts: int = 0
    """Restarts within this attempt that infrastructure was the cause of."""
    failures: tuple[Failure, ...] = ()
    """Of this attempt."""
    productive_seconds: float = 0.0
    """Seconds of steps that were kept, over all attempts."""
    vouched_until: datetime | None = None
    """Until when its newest step shows that these workers live: all ranks took part in it."""


@dataclass(frozen=True)
class Refusal:
    """What the API server said when it refused to make a pod of the job."""

    role: Role
    """Of the pod."""
    message: str
    final: bool
    """The pod is wrong, and always will be; else a quota or a policy does not allow it now."""


@dataclass(frozen=True)
class Observed:
    """Everything that is known of a job's objects."""

    pods: tuple[Pod, ...] = ()
    report: HeadReport | None = None
    """The current head's last answer; None when it has not answered yet, or when there is no head."""
    silent: bool = False
    """Whether the head has left several questions in a row unanswered."""
    refusal: Refusal | None = None
    """Of the pod that was asked for last; None when it was made."""
    progress_every: timedelta = timedelta(seconds=10)
    """Between writes of the status that tell nothing but progress."""

    @property
    def head(self) -> Pod | None:
        return next((pod for pod in self.pods if pod.role == "head"), None)

    @property
    def cleanup(self) -> Pod | None:
        return next((pod for pod in self.pods if pod.role == "cleanup"), None)

    @property
    def workers(self) -> tuple[Pod, ...]:
        return tuple(sorted((pod for pod in self.pods if pod.role == "worker"), key=lambda pod: pod.worker or 0))
