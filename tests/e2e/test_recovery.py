"""One job that is hit by one fault after another, and in the end has the losses of a run that was left alone.

Each test prints the seconds from its fault to the next step; docs/benchmarks.md has them beside the targets.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.cluster import (
    RELEASE_NAMESPACE,
    SCRIPT,
    Cluster,
    eviction,
    kubectl,
    losses_of,
    now,
    run,
    small_job,
    times,
    wait_for,
)

pytestmark = pytest.mark.timeout(600)
NAME = "hardy"
INTERRUPTION = 2.0
"""Seconds without a step that are no pause of a busy machine."""
KILL_A_RANK = """
import psutil
[rank] = [p for p in psutil.process_iter(["cmdline"]) if " ".join(p.info["cmdline"]).startswith("ray::RayTrainWorker")]
rank.kill()
"""


def hardy(cluster: Cluster) -> dict[str, Any]:
    return small_job(cluster, NAME, maxSteps=100000, globalBatchSize=64, microBatchSize=32, seed=7)


@pytest.fixture(scope="module")
def job(cluster: Cluster) -> Iterator[None]:
    start = now()
    cluster.apply(hardy(cluster))
    cluster.wait_for_phase(NAME, "Running")
    first = wait_for("the first step", lambda: cluster.steps(NAME))[0][0]
    print(f"kubectl apply to the first step of 2 workers: {(first - start).total_seconds():.1f} s")
    wait_for("the first checkpoint", lambda: cluster.status(NAME).get("checkpoint"))  # to go on from
    yield
    kubectl("delete", "llmjob", NAME, "--wait=false")


@pytest.fixture
def uids(cluster: Cluster, job: None) -> dict[str, str]:
    """UIDs of the job's pods, once it has trained for so long that the processes for the next start have imported."""
    cluster.wait_for_phase(NAME, "Running")
    cluster.wait_for_steps_after(NAME, now(), count=25)
    return _uids(cluster)


def _uids(cluster: Cluster) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in cluster.pods(NAME)}


def recovered(cluster: Cluster, name: str, fault: str, moment: datetime, seconds: float = 120) -> None:
    """Wait until the ranks were started anew after the fault, however soon, and make a step; print the times.

    Meanwhile the phase must not say Running for 15 s on end while no step is made.
    """
    seen: list[datetime] = []
    quiet_since: float | None = None

    def next_step() -> datetime | None:
        nonlocal quiet_since
        records = cluster.records(name)
        steps, starts = times(records, "train"), times(records, "fit")
        seen.extend(at for at in steps if not seen or at > seen[-1])
        found = next((at for at in steps if starts and moment < starts[-1] < at), None)
        if found is None and seen and (now() - seen[-1]).total_seconds() > INTERRUPTION:
            running = cluster.status(name)["phase"] == "Running"
            quiet_since = (quiet_since or time.monotonic()) if running else None
            assert quiet_since is None or time.monotonic() - quiet_since < 15, (
                f"Running, 15 s without a step after {fault}"
            )
        return found

    try:
        again = wait_for(f"{name} trains again after {fault}", next_step, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{cluster.describe(name)}") from None
    last = max(at for at in seen if at < again)
    print(
        f"{fault}: {(again - moment).total_seconds():.1f} s to the next step, "
        f"{(again - last).total_seconds():.1f} s without training"
    )
    cluster.wait_for_phase(name, "Running", seconds=30)


def test_a_rank_that_is_killed_is_started_again_in_its_pod(cluster: Cluster, uids: dict[str, str]) -> None:
    moment = now()
    kubectl("exec", f"{NAME}-worker-1", "--", "python", "-c", KILL_A_RANK)
    recovered(cluster, NAME, "a rank is SIGKILLed", moment)
    assert _uids(cluster) == uids

    def told() -> list[dict[str, Any]]:
        """What has failed since, once the operator has written it."""
        failures = cluster.status(NAME)["failures"]
        return [failure for failure in failures if datetime.fromisoformat(failure["time"]) > moment]

    failure = wait_for("the failure is in the status", told)[-1]
    assert (failure["kind"], failure["reason"]) == ("Infrastructure", "RankFailed")


def test_a_worker_pod_that_is_deleted_is_the_only_one_replaced(cluster: Cluster, uids: dict[str, str]) -> None:
    moment = now()
    kubectl("delete", "pod", f"{NAME}-worker-0", "--wait=false", "--grace-period=1")
    recovered(cluster, NAME, "a worker pod is deleted", moment)
    after = _uids(cluster)
    assert [name for name in uids if after[name] != uids[name]] == [f"{NAME}-worker-0"]


def test_an_evicted_worker_saves_before_it_goes(cluster: Cluster, uids: dict[str, str]) -> None:
    path, body = eviction(f"{NAME}-worker-1")
    moment = now()
    kubectl("create", "--raw", path, "-f", "-", text=body)
    recovered(cluster, NAME, "a worker pod is evicted", moment)
    after = _uids(cluster)
    assert [name for name in uids if after[name] != uids[name]] == [f"{NAME}-worker-1"]
    steps = [step for _, step in cluster.steps(NAME)]
    assert steps == list(range(1, len(steps) + 1))


def test_a_head_that_is_lost_is_a_new_attempt_while_the_workers_stay(cluster: Cluster, uids: dict[str, str]) -> None:
    attempt = cluster.status(NAME)["attempt"]
    moment = now()
    kubectl("delete", "pod", f"{NAME}-head", "--grace-period=0", "--force", "--wait=false")
    recovered(cluster, NAME, "the head is lost", moment)
    after = _uids(cluster)
    assert [name for name in uids if after[name] != uids[name]] == [f"{NAME}-head"]
    assert cluster.status(NAME)["attempt"] == attempt + 1


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """metrics.jsonl of the same job, which trains on this machine and is left alone."""
    with undisturbed_run(hardy(cluster), tmp_path_factory.mktemp("undisturbed")) as metrics:
        yield metrics


@contextmanager
def undisturbed_run(job: dict[str, Any], folder: Path) -> Iterator[Path]:
    """metrics.jsonl of a job of the cluster that trains on this machine instead, until the end of the block."""
    spec = job["spec"] | {"checkpoints": {"everySteps": 100000}}
    for pods in ("workers", "head"):
        spec[pods] = {name: value for name, value in spec[pods].items() if name != "template"}
    (folder / "job.yaml").write_text(json.dumps(job | {"spec": spec}))
    process = subprocess.Popen(
        [sys.executable, "-m", "windlass", "run", "job.yaml"], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        yield folder / f"runs/{job['metadata']['name']}/metrics.jsonl"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def losses_in(metrics: Path) -> dict[int, float]:
    """Of each step so far."""
    return dict(losses_of(metrics.read_text().splitlines() if metrics.exists() else []))


def test_the_operator_can_be_killed_at_any_moment(cluster: Cluster, uids: dict[str, str], undisturbed: Path) -> None:
    """The undisturbed run, which the last test compares with, trains from here on."""
    restarts = cluster.status(NAME)["restarts"]
    run("kubectl", "-n", RELEASE_NAMESPACE, "delete", "pods", "--all", "--grace-period=0", "--force")
    moment = now()
    cluster.wait_for_steps_after(NAME, moment, count=10)
    run("kubectl", "-n", RELEASE_NAMESPACE, "rollout", "status", "deployment", "--timeout=60s")
    step = cluster.status(NAME)["progress"]["step"]
    wait_for("the new operator writes progress", lambda: cluster.status(NAME)["progress"]["step"] > step, 60)
    assert _uids(cluster) == uids
    assert cluster.status(NAME)["restarts"] == restarts


@pytest.mark.skipif(not SCRIPT, reason="needs a store that can be killed: set WINDLASS_TEST_CLUSTER")
def test_an_object_store_that_is_away_for_a_minute_costs_no_restart(
    cluster: Cluster, uids: dict[str, str], undisturbed: Path
) -> None:
    restarts = cluster.status(NAME)["restarts"]
    cluster.kill_store()
    moment = now()
    time.sleep(60)
    committed = cluster.status(NAME)["checkpoint"]["step"]  # the last one: by now the operator has heard of it
    cluster.script("up")
    print(
        f"the object store is away for a minute: {cluster.wait_for_steps_after(NAME, now(), 5):.1f} s to the next steps"
    )
    wait_for("a new checkpoint", lambda: cluster.status(NAME)["checkpoint"]["step"] > committed, 90)
    assert cluster.status(NAME)["restarts"] == restarts, moment
    assert _uids(cluster) == uids


def test_the_losses_are_those_of_a_run_that_was_left_alone(cluster: Cluster, job: None, undisturbed: Path) -> None:
    started = times(cluster.records(NAME), "fit")[-1]
    last_recovery = next(step for at, step in cluster.steps(NAME) if at > started)
    cluster.suspend(NAME)
    cluster.wait_for_phase(NAME, "Suspended", seconds=60)
    losses = cluster.losses(NAME)
    enough = last_recovery + 100
    assert len(losses) >= enough
    wait_for(f"step {enough} of the undisturbed run", lambda: len(losses_in(undisturbed)) >= enough, 300)
    alone = losses_in(undisturbed)
    both = losses.keys() & alone.keys()
    print(f"{len(both)} of {len(losses)} steps compared, the last recovery was before step {last_recovery}")
    assert {step: losses[step] for step in both} == {step: alone[step] for step in both}
