"""What the operator reports about a job: every field of the status, for the CRD and for those who read it.

Everything is optional: a status grows as the job goes on.
"""

from typing import Annotated, Literal

from pydantic import Field

from windlass.spec.job import Fraction, NonNegativeInt, PositiveInt, SpecModel
from windlass.spec.reasons import REASONS

Phase = Literal["Queued", "Preparing", "Starting", "Running", "Recovering", "Suspended", "Succeeded", "Failed"]
ConditionType = Literal["QuotaReserved", "PodsReady", "Training", "Suspended", "Complete", "Failed"]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A moment as in 2026-01-31T12:00:00Z."""


class Condition(SpecModel):
    """One thing that is true of a job, false, or unknown; for programs."""

    type: ConditionType
    """What it is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why, in one word; the reasons of failures are listed in the documentation."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, for a person."""
    last_transition_time: Time
    """When status last changed."""
    observed_generation: NonNegativeInt | None = None
    """metadata.generation that this was found of."""


class WorkerStatus(SpecModel):
    """The workers that there should be, and are."""

    desired: NonNegativeInt = 0
    """Workers that there should be now."""
    ready: NonNegativeInt = 0
    """Workers that are ready."""


class Progress(SpecModel):
    """How far training is."""

    step: NonNegativeInt = 0
    """Optimizer steps done."""
    max_steps: PositiveInt | None = None
    """Steps at the end."""
    tokens: NonNegativeInt | None = None
    """Training tokens seen."""
    epoch: Annotated[float, Field(ge=0)] | None = None
    """Passes over the training corpus."""
    loss: float | None = None
    """Training loss of the last logged step, in nats a token."""
    validation_loss: float | None = None
    """Last validation loss, in nats a token."""
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    """Speed over the last steps, all ranks together."""
    mfu: Annotated[float, Field(ge=0)] | None = None
    """Model FLOP/s as a share of the GPUs' peak."""
    step_seconds: Annotated[float, Field(ge=0)] | None = None
    """Seconds a step takes."""
    remaining_seconds: Annotated[float, Field(ge=0)] | None = None
    """Estimate of the seconds until the end."""
    updated_at: Time | None = None
    """When this was last known."""


class CheckpointStatus(SpecModel):
    """The newest committed checkpoint."""

    step: NonNegativeInt
    """Step it was taken at."""
    uri: str
    """Where it lies."""
    committed_at: Time
    """When it became valid."""


class Goodput(SpecModel):
    """Time well spent."""

    productive_seconds: Annotated[float, Field(ge=0)]
    """Seconds of steps that were kept."""
    total_seconds: Annotated[float, Field(ge=0)]
    """Seconds since the job got its quota."""
    ratio: Fraction
    """The first as a share of the second."""


class RestartCounts(SpecModel):
    """How much of the budgets is used."""

    infrastructure: NonNegativeInt = 0
    """Restarts after failures of machines."""
    user: NonNegativeInt = 0
    """Restarts after failures of the job itself."""


class Failure(SpecModel):
    """One failure, and what is known of it."""

    time: Time
    """When it was noticed."""
    attempt: NonNegativeInt
    """In which attempt."""
    kind: Literal["Infrastructure", "User"]
    """Whose it was, and so whose budget paid."""
    reason: Annotated[str, Field(json_schema_extra={"enum": list(REASONS)})]
    """Why, in one word of the documentation's table."""
    pod: str | None = None
    """Pod it happened in."""
    node: str | None = None
    """Node of that pod."""
    rank: NonNegativeInt | None = None
    """Rank it happened in."""
    exit_code: int | None = None
    """Exit code of the process; negative for a signal."""
    step: NonNegativeInt | None = None
    """Optimizer steps that were done by then, as far as is known."""
    message: str = ""
    """What happened, for a person."""
    last_log_lines: Annotated[list[str], Field(max_length=100, default_factory=list)]
    """The end of the log."""


class HeadStatus(SpecModel):
    """The head pod of the current attempt."""

    start_time: Time
    """When the attempt starts: at once, or after its backoff."""
    uid: str | None = None
    """UID of its pod, once it has been seen; from then on no other pod may take this attempt's number."""
    restarts_before: NonNegativeInt = 0
    """Restarts of infrastructure's budget that were used before this attempt."""


class JobResult(SpecModel):
    """What a finished job leaves."""

    uri: str | None = None
    """Where the trained model lies."""
    metrics: Annotated[dict[str, float], Field(default_factory=dict)]
    """Final losses and scores."""


class Columns(SpecModel):
    """What `kubectl get` prints, rounded, since a column can neither compute nor format."""

    progress: str | None = None
    """Share of the steps that are done, as in 42%."""
    loss: str | None = None
    """Training loss, as in 3.141."""
    tokens_per_second: str | None = None
    """Speed, as in 1.2M."""
    workers: str | None = None
    """Ready of desired, as in 3/4."""
    restarts: str | None = None
    """Restarts of both kinds together."""
    remaining: str | None = None
    """Time until the end, as in 3h12m."""
    mfu: str | None = None
    """Model FLOP/s utilisation, as in 41%."""
    goodput: str | None = None
    """Share of time well spent, as in 97%."""


class JobStatus(SpecModel):
    """What the operator observed."""

    observed_generation: NonNegativeInt | None = None
    """metadata.generation that the operator last acted on."""
    phase: Phase | None = None
    """Where the job is, in one word for people; conditions are for programs."""
    attempt: NonNegativeInt = 0
    """Number of the current attempt, 1 from the first start on; an older attempt can't commit a checkpoint."""
    head: HeadStatus | None = None
    """The head of the current attempt; none while the job is suspended or has not started."""
    start_time: Time | None = None
    """When the first attempt started."""
    completion_time: Time | None = None
    """When the job ended."""
    suspended_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Seconds that the job was suspended since startTime, up to the last time it was resumed."""
    conditions: Annotated[
        list[Condition],
        Field(
            default_factory=list,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ]
    """What is true of the job, each with reason and message."""
    workers: WorkerStatus = WorkerStatus()
    """Workers desired and ready."""
    progress: Progress | None = None
    """How far training is."""
    checkpoint: CheckpointStatus | None = None
    """The newest committed checkpoint."""
    goodput: Goodput | None = None
    """Time well spent."""
    restarts: RestartCounts = RestartCounts()
    """How much of the budgets of spec.lifecycle.restarts is used."""
    failures: Annotated[list[Failure], Field(max_length=10, default_factory=list)]
    """The last ten failures, oldest first."""
    result: JobResult | None = None
    """What a finished job leaves."""
    columns: Columns | None = None
    """What `kubectl get` prints."""
