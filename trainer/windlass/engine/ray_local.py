"""A Ray cluster on this machine, for one run: started, used by Ray Train, stopped. Nothing listens beyond loopback."""

import os
import secrets
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from windlass.engine.failures import classify

_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every server binds to 127.0.0.1, as Ray does on laptops
    "RAY_AUTH_MODE": "token",  # other users of this machine can't reach it either
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a dead rank is noticed at once
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


class RayLocal:
    """A local Ray cluster with a place for each rank; starts in the background while data is prepared.

    One thread starts, uses and stops it. It has to live as long as Ray: Linux ends Ray's servers with the thread that
    started them. And it is not the main thread, where Ray Train would take SIGINT for itself.
    """

    def __init__(self, ranks: int, threads: int) -> None:
        self._ranks = ranks
        self._threads = threads
        self._folder = tempfile.TemporaryDirectory(prefix="wl-", ignore_cleanup_errors=True)  # sockets: short paths
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray")
        self._started = self._thread.submit(self._start)

    def _start(self) -> None:
        os.environ.update(_ENVIRONMENT, RAY_AUTH_TOKEN=secrets.token_hex(32))
        import ray
        import ray.train.torch

        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=self._ranks,
            object_store_memory=128 << 20,
            log_to_driver=False,
            _temp_dir=self._folder.name,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self._threads)}},
        )

    def fit(self, function: Callable[[dict[str, Any]], None], config: dict[str, Any], use_gpu: bool) -> None:
        """Run the train function on every rank through Ray Train. Raises WindlassError when a rank fails."""
        self._started.result()
        self._thread.submit(self._fit, function, config, use_gpu).result()

    def _fit(self, function: Callable[[dict[str, Any]], None], config: dict[str, Any], use_gpu: bool) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import WorkerGroupError

        trainer = TorchTrainer(
            function,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=self._ranks, use_gpu=use_gpu, resources_per_worker={"CPU": 1}),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=1800),
            run_config=RunConfig(
                name="train",
                storage_path=f"{self._folder.name}/train",
                failure_config=FailureConfig(max_failures=0),  # the driver has budgets of its own
            ),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            raise classify(error.worker_failures.values()) from error
        except TrainingFailedError as error:
            raise classify([error]) from error

    def close(self) -> None:
        """Stop all of its processes."""
        import ray

        self._thread.submit(ray.shutdown).result()
        self._thread.shutdown()
        self._folder.cleanup()
