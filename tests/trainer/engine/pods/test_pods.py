"""A job's pods, from their start to the end: real Ray, real object storage, real kills."""

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_a_job_trains_to_its_end_with_the_losses_of_windlass_run(
    pods: Callable[..., Any], ranks: Callable[..., Any], curve: Callable[[Path], Any]
) -> None:
    alone = ranks("alone", 2)
    alone.start()
    job = pods()
    job.wait_for(lambda: job.progress()["phase"] == "Preparing")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        job.ask("/progress", token="wrong")
    assert job.wait("head") == 0, job.logs()
    assert job.termination["status"] == "Succeeded"
    assert job.wait("worker-0") == 0
    assert job.wait("worker-1") == 0
    alone.wait()
    assert curve(job.run.path) == alone.curve()


@pytest.mark.timeout(900)  # seconds; a machine that is busy with other things
def test_killed_ranks_workers_and_heads_are_recovered_with_the_losses_of_an_undisturbed_run(
    pods: Callable[..., Any], ranks: Callable[..., Any], curve: Callable[[Path], Any]
) -> None:
    job = pods("training.maxSteps=100000")
    job.wait_for(lambda: job.step() > 50)

    job.wait_for(lambda: all(job.processes(worker, "ray::IDLE") for worker in ("worker-0", "worker-1")))
    spare = job.processes("worker-0", "ray::IDLE")
    [rank] = job.processes("worker-0", "RayTrainWorker")
    rank.kill()
    job.wait_for(lambda: job.progress()["restarts"] == 1)
    assert job.progress()["phase"] in ("Recovering", "Starting")
    before = job.step()
    job.wait_for(lambda: job.step() > before + 20)
    assert job.progress()["phase"] == "Running"
    [failure] = job.progress()["failures"]
    assert (failure["reason"], failure["pod"], failure["node"]) == ("RankFailed", "tiny-worker-0", "node1")
    assert failure["exitCode"] == -9
    assert failure["lastLogLines"]
    assert job.processes("worker-0", "RayTrainWorker") == spare, "it had started before, and waited"

    job.kill("worker-1")
    job.wait_for(lambda: job.progress()["restarts"] == 2)
    before = job.step()
    job.start_worker(1)
    job.wait_for(lambda: job.step() > before + 20)

    untouched = job.processes("worker-0")[0].pid
    job.kill("head")
    job.start_head(restarts=2)
    job.wait_for(lambda: job.progress()["attempt"] == 2 and job.progress()["phase"] == "Running")
    before = job.step()
    job.wait_for(lambda: job.step() > before + 20)
    assert job.processes("worker-0")[0].pid == untouched

    job.terminate("head")
    assert job.wait("head") == 130
    assert job.termination["status"] == "Stopped"
    reached = job.termination["progress"]["step"]
    assert job.termination["checkpoint"]["step"] == reached
    assert job.alive("worker-0"), "workers stay for the next head"
    undisturbed = ranks("undisturbed", 2, "training.maxSteps=100000")
    undisturbed.start()
    undisturbed.stop(at_step=reached)
    expected = undisturbed.curve()
    actual = curve(job.run.path)
    assert actual == {key: expected[key] for key in actual}
    assert max(step for kind, step in actual if kind == "train") == reached
