"""Ray Train as we use it, with a real Ray."""

import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """
import os, sys, time
from windlass.engine.ray_local import ENVIRONMENT, WORKERS_ENVIRONMENT
os.environ.update(ENVIRONMENT | WORKERS_ENVIRONMENT, RAY_AUTH_TOKEN="0" * 64)
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"
import psutil, ray
from windlass.engine.trimmed_ray import TrimmedNode
from windlass.engine import trimmed_trainer
from windlass.engine.trimmed_trainer import fit
from windlass.errors import WindlassError

def meet():
    return f"the place of {ray.train.get_context().get_world_rank()}"

def write(config, place):
    rank = ray.train.get_context().get_world_rank()
    with open(f"{config['out']}/{rank}", "w") as file:
        file.write(place)
    started = psutil.Process(config["driver"]).children(recursive=True)  # all ranks among them, which end soon
    with open(f"{config['out']}/started-{rank}", "w") as file:
        file.write(str(sorted({process.name()[:10].rstrip("3.1") for process in started})))

def die_once_told():  # as a rank reads what it is to run
    from windlass.engine import meeting
    if meeting._place:
        os._exit(1)

def wait_for_ever():
    time.sleep(1000)

class Deadly:
    def __reduce__(self):
        return die_once_told, ()

node = TrimmedNode(head=True, address="127.0.0.1", temp_dir=sys.argv[2], shutdown_at_exit=True, num_cpus=2)
ray.init(address=node.gcs_address, log_to_driver=False, _node_ip_address="127.0.0.1")
well = (2, None, meet)
for ranks, more, meet in (well, (2, Deadly(), meet), well, (3, None, meet), (2, None, wait_for_ever), well):
    trimmed_trainer.START_SECONDS = 10 if meet is wait_for_ever else 180
    try:
        config = {"out": sys.argv[1], "driver": os.getpid(), "more": more}
        fit(write, config, meet=meet, ranks=ranks, on_gpus=False, folder=f"{sys.argv[1]}/{ranks}-ranks")
    except WindlassError as error:
        print(error.reason, error.retryable, error)
ray.shutdown()
node.kill_all_processes(check_alive=False, allow_graceful=True)
"""


def test_ranks_meet_and_the_driver_hears_of_those_that_die_find_no_room_or_do_not_come(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="wl-", dir="/tmp") as ray_folder:  # sockets' paths must be short
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), ray_folder],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    # "python" are those in the place of Ray's agents.
    started = (tmp_path / "started-0").read_text()
    assert started == "['gcs_server', 'python', 'ray::RayTr', 'raylet']", "nothing else has started"
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["the place of 0"] * 2
    # Each is followed by ranks that are well, which find room.
    died, no_room, late = [line for line in done.stdout.splitlines() if "raylet" not in line]
    assert died.startswith("RankFailed True A rank died"), done.stderr
    assert no_room.startswith("RankFailed True The ranks did not start"), done.stderr
    assert late.startswith("RankFailed True The ranks did not start"), done.stderr
