from collections.abc import Callable

import pytest
from tests.trainer.cli.cluster.conftest import Command
from tests.trainer.jobs import Jobs, Refused
from typer.testing import Result

Windlass = Callable[..., Result]
Start = Callable[..., Command]


@pytest.fixture
def running(windlass: Windlass, jobs: Jobs) -> None:
    """The job plays, which trains."""
    assert windlass("submit", "job.yaml", "--no-watch").exit_code == 0
    jobs.report("plays", observedGeneration=1, phase="Running", attempt=1)


def test_suspend_waits_until_the_job_is_suspended(running: None, start: Start, jobs: Jobs) -> None:
    command = start("suspend", "plays")
    command.wait_for(": suspending")
    assert jobs.get("plays")["spec"]["lifecycle"]["suspend"] is True
    checkpoint = {"step": 7, "uri": "s3://runs/plays/step-7", "committedAt": "2026-01-31T12:00:00Z"}
    jobs.report("plays", observedGeneration=2, phase="Suspended", checkpoint=checkpoint)
    assert command.end() == 0
    assert command.seen[-1] == "plays is suspended at step 7. Continue it with: windlass resume plays"


def test_resume_waits_until_the_job_trains(running: None, start: Start, windlass: Windlass, jobs: Jobs) -> None:
    windlass("suspend", "plays", "--no-wait")
    jobs.report("plays", observedGeneration=2, phase="Suspended")
    command = start("resume", "plays")
    command.wait_for(": resuming")
    assert jobs.get("plays")["spec"]["lifecycle"]["suspend"] is False
    jobs.report("plays", observedGeneration=3, phase="Starting")
    command.wait_for("Starting")
    jobs.report("plays", phase="Running")
    assert command.end() == 0
    assert command.seen[-1] == "plays trains again."


def test_what_was_told_before_is_said_and_waited_for(running: None, windlass: Windlass, jobs: Jobs) -> None:
    again = windlass("resume", "plays")
    assert (again.exit_code, again.stdout.splitlines()[0]) == (0, "plays was told to run before.")


def test_a_job_that_has_ended_is_not_suspended(running: None, windlass: Windlass, jobs: Jobs) -> None:
    jobs.report("plays", phase="Succeeded")
    refused = windlass("suspend", "plays")
    assert refused.exit_code == 2
    assert "plays has ended (Succeeded); submit it under another name" in refused.stderr


def test_a_suspension_survives_the_next_submit(running: None, windlass: Windlass, jobs: Jobs) -> None:
    windlass("suspend", "plays", "--no-wait")
    windlass("submit", "job.yaml", "--no-watch", "--set", "lifecycle.queueName=a")
    assert jobs.get("plays")["spec"]["lifecycle"]["suspend"] is True


def test_cancel_deletes_the_job_and_says_what_becomes_of_its_storage(
    running: None, windlass: Windlass, jobs: Jobs
) -> None:
    asked = windlass("cancel", "plays")
    assert asked.exit_code == 2
    what = f"job plays (Running) in namespace {jobs.namespace}"
    assert asked.stderr == f"This deletes {what}; s3://runs/plays is kept. Add --yes to do so.\n"
    done = windlass("cancel", "plays", "--yes")
    assert (done.exit_code, done.stdout) == (0, "plays: deleted; s3://runs/plays is kept\n")
    with pytest.raises(Refused, match="not found"):
        jobs.get("plays")


def test_cancel_says_that_storage_goes_too(windlass: Windlass, jobs: Jobs) -> None:
    windlass("submit", "job.yaml", "--no-watch", "--set", "checkpoints.onDelete=Delete")
    done = windlass("cancel", "plays", "--yes")
    assert done.stdout == "plays: deleted; s3://runs/plays is deleted too (checkpoints.onDelete: Delete)\n"
