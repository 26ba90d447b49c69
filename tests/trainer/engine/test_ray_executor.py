"""Preparing on a Ray cluster of two nodes: the same bytes, whatever dies, and clear words where it can't be done.

Cluster and preparations are processes of their own, since Ray keeps the settings that it was imported with.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.conftest import S3Server

import windlass
from windlass.data import prepare as preparation
from windlass.data.corpus import Corpus
from windlass.data.preparation import units
from windlass.data.prepare import prepare
from windlass.data.tokenizers import BytesTokenizer
from windlass.engine.pods import ray_node
from windlass.spec.job import Prepare
from windlass.storage import Storage

BYTES = BytesTokenizer()
HEAD = "127.0.7.1"
PATIENCE = 200.0  # seconds; machines that run tests may be busy

PREPARE = """
import sys
import windlass
from windlass.cli.main import app
from windlass.data import prepare
from windlass.data.preparation import units
units.SIZE, prepare._SMALL, windlass.__version__ = 1 << 13, 0, sys.argv[1]
app(["data", "prepare", "--tokenizer", "bytes", *sys.argv[2:]])
"""

DEADLY = """
import os, sys
from windlass.engine.ray_executor import ray_executor
with ray_executor(sys.argv[1]) as executor:
    print(repr(executor.submit(os._exit, 1).exception()))
"""

ALL_LOST = """
import sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
while any(node["Alive"] and node["Resources"].get("CPU") for node in ray.nodes()):
    time.sleep(0.1)
"""
"""Ends when Ray knows of no node with a CPU any more: of one that was killed, it hears after seconds."""


class Cluster:
    """A Ray cluster whose head has no CPU, and nodes of one CPU each, with addresses of their own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self._folder = folder
        self._started = 0
        self.nodes: list[subprocess.Popen[str]] = []
        """With a CPU."""
        self._head = self._start("head", HEAD)
        self.address = f"{HEAD}:{environment['WINDLASS_RAY_PORT']}"

    def add_node(self, *wrapper: str) -> None:
        """Start a node, through another program if one is given."""
        self.nodes.append(self._start("worker", f"127.0.7.{self._started + 1}", *wrapper))

    def _start(self, role: str, address: str, *wrapper: str) -> "subprocess.Popen[str]":
        self._started += 1
        home = self._folder / str(self._started)
        home.mkdir()
        process = subprocess.Popen(
            [*wrapper, *ray_node.command(role, *(("1", "0") if role == "worker" else ()))],
            env=self.environment | {"POD_NAME": home.name, "POD_IP": address, "RAY_TMPDIR": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        if role == "worker":
            process.stdin.write(f"{self.address}\n")
            process.stdin.flush()
        lines = list(iter(lambda: process.stdout.readline().strip(), ray_node.STARTED))  # type: ignore[union-attr]
        assert process.poll() is None, lines
        return process

    def remove_node(self, node: "subprocess.Popen[str]") -> None:
        """Kill a node's Ray; its other processes end when they notice."""
        raylet(node).kill()
        self.nodes.remove(node)
        node.wait(PATIENCE)

    def close(self) -> None:
        for process in [*self.nodes, self._head]:
            process.terminate()
        for process in [*self.nodes, self._head]:
            process.communicate(timeout=PATIENCE)

    def run(self, program: str, *arguments: str | Path) -> "subprocess.Popen[str]":
        """Start a Python program."""
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def prepare(self, settings: Path, out: Path | str, address: str = "", version: str = "") -> "subprocess.Popen[str]":
        """Start a preparation."""
        options = ("--config", settings, "--out", out, "--ray", address or self.address)
        return self.run(PREPARE, version or windlass.__version__, *options)


@pytest.fixture(scope="module")
def whole_cluster(session_s3_server: S3Server) -> Iterator[Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="wl-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
        socket.create_server((HEAD, 0)) as listener,
    ):
        token = Path(folder, "token")
        token.write_text(secrets.token_hex(32))
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= session_s3_server.environment | ray_node.environment()
        environment |= {"WINDLASS_TOKEN_FILE": str(token), "WINDLASS_RAY_PORT": str(listener.getsockname()[1])}
        environment |= dict.fromkeys(("WINDLASS_JOB_NAME", "WINDLASS_NAMESPACE", "WINDLASS_JOB_UID"), "test")
        environment["RAY_health_check_timeout_ms"] = "10000"  # machines that run tests may be busy
        listener.close()
        cluster = Cluster(environment, Path(folder))
        yield cluster
        cluster.close()


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Cluster:
    """A cluster of two nodes beside the head."""
    while len(whole_cluster.nodes) < 2:
        whole_cluster.add_node()
    return whole_cluster


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of 1,500 documents, some of them copies."""
    lines = [f"document {number % 1400} " + f"with {number % 1400} words " * 30 for number in range(1500)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return tmp_path / "a.jsonl"


@pytest.fixture
def settings(source: Path) -> Path:
    """A file with data.prepare."""
    return written(source, source.with_name("settings.yaml"))


def written(source: Path | str, to: Path) -> Path:
    document = {"sources": [{"uri": str(source)}], "clean": {}, "deduplicate": {"near": {}}}
    to.write_text(json.dumps(document))
    return to


def prepared_here(settings: Path, out: Path) -> Corpus:
    """Prepare in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "SIZE", 1 << 13)
        patch.setattr(preparation, "_SMALL", 0)
        return prepare(Prepare.model_validate_json(settings.read_text()), BYTES, str(out))


def contents(corpus: Path) -> dict[str, bytes]:
    """All files of a corpus but the lock."""
    files = [path for path in corpus.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(corpus)): path.read_bytes() for path in files}


def raylet(node: "subprocess.Popen[str]") -> psutil.Process:
    """The process of a node that starts all others that work."""
    children = psutil.Process(node.pid).children()
    return next(child for child in children if Path(child.exe()).name == "raylet")


def at_work(parent: psutil.Process) -> list[int]:
    """The processes of a raylet that are in the middle of a unit."""
    found = []
    for process in parent.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[:1] == ["ray::_call"]:
                found.append(process.pid)
    return found


def stopped_at_work(node: "subprocess.Popen[str]") -> int:
    """Stop a process of the node in the middle of a unit with SIGSTOP, and return its id."""
    parent, until = raylet(node), time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for pid in at_work(parent):
            os.kill(pid, signal.SIGSTOP)
            if pid in at_work(parent):
                return pid
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.005)
    raise TimeoutError("no process of the node was seen at work")


def ended(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Wait for the end of a process and return what it said."""
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, said
    return said


def test_two_nodes_make_the_same_bytes_as_this_process(cluster: Cluster, settings: Path, tmp_path: Path) -> None:
    said = ended(cluster.prepare(settings, tmp_path / "ray"))
    assert "Ray cluster: 2 CPUs on 2 nodes" in said
    prepared_here(settings, tmp_path / "here")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


@pytest.mark.parametrize("lost", ["worker", "node"])
def test_the_units_of_a_killed_worker_or_node_are_done_again(
    lost: str, cluster: Cluster, settings: Path, tmp_path: Path
) -> None:
    running = cluster.prepare(settings, tmp_path / "ray")
    pid = stopped_at_work(cluster.nodes[1])
    if lost == "worker":
        os.kill(pid, signal.SIGKILL)
    else:
        cluster.remove_node(cluster.nodes[1])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)  # what it still writes must harm nothing
    ended(running)
    prepared_here(settings, tmp_path / "here")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


@pytest.mark.parametrize(("with_signal", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_preparation_leaves_no_task_and_goes_on(
    with_signal: signal.Signals, code: int, cluster: Cluster, settings: Path, tmp_path: Path
) -> None:
    running = cluster.prepare(settings, tmp_path / "ray")
    stopped = stopped_at_work(cluster.nodes[0])
    until = time.monotonic() + PATIENCE
    while len(done := list(tmp_path.glob("ray/.work-*/*.json"))) < 5:
        assert time.monotonic() < until
        time.sleep(0.01)
    times = {path: path.stat().st_mtime_ns for path in done}
    running.send_signal(with_signal)
    said = ended(running, code)
    assert ("Interrupted; the same command continues where it was." in said) == (code == 130)
    with contextlib.suppress(ProcessLookupError):
        os.kill(stopped, signal.SIGCONT)
    while any(at_work(raylet(node)) for node in cluster.nodes):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not (tmp_path / "ray" / "manifest.json").exists()
    again = cluster.prepare(settings, tmp_path / "ray")
    stopped = stopped_at_work(cluster.nodes[0])
    assert {path: path.stat().st_mtime_ns for path in done} == times
    os.kill(stopped, signal.SIGCONT)
    ended(again)
    prepared_here(settings, tmp_path / "here")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_an_error_of_a_unit_says_which_node_and_leaves_nothing(
    cluster: Cluster, settings: Path, source: Path, tmp_path: Path
) -> None:
    with open(source, "a") as file:
        file.write("{broken\n")
    said = ended(cluster.prepare(settings, tmp_path / "c"), 2)
    assert "a.jsonl@" in said  # the part that the line is in
    assert "(on the Ray node " in said
    assert "Traceback" not in said
    assert contents(tmp_path / "c") == {}


def test_work_that_kills_every_worker_ends_as_out_of_memory(cluster: Cluster) -> None:
    said = ended(cluster.run(DEADLY, cluster.address))
    assert "WindlassError('OutOfMemory'" in said
    assert "killed 4 times at the same work" in said


def test_a_node_with_another_windlass_is_refused(cluster: Cluster, settings: Path, tmp_path: Path) -> None:
    said = " ".join(ended(cluster.prepare(settings, tmp_path / "c", version="99.0"), 2).split())
    assert f"has Windlass {windlass.__version__}; install Windlass 99.0 on all nodes" in said
    assert not (tmp_path / "c").exists()


def test_an_address_without_a_cluster_is_refused(cluster: Cluster, settings: Path, tmp_path: Path) -> None:
    said = " ".join(ended(cluster.prepare(settings, tmp_path / "c", address="127.0.7.9:9"), 2).split())
    assert "no Ray cluster can be used at 127.0.7.9:9: " in said
    assert not (tmp_path / "c").exists()


@pytest.fixture
def node_apart(whole_cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A folder that is another one for the only node with a CPU."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("a node with a folder of its own needs root")
    folder = tmp_path / "apart"
    folder.mkdir()
    for node in list(whole_cluster.nodes):
        whole_cluster.remove_node(node)
    ended(whole_cluster.run(ALL_LOST, whole_cluster.address))
    mounted = f'mount -t tmpfs tmpfs {folder} && exec "$@"'
    whole_cluster.add_node("unshare", "--mount", "sh", "-c", mounted, "sh")
    yield folder
    whole_cluster.remove_node(whole_cluster.nodes[0])


def test_a_folder_that_a_node_does_not_share_is_refused_and_object_storage_works(
    whole_cluster: Cluster, node_apart: Path, settings: Path, source: Path, s3_server: S3Server
) -> None:
    said = " ".join(ended(whole_cluster.prepare(settings, node_apart / "c"), 2).split())
    assert "is not the folder of that path where the preparation was started; prepare to object storage" in said
    assert not (node_apart / "c" / "manifest.json").exists()
    bucket = s3_server.bucket()
    Storage(bucket).upload(source, "raw/a.jsonl")
    remote = written(f"{bucket}/raw/a.jsonl", settings.with_name("remote.yaml"))
    ended(whole_cluster.prepare(remote, f"{bucket}/c"))
    assert Corpus.open(f"{bucket}/c").id == prepared_here(settings, node_apart / "here").id
    assert not [name for name in Storage(f"{bucket}/c").list() if name.startswith(".work")]
