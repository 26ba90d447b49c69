"""A job's pods, from their start to the end: real Ray, real object storage, real kills."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_job_trains_to_its_end_with_the_losses_of_windlass_run(
    pods: Callable[..., Any], ranks: Callable[..., Any], curve: Callable[[Path], Any]
) -> None:
    alone = ranks("alone", 2)
    alone.start()
    job = pods()
    assert job.wait("head") == 0, job.logs()
    assert job.termination["status"] == "Succeeded"
    assert job.wait("worker-0") == 0
    assert job.wait("worker-1") == 0
    alone.wait()
    assert curve(job.run.path) == alone.curve()
