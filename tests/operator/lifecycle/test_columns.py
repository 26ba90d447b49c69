"""What `kubectl get` prints."""

from windlass.spec.status import Columns, Goodput, JobStatus, Progress, RestartCounts, WorkerStatus
from windlass_operator.lifecycle.columns import columns

PROGRESS = Progress(
    step=427, max_steps=1000, loss=3.14159, tokens_per_second=1_234_567.0, remaining_seconds=11_520.0, mfu=0.412
)
STATUS = JobStatus(
    phase="Running",
    conditions=[],
    failures=[],
    progress=PROGRESS,
    workers=WorkerStatus(ready=3, desired=4),
    restarts=RestartCounts(infrastructure=2, user=1),
    goodput=Goodput(productive_seconds=97, total_seconds=100, ratio=0.97),
)


def test_numbers_are_rounded_for_people() -> None:
    assert columns(STATUS) == Columns(
        progress="42%",
        loss="3.142",
        tokens_per_second="1.23M",
        workers="3/4",
        restarts="3",
        remaining="3h12m",
        mfu="41%",
        goodput="97%",
    )


def test_a_job_that_does_not_train_has_no_speed_and_no_time_left() -> None:
    still = columns(STATUS.model_copy(update={"phase": "Recovering"}))
    assert (still.tokens_per_second, still.remaining, still.mfu) == (None, None, None)
    assert still.progress == "42%"


def test_a_job_without_progress_has_empty_columns() -> None:
    assert columns(JobStatus(conditions=[], failures=[])) == Columns(workers="0/0", restarts="0")
