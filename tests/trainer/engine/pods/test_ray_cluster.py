"""How many workers a job goes on with."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from windlass.engine.failures import Stopped
from windlass.engine.pods import ray_cluster
from windlass.engine.pods.progress import RunView
from windlass.engine.pods.ray_cluster import RayCluster
from windlass.engine.pods.server import Head
from windlass.engine.run_folder import RunFolder
from windlass.spec.job import LLMTrainingJob


class Joined(RayCluster):
    """A cluster whose workers are the test's."""

    def __init__(self, job: LLMTrainingJob, run: RunFolder) -> None:
        self._job, self._run, self.count = job, run, 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self._pod = SimpleNamespace(http_port=self.server.getsockname()[1])  # type: ignore[assignment]

    def _joined(self) -> list[dict[str, Any]]:
        machine = {"device": "cpu", "devices": 1, "device_name": "cpu", "memory": 8 << 30, "threads": 2}
        return [{"index": index, "machine": machine, "ip": "127.0.0.1"} for index in range(self.count)]


@pytest.fixture
def cluster(
    tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Joined]]:
    monkeypatch.setattr(ray_cluster, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(ray_cluster, "SETTLED_SECONDS", 0.1)
    monkeypatch.setattr(ray_cluster, "WATCH_SECONDS", 0.02)
    made: list[Joined] = []

    def make(*overrides: str) -> Joined:
        made.append(Joined(tiny_job(*overrides), RunFolder(tmp_path)))
        return made[-1]

    yield make
    for one in made:
        one.server.close()


def test_all_workers_are_waited_for_and_a_stop_ends_the_wait(cluster: Callable[..., Joined]) -> None:
    places = cluster("workers.replicas=3")
    places.count = 2
    places._run.stop.touch()
    with pytest.raises(Stopped):
        places.gather()
    places._run.stop.unlink()
    places.count = 3
    assert places.gather() == 3
    assert places.machine().memory == 24 << 30
    assert places.machine().threads == 2


@pytest.mark.parametrize(("joined", "ranks"), [(6, 6), (5, 4), (4, 4), (3, 3)])
def test_a_job_with_min_replicas_goes_on_with_the_most_that_share_a_batch_evenly(
    cluster: Callable[..., Joined], joined: int, ranks: int
) -> None:
    places = cluster("workers.replicas=6", "workers.minReplicas=3")  # globalBatchSize 12
    places.count = joined
    assert places.gather() == ranks


def test_a_worker_whose_machine_was_switched_off_is_waited_for_although_ray_knows_it_yet(
    cluster: Callable[..., Joined],
) -> None:
    places = cluster("workers.replicas=2")
    places.count = 2
    address = places.server.getsockname()
    places.server.close()
    with ThreadPoolExecutor() as threads:
        gathered = threads.submit(places.gather)
        with pytest.raises(TimeoutError):
            gathered.result(0.5)
        places.server = socket.create_server(address)
        assert gathered.result(20) == 2


@pytest.mark.parametrize(("bounds", "replicas", "ranks"), [("maxReplicas=4", 1, 1), ("minReplicas=1", 4, 4)])
def test_what_the_operator_asks_for_now_counts_and_not_what_the_head_was_born_with(
    cluster: Callable[..., Joined], bounds: str, replicas: int, ranks: int
) -> None:
    places = cluster("workers.replicas=2", f"workers.{bounds}")
    places.count = replicas
    head = Head(places._run, RunView(places._run, places._job, attempt=1), attempt=1, token="token")
    head.want(replicas)
    assert places.gather() == ranks


def test_gpus_count_as_ranks(cluster: Callable[..., Joined]) -> None:
    places = cluster("workers.replicas=2", "workers.gpusPerWorker=3")
    places.count = 2
    assert places.gather() == 6


def test_ranks_are_asked_to_save_once_more_workers_have_stayed_for_a_while(cluster: Callable[..., Joined]) -> None:
    places = cluster("workers.replicas=4", "workers.minReplicas=2")
    places.count = 2
    assert places.gather() == 2
    training: Future[None] = Future()
    places.count = 3

    def end_when_asked() -> None:
        deadline = time.monotonic() + 20
        while not places._run.pause.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        training.set_result(None)

    import threading

    waiter = threading.Thread(target=end_when_asked)
    waiter.start()
    places._watch(training)
    waiter.join()
    assert places.gather() == 3
