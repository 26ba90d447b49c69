"""The job's workers as places for its ranks: a Ray that their supervisors have joined, used through Ray Train."""

import contextlib
import logging
import os
import pickle
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from windlass.engine.failures import Stopped
from windlass.engine.machine import Machine
from windlass.engine.pods import ray_node
from windlass.engine.pods.pod import Pod, fit_folder
from windlass.engine.pods.stored_run import fetch_history, keep_run
from windlass.engine.rank_settings import RankSettings
from windlass.engine.run_folder import Record, RunFolder, last, read_json, read_lines, write_json
from windlass.errors import WindlassError
from windlass.lock import Claim, require_held
from windlass.planning.batching import batching
from windlass.spec.checks import check
from windlass.spec.job import LLMTrainingJob
from windlass.spec.problems import InvalidJob
from windlass.storage import PATIENCE

POLL_SECONDS = 0.1
WATCH_SECONDS = 1.0
"""Between two looks for more workers while the ranks train."""
PATIENCE_SECONDS = 10.0
"""How long a job that may be smaller waits for more workers before it starts with those that are there."""
ANSWERS = 64
"""Workers that are asked side by side whether they are there."""
SETTLED_SECONDS = 5.0
"""How long more workers have to be there before the ranks are stopped to go on with them."""
STOPPED_PATIENCE = 10.0
"""Seconds that the storage may be away when a run that has not succeeded leaves its files there."""
LAST_WORD_SECONDS = 10.0
"""How long the last metrics of ranks that have ended may take to the head."""


class RayCluster:
    """The worker pods; `windlass.engine.places.Places`. It connects in the background while data are prepared."""

    def __init__(self, job: LLMTrainingJob, run: RunFolder, pod: Pod, attempt: int) -> None:
        self._job = job
        self._run = run
        self._pod = pod
        self._attempt = attempt
        self._workers: list[Record] = []
        os.environ.update(ray_node.environment())
        # Not the main thread, where Ray Train would take SIGINT for itself.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray")
        self._started = self._thread.submit(self._start)
        self._keeping = threading.Thread(target=keep_run, args=(run, job), daemon=True)

    def _start(self) -> None:
        _wait_for_port(self._pod.ip, self._pod.ray_port)
        import ray

        ray.init(
            address=f"{self._pod.ip}:{self._pod.ray_port}",
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address=self._pod.ip,
        )

    def check(self) -> None:
        """Hold the job to what a cluster needs; take over what earlier attempts have left."""
        if problems := check(self._job, cluster=True):
            raise InvalidJob(problems)
        fetch_history(self._run, self._job)

    def gather(self) -> int:
        """Wait for all workers; with minReplicas, go on with fewer when no more have come for a while."""
        settled, before = time.monotonic(), -1
        while True:
            if self._run.stop.exists():
                raise Stopped
            joined = self._joined()
            if len(joined) != before:
                settled, before = time.monotonic(), len(joined)
                self._run.tell("workers", "", ready=len(joined), desired=self._replicas)
            patient = time.monotonic() - settled < PATIENCE_SECONDS
            count = self._largest(len(joined))
            workers = joined[: count or self._replicas]
            if (len(joined) >= self._replicas or (count and not patient)) and self._answer(workers):
                self._workers = workers
                return len(self._workers) * self._ranks_per_worker
            time.sleep(POLL_SECONDS)

    @property
    def _ranks_per_worker(self) -> int:
        return self._job.spec.workers.gpus_per_worker or 1

    @property
    def _replicas(self) -> int:
        """How many workers there should be now."""
        return int((read_json(self._run.wanted) or {}).get("replicas", self._job.spec.workers.replicas))

    def _joined(self) -> list[Record]:
        """The workers that Ray can reach and that stay."""
        if not self._started.done():
            return []
        self._started.result()
        alive = self._nodes()
        return [worker for worker in read_json(self._run.workers) or [] if worker["ip"] in alive]

    def _nodes(self) -> dict[str, int]:
        """Addresses of Ray's nodes that are alive, each with the port of its Ray."""
        from ray import nodes

        known = nodes()  # type: ignore[no-untyped-call]
        return {node["NodeManagerAddress"]: node["NodeManagerPort"] for node in known if node["Alive"]}

    def _start_spares(self, hosts: list[str], count: int) -> None:
        """Have as many processes wait on each of these nodes, for the ranks' next start."""
        from windlass.engine.pods.spares import start_spares

        nodes = self._nodes()
        for host in nodes.keys() & set(hosts):
            start_spares(host, nodes[host], count)

    def _answer(self, workers: list[Record]) -> bool:
        """Whether all workers are there now: of a machine that was switched off, Ray knows only after seconds."""
        with ThreadPoolExecutor(max_workers=ANSWERS) as threads:
            return all(threads.map(lambda worker: _listens(worker["ip"], self._pod.http_port), workers))

    def _largest(self, joined: int) -> int | None:
        """How many of the workers can share a batch evenly; None when they are fewer than the job wants at least."""
        spec = self._job.spec
        replicas = self._replicas
        for count in range(min(joined, replicas), (spec.workers.min_replicas or replicas) - 1, -1):
            with contextlib.suppress(WindlassError):
                training = spec.training
                batching(training.global_batch_size, training.micro_batch_size, count * self._ranks_per_worker)
                return count
        return None

    def machine(self) -> Machine:
        """The gathered workers as one machine: the smallest of them, times their number."""
        machines = [Machine(**worker["machine"]) for worker in self._workers]
        smallest = min(machines, key=lambda machine: machine.memory)
        threads = min(machine.threads or 1 for machine in machines)
        count = len(machines)
        if smallest.device == "cuda":
            return replace(smallest, threads=threads, devices=smallest.devices * count)
        return replace(smallest, threads=threads, memory=smallest.memory * count)

    def fit(self, settings: RankSettings) -> bool:
        number = 1 + sum(event["kind"] == "fit" for event in read_lines(self._run.events))
        fit = f"{self._attempt}-{number}"
        self._run.pause.unlink(missing_ok=True)
        self._run.tell("fit", "", fit=fit, workers=[worker["index"] for worker in self._workers])
        if not self._keeping.ident:
            self._keeping.start()
        config = {
            "settings": pickle.dumps(settings),
            "fit": fit,
        }  # the controller need not import what they are made of
        ranks = len(self._workers) * self._ranks_per_worker
        training = self._thread.submit(self._fit, config, ranks, settings.plan.device == "cuda")
        self._watch(training)
        training.result()
        stopped = self._last_word()["stopped"]
        if stopped and not self._run.stop.exists():
            self._run.enter("Recovering", "Starting again with the workers that there are now")
            return False
        return True

    def _fit(self, config: dict[str, Any], ranks: int, on_gpus: bool) -> None:
        from windlass.engine.trimmed_trainer import fit

        folder = str(self._run.path / "ray-train")
        fit(train_in_pod, config, meet=open_store, ranks=ranks, on_gpus=on_gpus, folder=folder)

    def _watch(self, fit: "Future[None]") -> None:
        """While the ranks train: prepare their next start, and ask for it once more workers have stayed for a while."""
        since, prepared = None, False
        while not fit.done():
            if not prepared and last(list(read_lines(self._run.events)), "phase").get("phase") == "Running":
                prepared = True
                self._start_spares([worker["ip"] for worker in self._workers], self._ranks_per_worker)
            if (self._largest(len(self._joined())) or 0) <= len(self._workers):
                since = None
            elif since is None:
                since = time.monotonic()
            elif time.monotonic() - since > SETTLED_SECONDS:
                self._run.pause.touch()
            wait([fit], timeout=WATCH_SECONDS)

    def _last_word(self) -> Record:
        """How the ranks ended, by rank 0's word, which comes after all of its metrics."""
        deadline = time.monotonic() + LAST_WORD_SECONDS
        while time.monotonic() < deadline:
            for event in reversed(list(read_lines(self._run.events))):
                if event["kind"] == "end":
                    return event
                if event["kind"] == "fit":
                    break
            time.sleep(POLL_SECONDS)
        raise WindlassError("RankFailed", "The ranks have ended, and their last metrics did not arrive.")

    def keep(self, run: RunFolder, claim: Claim) -> None:
        succeeded = (read_json(run.result) or {}).get("status") == "Succeeded"
        patience = PATIENCE if succeeded else STOPPED_PATIENCE
        if self._keeping.ident:
            self._keeping.join(patience)
        require_held(claim, run.checkpoints_uri(self._job), patience)
        keep_run(run, self._job, patience)

    def close(self) -> None:
        """Ray itself ends with the head's supervisor."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _wait_for_port(host: str, port: int) -> None:
    while not _listens(host, port):
        time.sleep(POLL_SECONDS)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


_stores: list[Any] = []
"""In rank 0's process: what the ranks meet at, which lives as long."""


def open_store() -> str:
    """Where ranks meet: a store that rank 0 serves on its pod's address, and on that alone."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    pod = Pod.here()
    with socket.create_server((pod.ip, 0)) as listener:
        port = listener.getsockname()[1]
        _stores.append(
            TCPStore(pod.ip, port, is_master=True, wait_for_workers=False, master_listen_fd=os.dup(listener.fileno()))
        )
    return f"tcp://{pod.ip}:{port}"


def train_in_pod(config: dict[str, Any], place: str) -> None:
    """Ray Train's train function, in a worker pod."""
    import ray.train

    from windlass.engine.train_function import train_among

    pod = Pod.here()
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    folder = fit_folder(pod.run, config["fit"])
    settings = replace(pickle.loads(config["settings"]), folder=folder.path)
    end = {"pid": os.getpid(), "raised": True}  # for this pod's supervisor
    try:
        train_among(settings, rank, world_size, place)
        end = {"pid": os.getpid(), "ended": True}
    finally:
        write_json(folder.rank(rank), end)
