"""A Ray cluster on this machine, for one run: started, used by Ray Train, stopped. Nothing listens beyond loopback.

Most of the time from `windlass run` to the first step goes into Python imports on few cores. So Ray starts while the
driver prepares data, and only the ranks and the driver import torch: this module, which Ray's own processes load too,
does not.
"""

import os
import pickle
import secrets
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windlass.engine.rank_settings import RankSettings

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
    # Processes that become ranks import what ranks need while the driver still prepares.
    "RAY_enable_worker_prestart": "1",
    "RAY_preload_python_modules": "ray.train.collective,windlass.engine.train_function",
}


class RayLocal:
    """A local Ray cluster with a place for each rank; starts in the background while data is prepared.

    One thread starts, uses and stops it. It has to live as long as Ray: Linux ends Ray's servers with the thread that
    started them. And it is not the main thread, where Ray Train would take SIGINT for itself.
    """

    def __init__(self, ranks: int, threads: int) -> None:
        self._ranks = ranks
        self._fits = 0
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

        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=self._ranks,
            object_store_memory=128 << 20,
            log_to_driver=False,
            _temp_dir=self._folder.name,
        )

    def fit(self, settings: "RankSettings") -> None:
        """Train on every rank through Ray Train. Raises WindlassError when a rank fails."""
        self._started.result()
        self._thread.submit(self._fit, settings).result()

    def _fit(self, settings: "RankSettings") -> None:
        from windlass.engine.trimmed_trainer import fit

        self._fits += 1
        config = {
            "settings": pickle.dumps(settings),  # the controller need not import what they are made of
            "rendezvous": f"{self._folder.name}/rendezvous-{self._fits}",
        }
        on_gpus = settings.plan.device == "cuda"
        fit(train_on_ray, config, ranks=self._ranks, on_gpus=on_gpus, folder=f"{self._folder.name}/train")

    def close(self) -> None:
        """Stop all of its processes."""
        import ray

        self._thread.submit(ray.shutdown).result()
        self._thread.shutdown()
        self._folder.cleanup()


def train_on_ray(config: dict[str, Any]) -> None:
    """Ray Train's train function. The ranks meet at the file config["rendezvous"], so that no port is opened for it."""
    import ray.train

    from windlass.engine.train_function import train_among

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    train_among(pickle.loads(config["settings"]), rank, world_size, f"file://{config['rendezvous']}")
