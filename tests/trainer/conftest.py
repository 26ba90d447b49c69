"""A tiny job that trains in a second, and ranks started as plain processes, which tests can kill."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from tests.operator.api_server import ApiServer
from tests.trainer.forked import with_environment
from tests.trainer.jobs import Jobs, install

from windlass.engine.machine import this_machine
from windlass.engine.preparation import prepare_run
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.engine.train_function import train_alone, train_among
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import dump_job, load_job_text

GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests compare bits, which GPUs do not promise; test_gpu.py takes them back

TINY_JOB = """
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {{name: tiny}}
spec:
  model:
    preset: gpt2-nano
    config: {{layers: 2, hiddenSize: 32, heads: 2, contextLength: 32, dropout: 0.1}}
  tokenizer: bytes
  data:
    prepare: {{sources: [{{uri: "{corpus}/*.txt"}}], validationFraction: 0.1}}
  training:
    maxSteps: 60
    globalBatchSize: 12
    optimizer: {{learningRate: 1e-2}}
    schedule: {{warmupSteps: 5}}
  checkpoints: {{everySteps: 5, everyMinutes: null}}
  evaluation: {{everySteps: 20, maxTokens: 2048, prompts: ["the "], sampleTokens: 8}}
  logging: {{prometheus: false}}
"""


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small text files, always the same."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        words = [f"word{(number * 7 + index * index) % 50}" for index in range(200)]
        (folder / f"{number:02}.txt").write_text("the " + " ".join(words) + ".\n")
    return folder


@pytest.fixture
def tiny_job(texts: Path) -> Callable[..., LLMTrainingJob]:
    """Makes the tiny job, with overrides as in `--set`."""

    def make(*overrides: str) -> LLMTrainingJob:
        return load_job_text(TINY_JOB.format(corpus=texts), overrides=overrides)

    return make


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models gain nothing from a second thread, and wait for it where cores are busy."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def gpu_environment() -> dict[str, str]:
    """The environment of processes that may use GPUs; skips the test where there is none."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {} if GPUS is None else {"CUDA_VISIBLE_DEVICES": GPUS}
    asked = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    if subprocess.run(asked, env=environment, check=False).returncode:
        pytest.skip("there is no CUDA GPU")
    return environment


@pytest.fixture
def gpu(gpu_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the test starts see the GPUs, which this process does not."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if "CUDA_VISIBLE_DEVICES" in gpu_environment:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu_environment["CUDA_VISIBLE_DEVICES"])


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    """Starts processes as forks of one that has imported torch: a rank is there in a moment and can be killed alone.

    It has imported, too, what takes a rank seconds later: what the optimizer needs, transformers' models, lm_eval.
    """
    context = multiprocessing.get_context("forkserver")
    rank = ["windlass.engine.train_function", "torch._dynamo"]
    context.set_forkserver_preload([*rank, "windlass.models.automodel", "lm_eval.tasks"])
    return context


@dataclass
class Ranks:
    """The ranks of one run folder, as plain processes without Ray."""

    job: LLMTrainingJob
    folder: Path
    world_size: int
    context: multiprocessing.context.ForkServerContext
    processes: list[ForkServerProcess] = field(default_factory=list)

    def start_with_job_file(self) -> None:
        """Start all ranks of a run that others find by its job file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        RunFolder(self.folder).job.write_text(dump_job(self.job))
        self.start()

    def start(self) -> None:
        """Start all ranks; they continue from the last checkpoint."""
        run = RunFolder(self.folder)
        run.path.mkdir(parents=True, exist_ok=True)
        run.stop.unlink(missing_ok=True)
        settings = prepare_run(self.job, run, this_machine(), self.world_size, lambda message: None)
        rendezvous = f"file://{self.folder}/rendezvous-{time.monotonic_ns()}"
        tasks: list[tuple[Any, ...]] = [
            (train_among, settings, rank, self.world_size, rendezvous)
            if self.world_size > 1
            else (train_alone, settings)
            for rank in range(self.world_size)
        ]
        self.processes = [
            self.context.Process(target=with_environment, args=(dict(os.environ), *task)) for task in tasks
        ]
        for process in self.processes:
            process.start()

    def step(self) -> int:
        """The last step in metrics.jsonl."""
        return max((r["step"] for r in read_lines(RunFolder(self.folder).metrics)), default=0)

    def wait_for_step(self, step: int) -> None:
        """Wait until a step has been logged."""
        while self.step() < step:
            assert self.processes[0].is_alive(), self.log()
            time.sleep(0.005)

    def kill(self, rank: int, at_step: int) -> None:
        """SIGKILL one rank once a step has been logged, and the rest a moment later, as Ray does."""
        self.wait_for_step(at_step)
        self.processes[rank].kill()
        time.sleep(0.2)
        for process in self.processes:
            process.kill()
            process.join()

    def stop(self, at_step: int) -> None:
        """Ask the ranks to save and stop once a step has been logged."""
        self.wait_for_step(at_step)
        RunFolder(self.folder).stop.touch()
        self.wait()

    def wait(self) -> None:
        """Wait until all ranks have ended well."""
        for process in self.processes:
            process.join(timeout=120)
            assert process.exitcode == 0, self.log()

    def log(self) -> str:
        """What the ranks printed."""
        return "\n".join(path.read_text() for path in sorted((self.folder / "logs").glob("*.log")))

    def curve(self) -> dict[tuple[str, int], Any]:
        """Losses, gradient norms, learning rates and texts by kind and step: all that must be the same bit for bit."""
        return read_curve(self.folder)


def read_curve(folder: Path) -> dict[tuple[str, int], Any]:
    """Losses and texts of metrics.jsonl, which must be the same in every run of a job; each step must be there once."""
    lines = [line for line in read_lines(RunFolder(folder).metrics) if line["kind"] not in ("checkpoint", "suites")]
    keys = [(line["kind"], line["step"]) for line in lines]
    assert len(keys) == len(set(keys)), "a step was logged twice"
    return {
        key: [line.get(name) for name in ("loss", "gradient_norm", "learning_rate", "tokens", "epoch", "text")]
        for key, line in zip(keys, lines, strict=True)
    }


@pytest.fixture
def curve() -> Callable[[Path], dict[tuple[str, int], Any]]:
    """Reads what must be the same in every run of a job from a run folder."""
    return read_curve


@pytest.fixture
def ranks(
    tmp_path: Path,
    tiny_job: Callable[..., LLMTrainingJob],
    processes: multiprocessing.context.ForkServerContext,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Ranks]]:
    """Makes the ranks of a run: ranks("name", world_size, *overrides)."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    made: list[Ranks] = []

    def make(name: str, world_size: int, *overrides: str) -> Ranks:
        job = tiny_job(f"workers.replicas={world_size}", *overrides)
        made.append(Ranks(job, tmp_path / "runs" / name, world_size, processes))
        return made[-1]

    yield make
    for group in made:
        for process in group.processes:
            process.kill()
            process.join()


@pytest.fixture
def undisturbed_and_killed(ranks: Callable[..., Ranks]) -> Callable[..., list[Ranks]]:
    """Runs a job twice to its end, the second time killed in the middle and continued: (world_size, *overrides)."""

    def run(world_size: int, *overrides: str) -> list[Ranks]:
        groups = [ranks(name, world_size, *overrides) for name in ("undisturbed", "killed")]
        for group in groups:
            group.start_with_job_file()
            if group is groups[1]:
                group.kill(0, at_step=12)
                group.start()
            group.wait()
        return groups

    return run


@pytest.fixture(scope="session")
def windlass_api_server(api_server: ApiServer) -> ApiServer:
    """A real API server that knows LLMTrainingJobs."""
    install(api_server)
    return api_server


@pytest.fixture
def jobs(windlass_api_server: ApiServer) -> Jobs:
    """The jobs of a new namespace in a real API server."""
    return Jobs(windlass_api_server, windlass_api_server.namespace())
