"""A Ray cluster on this machine, for one run: started, used by Ray Train, stopped. Nothing listens beyond loopback.

Most of the time from `windlass run` to the first step goes into Python imports on few cores. So Ray starts while the
driver prepares data, and only the ranks and the driver import torch: this module, which Ray's own processes load too,
does not.
"""

import logging
import os
import pickle
import secrets
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windlass.engine.rank_settings import RankSettings
    from windlass.engine.trimmed_ray import TrimmedNode

POLL_SECONDS = 0.1
ADDRESS = "127.0.0.1"
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every server binds to 127.0.0.1, as Ray does on laptops
    "RAY_AUTH_MODE": "token",  # other users of this machine can't reach it either
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_prestart_worker_first_driver": "0",  # those would have another environment than the ranks, and be idle
    "RAY_worker_niceness": "0",  # Ray's default, 15, gives the cores to everyone else first
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
WORKERS_ENVIRONMENT = {  # what Ray Train adds to its processes' environment is in the cluster's from the start
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a dead rank is noticed at once
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
}
RANKS_ENVIRONMENT = {
    # Processes that become ranks start with Ray, and import what ranks need while the driver still prepares.
    "RAY_enable_worker_prestart": "1",
    "RAY_worker_register_timeout_seconds": "600",  # they import first, on a busy machine for long
    "WINDLASS_RANK_IMPORTS": "ray.train.v2._internal.execution.worker_group.worker,windlass.engine.train_function,"
    "torch._dynamo",  # which torch.optim imports
}
PRESTART_SECONDS = 10.0
"""How long processes that have imported everything may take to join Ray."""


class RayLocal:
    """A local Ray cluster with a place for each rank; starts in the background while data is prepared.

    One thread starts, uses and stops it. It has to live as long as Ray: Linux ends Ray's servers with the thread that
    started them. And it is not the main thread, where Ray Train would take SIGINT for itself.
    """

    def __init__(self, ranks: int, threads: int) -> None:
        self._ranks = ranks
        self._fits = 0
        self._node: TrimmedNode | None = None
        # Paths of sockets may have about 100 characters, which TMPDIR on a Mac takes by itself.
        self._folder = tempfile.TemporaryDirectory(prefix="wl-", dir="/tmp", ignore_cleanup_errors=True)
        os.environ.update(ENVIRONMENT | WORKERS_ENVIRONMENT | RANKS_ENVIRONMENT)
        os.environ.update(
            RAY_AUTH_TOKEN=secrets.token_hex(32),
            OMP_NUM_THREADS=str(threads),
            GLOO_SOCKET_IFNAME="lo0" if sys.platform == "darwin" else "lo",
            NCCL_SOCKET_IFNAME="lo",
        )
        import ray  # noqa: F401 - here, so that no other thread imports while this one does

        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray")
        self._started = self._thread.submit(self._start)

    def _start(self) -> None:
        import ray
        from ray._private import state

        from windlass.engine.trimmed_ray import TrimmedNode

        self._node = TrimmedNode(
            head=True, address=ADDRESS, temp_dir=self._folder.name, shutdown_at_exit=False, num_cpus=self._ranks
        )
        ray.init(
            address=self._node.gcs_address,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address=ADDRESS,
        )
        # They have registered, or Ray would not be here; those that it cannot use yet it would start once more. Ray
        # starts no more at a time than there are cores.
        started, deadline = min(self._ranks, os.cpu_count() or 1), time.monotonic() + PRESTART_SECONDS
        while len(state.workers()) < started and time.monotonic() < deadline:  # type: ignore[no-untyped-call]
            time.sleep(POLL_SECONDS)

    def fit(self, settings: "RankSettings") -> None:
        """Train on every rank through Ray Train. Raises WindlassError when a rank fails."""
        self._started.result()
        self._thread.submit(self._fit, settings).result()

    def _fit(self, settings: "RankSettings") -> None:
        from windlass.engine.trimmed_trainer import fit

        self._fits += 1
        config = {"settings": pickle.dumps(settings)}  # the controller need not import what they are made of
        meet = partial(_file, f"{self._folder.name}/rendezvous-{self._fits}")
        on_gpus = settings.plan.device == "cuda"
        fit(train_on_ray, config, meet=meet, ranks=self._ranks, on_gpus=on_gpus, folder=f"{self._folder.name}/train")

    def close(self) -> None:
        """Stop all of its processes."""
        import ray

        self._thread.submit(ray.shutdown).result()
        if self._node is not None:
            self._thread.submit(self._node.kill_all_processes, check_alive=False, allow_graceful=True).result()
        self._thread.shutdown()
        self._folder.cleanup()


def _file(path: str) -> str:
    """The ranks meet at a file, so that no port is opened for it."""
    return f"file://{path}"


def train_on_ray(config: dict[str, Any], place: str) -> None:
    """Ray Train's train function."""
    import ray.train

    from windlass.engine.train_function import train_among

    context = ray.train.get_context()
    train_among(pickle.loads(config["settings"]), context.get_world_rank(), context.get_world_size(), place)
