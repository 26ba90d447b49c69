"""Faults at random, upon each other, for as long as one likes; in the end nothing was lost and no loss differs.

WINDLASS_CHAOS_MINUTES=15 WINDLASS_CHAOS_SEED=1 .venv/bin/python -m pytest tests/e2e/test_chaos.py -s
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from tests.e2e.cluster import NAMESPACE, RELEASE_NAMESPACE, SCRIPT, Cluster, eviction, now, small_job, wait_for
from tests.e2e.test_recovery import losses_in, undisturbed_run

MINUTES = float(os.environ.get("WINDLASS_CHAOS_MINUTES", 0))
SEED = int(os.environ.get("WINDLASS_CHAOS_SEED", 1))
NAME = "storm"
LONGEST_STANDSTILL = 300
"""Seconds without a step after which the job is stuck: no fault here lasts for more than one minute, and ranks that do
not come are given up after three."""
KILL = """
import os, psutil
for process in psutil.process_iter(["cmdline"]):
    if {what!r} in " ".join(process.info["cmdline"] or []) and process.pid not in (1, os.getpid()):
        process.kill()
        break
"""
pytestmark = [
    pytest.mark.skipif(not MINUTES, reason="takes as long as it is told: set WINDLASS_CHAOS_MINUTES"),
    pytest.mark.skipif(not SCRIPT, reason="needs a cluster that can be broken: set WINDLASS_TEST_CLUSTER"),
    pytest.mark.timeout(int(MINUTES * 60) + 1800),
]


class Storm:
    """What can happen to the job. A fault that finds nothing to hit has missed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.random = random.Random(SEED)
        self.mends: dict[str, float] = {}
        """What node2 needs to be well again, and when it gets it (monotonic)."""

    def faults(self) -> dict[str, Callable[[], object]]:
        return {
            "a rank is killed": lambda: self._kill(self._worker(), "ray::RayTrainWorker"),
            "a worker's Ray is killed": lambda: self._kill(self._worker(), "raylet/raylet"),
            "the head's Ray is killed": lambda: self._kill(f"{NAME}-head", "gcs_server"),
            "the driver is killed": lambda: self._kill(f"{NAME}-head", "windlass.engine.pods.driver"),
            "a worker is deleted": lambda: self._delete(self._worker(), "--grace-period=1"),
            "a worker is gone": lambda: self._delete(self._worker(), "--grace-period=0", "--force"),
            "a worker is evicted": self._evict,
            "the head is deleted": lambda: self._delete(f"{NAME}-head"),
            "the head is gone": lambda: self._delete(f"{NAME}-head", "--grace-period=0", "--force"),
            "head and worker are gone": lambda: self._delete(
                f"{NAME}-head", self._worker(), "--grace-period=0", "--force"
            ),
            "the operator is killed": lambda: _try(
                "-n", RELEASE_NAMESPACE, "delete", "pods", "--all", "--grace-period=0", "--force"
            ),
            "the object store is killed": lambda: self._restart(self.cluster.kill_store),
            "the API server is killed": lambda: self._restart(_kill_api_server),
            "the job is suspended and resumed": self._suspend,
            "a node dies": lambda: self._break_node("kill", "start"),
            "a node is cut off": lambda: self._break_node("cut", "heal"),
            "a node hangs": lambda: self._break_node("pause", "resume"),
        }

    def mend(self, *, all_of_it: bool = False) -> None:
        for mend, due in list(self.mends.items()):
            if all_of_it or time.monotonic() > due:
                _say(f"  node2: {mend}")
                self.cluster.script(mend, "node2")
                del self.mends[mend]

    def _worker(self) -> str:
        return f"{NAME}-worker-{self.random.randrange(2)}"

    def _kill(self, pod: str, what: str) -> None:
        _try("-n", NAMESPACE, "exec", pod, "--", "python", "-c", KILL.format(what=what))

    def _delete(self, *arguments: str) -> None:
        _try("-n", NAMESPACE, "delete", "pod", "--wait=false", *arguments)

    def _evict(self) -> None:
        path, body = eviction(self._worker())
        _try("create", "--raw", path, "-f", "-", text=body)

    def _restart(self, kill: Callable[[], None]) -> None:
        kill()
        time.sleep(self.random.uniform(1, 20))
        self.cluster.script("up")

    def _suspend(self) -> None:
        self.cluster.suspend(NAME)
        time.sleep(self.random.uniform(0, 25))
        self.cluster.suspend(NAME, False)

    def _break_node(self, fault: str, mend: str) -> None:
        if not self.mends:
            self.cluster.script(fault, "node2")
            self.mends[mend] = time.monotonic() + self.random.uniform(3, 50)


def test_no_fault_upon_another_loses_or_changes_a_step(cluster: Cluster, tmp_path: Path) -> None:
    job = small_job(cluster, NAME, maxSteps=100000, globalBatchSize=64, microBatchSize=32, seed=7)
    job["spec"]["lifecycle"]["restarts"] = {"infrastructure": 1000, "backoffSeconds": 1, "maxBackoffSeconds": 5}
    cluster.apply(job)
    cluster.wait_for_phase(NAME, "Running")
    storm = Storm(cluster)
    print(f"seed {SEED}")
    end = time.monotonic() + MINUTES * 60
    while time.monotonic() < end:
        storm.mend()
        if storm.random.random() < 0.5:
            trains(storm, 12)
        else:
            time.sleep(storm.random.uniform(0.5, 12))
        what, fault = storm.random.choice(list(storm.faults().items()))
        _say(f"{what}; step {_last_step(cluster)}")
        fault()
    storm.mend(all_of_it=True)
    trains(storm, 20)
    cluster.suspend(NAME)
    cluster.wait_for_phase(NAME, "Suspended", seconds=120)
    status = cluster.status(NAME)
    losses = cluster.losses(NAME)
    with undisturbed_run(job, tmp_path) as metrics:
        wait_for(f"step {len(losses)} of it", lambda: len(losses_in(metrics)) >= len(losses), 60 * MINUTES + 120)
        alone = losses_in(metrics)
    assert losses == {step: alone[step] for step in losses}
    restarts = status["restarts"]["infrastructure"]
    print(f"{len(losses)} steps in {status['attempt']} attempts with {restarts} restarts, the losses all equal")


def trains(storm: Storm, steps: int) -> None:
    """Wait until the job has made so many steps, while node2 is mended when it is time."""
    start, deadline = now(), time.monotonic() + LONGEST_STANDSTILL
    while sum(at > start for at, _ in storm.cluster.steps(NAME)) < steps:
        assert time.monotonic() < deadline, f"stuck\n{storm.cluster.describe(NAME)}"
        storm.mend()
        time.sleep(1)


def _last_step(cluster: Cluster) -> int | None:
    return next((step for _, step in reversed(cluster.steps(NAME))), None)


def _kill_api_server() -> None:
    for process in psutil.process_iter(["cmdline"]):
        if Path(next(iter(process.info["cmdline"] or []), "")).name == "kube-apiserver":
            os.kill(process.pid, signal.SIGKILL)


def _try(*arguments: str, text: str | None = None) -> None:
    """Run kubectl; its target may be away, or hang."""
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(["kubectl", *arguments], input=text, text=True, capture_output=True, timeout=20, check=False)


def _say(text: str) -> None:
    print(datetime.now().strftime("%T"), text, flush=True)
