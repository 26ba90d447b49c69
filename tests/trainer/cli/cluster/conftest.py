"""The commands for clusters against a real API server, with the statuses that an operator would write."""

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.trainer.jobs import Jobs
from typer.testing import CliRunner, Result

from windlass.cli.main import app

JOB = """\
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {name: plays}
spec:
  model: {preset: gpt2-tiny}
  data: {train: [{uri: "s3://corpora/plays"}]}
  training: {maxSteps: 100}
  checkpoints: {uri: "s3://runs/plays"}
"""
SECONDS = 60


class Command:
    """A command that goes on, in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "windlass", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        self.seen: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line.rstrip())

    def wait_for(self, text: str) -> str:
        """The next line with this text."""
        while True:
            line = self._lines.get(timeout=SECONDS)
            self.seen.append(line)
            if text in line:
                return line

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Its exit code, once it has ended; all it printed is in `seen`."""
        code = self._process.wait(timeout=SECONDS)
        self._reader.join(SECONDS)
        while not self._lines.empty():
            self.seen.append(self._lines.get())
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def here(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a job file, and a kubeconfig whose context has the namespace of `jobs`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    text = jobs.server.kubeconfig().read_text()
    (tmp_path / "kubeconfig").write_text(
        text.replace('"user": "admin"}', f'"user": "admin", "namespace": "{jobs.namespace}"}}')
    )
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return tmp_path


@pytest.fixture
def windlass(here: Path) -> Callable[..., Result]:
    """Runs a command to its end."""

    def run(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(app, arguments, input=text)

    return run


@pytest.fixture
def start(here: Path) -> Iterator[Callable[..., Command]]:
    """Starts a command that goes on."""
    started: list[Command] = []

    def run(*arguments: str) -> Command:
        started.append(Command(*arguments))
        return started[-1]

    yield run
    for command in started:
        command.kill()
