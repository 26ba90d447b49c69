"""The pods of a job as plain processes on loopback addresses, each with a folder of its own, that tests can kill."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from windlass.engine.run_folder import RunFolder
from windlass.spec.job import LLMTrainingJob

TOKEN = "0123456789abcdef" * 4


class Pods:
    """A job's head and workers. The operator's part, starting them again, is the test's."""

    def __init__(self, job: LLMTrainingJob, folder: Path, network: int) -> None:
        self.job = job
        self.folder = folder
        self._network = f"127.{network}.0"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.attempt = 0
        token = folder / "token"
        token.write_text(TOKEN)
        self._environment = {
            "WINDLASS_JOB_NAME": job.metadata.name,
            "WINDLASS_NAMESPACE": "default",
            "WINDLASS_JOB_UID": f"uid-of-{folder.name}",
            "WINDLASS_TOKEN_FILE": str(token),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "WINDLASS_JOB": job.model_dump_json(),
            "WINDLASS_HEAD": f"http://{self._address(0)}:8080",
            "PYTHONUNBUFFERED": "1",
        }

    def _address(self, number: int) -> str:
        return f"{self._network}.{number + 2}"

    def start_head(self, restarts: int = 0) -> None:
        """Start the next attempt's head."""
        self.attempt += 1
        role = {"WINDLASS_ATTEMPT": str(self.attempt), "WINDLASS_RESTARTS": str(restarts)}
        self._start("head", 0, f"head-{self.attempt}", **role)

    def start_worker(self, index: int) -> None:
        """Start a worker, in the seat that it may have had before."""
        role = {"WINDLASS_WORKER_INDEX": str(index), "WINDLASS_CPUS": "1", "WINDLASS_GPUS": "0"}
        self._start("worker", index + 1, f"worker-{index}-{time.monotonic_ns()}", **role)

    def _start(self, role: str, number: int, name: str, **environment: str) -> None:
        home = self.folder / name
        home.mkdir()
        pod = "head" if role == "head" else f"worker-{number - 1}"
        with open(self.folder / f"{pod}.log", "ab") as log:
            self._processes[pod] = subprocess.Popen(
                [sys.executable, "-m", "windlass.engine.pods", role],
                env=os.environ
                | self._environment
                | {"POD_NAME": f"{self.job.metadata.name}-{pod}", "NODE_NAME": f"node{number}"}
                | {"POD_IP": self._address(number)}
                | {variable: str(home) for variable in ("HOME", "TMPDIR", "RAY_TMPDIR")}
                | {"WINDLASS_TERMINATION_LOG": str(self.folder / "termination")}
                | environment,
                stdout=log,
                stderr=log,
                cwd=home,
            )

    def processes(self, pod: str, matching: str = "") -> list[psutil.Process]:
        """A pod's processes, its first one included, whose command line has a word."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._processes[pod].pid)
            return [process for process in [first, *first.children(recursive=True)] if matching in _command(process)]
        return []

    def kill(self, pod: str) -> None:
        """End all processes of a pod at once, as when its node is switched off."""
        processes = self.processes(pod)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        self._processes[pod].wait()

    def terminate(self, pod: str) -> None:
        """Ask a pod to end, as Kubernetes does."""
        self._processes[pod].send_signal(signal.SIGTERM)

    def wait(self, pod: str, timeout: float = 240) -> int:
        """Wait until a pod has ended; returns its exit code."""
        try:
            return self._processes[pod].wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{pod} does not end\n{self.logs()}")

    def alive(self, pod: str) -> bool:
        return self._processes[pod].poll() is None

    @property
    def run(self) -> RunFolder:
        """The current head's run folder."""
        return RunFolder(self.folder / f"head-{self.attempt}" / "run" / self.job.metadata.name)

    def ask(self, path: str, *, pod: int = 0, token: str = TOKEN) -> bytes:
        """What a pod answers."""
        url = f"http://{self._address(pod)}:8080{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            content: bytes = response.read()
            return content

    def progress(self) -> dict[str, Any]:
        """/progress; an empty one while the head does not answer."""
        with contextlib.suppress(OSError):
            report: dict[str, Any] = json.loads(self.ask("/progress"))
            return report
        return {"attempt": 0, "phase": "", "restarts": 0, "failures": [], "progress": None}

    def step(self) -> int:
        return int((self.progress()["progress"] or {"step": 0})["step"])

    def wait_for(self, condition: Callable[[], bool], seconds: float = 200) -> None:
        """Wait until something holds, while the head runs."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, self.logs()
            assert self.alive("head"), self.logs()
            time.sleep(0.05)

    @property
    def termination(self) -> dict[str, Any]:
        """The head's last word."""
        message: dict[str, Any] = json.loads((self.folder / "termination").read_bytes())
        return message

    def logs(self) -> str:
        """What all pods printed."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-6000:]}" for path in sorted(self.folder.glob("*.log")))


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.fixture
def pods(s3_server: Any, tiny_job: Callable[..., LLMTrainingJob]) -> Iterator[Callable[..., Pods]]:
    """Starts the pods of the tiny job, which trains in a bucket: pods("checkpoints.everySteps=5", ...)."""
    started: list[Pods] = []
    with contextlib.ExitStack() as folders:

        def start(*overrides: str) -> Pods:
            bucket = s3_server.bucket()
            storage = (f'data.train=[{{"uri": "{bucket}/corpus"}}]', f"checkpoints.uri={bucket}/run")
            # Sockets have short paths.
            folder = folders.enter_context(
                tempfile.TemporaryDirectory(prefix="wl-", dir="/tmp", ignore_cleanup_errors=True)
            )
            pods = Pods(tiny_job("workers.replicas=2", *storage, *overrides), Path(folder), 1 + os.getpid() % 250)
            started.append(pods)
            pods.start_head()
            for index in range(2):
                pods.start_worker(index)
            return pods

        yield start
        for pods in started:
            for pod in ("head", "worker-0", "worker-1"):
                pods.kill(pod)
