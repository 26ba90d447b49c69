"""Ray Train as we use it, with a real Ray."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
from windlass.engine.ray_local import ENVIRONMENT, WORKERS_ENVIRONMENT
os.environ.update(ENVIRONMENT | WORKERS_ENVIRONMENT, RAY_AUTH_TOKEN="0" * 64)
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "1"
import ray
from windlass.engine.trimmed_trainer import fit
from windlass.errors import WindlassError
ray.init(address="local", include_dashboard=False, num_cpus=1, object_store_memory=128 << 20, log_to_driver=False,
         runtime_env={"env_vars": {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1"}})
try:
    fit(print, {}, ranks=2, on_gpus=False, folder=sys.argv[1])
except WindlassError as error:
    print(error.reason, error.retryable, error)
"""


def test_ranks_that_find_no_room_are_a_failure_that_the_driver_hears_of(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1].startswith("RankFailed True The ranks did not start"), done.stderr
