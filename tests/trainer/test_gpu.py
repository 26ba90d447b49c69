"""Training on a GPU. Each test is skipped where there is none; all other tests hide GPUs and train on the CPU."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.engine.local import start_run
from windlass.engine.ray_local import RANKS_ENVIRONMENT
from windlass.engine.run_folder import RunFolder, read_json, read_lines
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import dump_job

pytestmark = pytest.mark.usefixtures("gpu")

DEVICE = "cuda"


@pytest.fixture
def train(tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]) -> Callable[..., list[dict[str, Any]]]:
    """Runs the tiny job as `windlass run` does, and returns its lines of metrics.jsonl."""

    def train(name: str, *overrides: str) -> list[dict[str, Any]]:
        start_run(tiny_job(*overrides), runs=tmp_path / name).wait(timeout=240)
        folder = RunFolder(tmp_path / name / "tiny")
        assert (read_json(folder.plan) or {})["device"] == DEVICE
        return list(read_lines(folder.metrics))

    return train


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize(
    "choice",
    [
        "training.precision=BF16",
        "training.precision=FP16",
        "training.parallelism.compile=true",
        "training.parallelism.activationCheckpointing=Full",
        "data.documentMask=true",
    ],
)
def test_a_gpu_learns_as_well_with_each_choice_as_in_float32(train: Callable[..., Any], choice: str) -> None:
    plain = train("plain", "training.precision=FP32", "model.config.dropout=0.0")
    chosen = train("chosen", "model.config.dropout=0.0", choice)
    assert losses(chosen)[-1] == pytest.approx(losses(plain)[-1], abs=0.1)
    assert len([line for line in chosen if line["kind"] == "sample"]) == 3


def test_losses_after_a_kill_are_near_those_of_an_undisturbed_run(
    train: Callable[..., Any], tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]
) -> None:
    # Not the same bits: kernels that add with atomics do not promise them. Another order of samples is off by more.
    undisturbed = losses(train("undisturbed", "training.precision=FP32"))
    killed = start_run(tiny_job("training.precision=FP32"), runs=tmp_path / "killed")
    while killed.exit_code is None and len(losses(killed.metrics())) < 17:
        time.sleep(0.01)
    killed.kill()
    resumed = train("killed", "training.precision=FP32")
    assert losses(resumed) == pytest.approx(undisturbed, abs=0.01)
    attempts = RunFolder(tmp_path / "killed" / "tiny").path / "checkpoints" / "attempts"
    assert len(list(attempts.iterdir())) == 2


def finish(script: str, folder: Path) -> str:
    """What a process printed that ran the script on a run folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    printed = process.stdout.read()  # its input stays open: a driver stops when that ends
    process.communicate()
    return printed


DRIVER_WITH_A_MEGABYTE = """
import sys
import time
from pathlib import Path
import torch
from windlass.engine.driver import main
torch.cuda.set_per_process_memory_fraction(2**20 / torch.cuda.get_device_properties(0).total_memory)
main(Path(sys.argv[1]))
"""


def test_a_gpu_that_is_full_is_the_reason_of_the_failure(
    tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]
) -> None:
    run = RunFolder(tmp_path / "runs" / "tiny")
    run.path.mkdir(parents=True)
    run.job.write_text(dump_job(tiny_job()))
    finish(DRIVER_WITH_A_MEGABYTE, run.path)
    assert (read_json(run.result) or {})["reason"] == "GpuOutOfMemory"


MEASURE_MEMORY = """
import os, sys
from pathlib import Path
import torch
from windlass.engine.machine import this_machine
from windlass.engine.preparation import prepare_run
from windlass.engine.run_folder import RunFolder
from windlass.engine.train_function import train_rank
from windlass.spec.loading import load_job
from windlass.training.ranks import single_process
run = RunFolder(Path(sys.argv[1]))
settings = prepare_run(load_job(run.job), run, this_machine(), 1, lambda message: None)
train_rank(settings, single_process(torch.device("cuda", 0)))
print(settings.plan.memory.total, torch.cuda.max_memory_allocated())
"""


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_step_takes_no_more_memory_than_planned(
    tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob], compiled: str
) -> None:
    # Wide enough that activations are most of it, and that allocations are not all of the smallest size.
    run = RunFolder(tmp_path / "runs" / "tiny")
    run.path.mkdir(parents=True)
    wide = ("layers=4", "hiddenSize=512", "heads=8", "contextLength=128", "vocabSize=8192", "dropout=0.0")
    job = tiny_job(
        *(f"model.config.{field}" for field in wide),
        "evaluation.prompts=[]",
        "training.maxSteps=8",
        "training.globalBatchSize=64",
        "training.microBatchSize=64",
        f"training.parallelism.compile={compiled}",
    )
    run.job.write_text(dump_job(job))
    planned, taken = map(int, finish(MEASURE_MEMORY, run.path).split())
    assert 0.3 * planned < taken < planned


COPY_WHILE_THE_GPU_IS_BUSY = """
import numpy as np
import torch
from windlass.data.stream import Batch
from windlass.training.measure import to_device
tokens = np.arange(64 * 1025).reshape(64, 1025)
batch, device = Batch(tokens[:, :-1], tokens[:, 1:]), torch.device("cuda", 0)
to_device(batch, device)  # takes pinned memory, which waits
torch.cuda.synchronize()
torch.cuda._sleep(2 * 10**9)  # cycles: about a second
inputs, _, targets = to_device(batch, device)
print(torch.cuda.current_stream().query())
print(bool((targets["labels"].cpu() == torch.from_numpy(batch.labels)).all()))
"""


def test_a_batch_is_copied_while_the_gpu_computes(tmp_path: Path) -> None:
    idle, right = finish(COPY_WHILE_THE_GPU_IS_BUSY, tmp_path).split()
    assert (idle, right) == ("False", "True")


def test_what_ranks_import_beforehand_leaves_open_which_gpu_they_get() -> None:
    program = """
import importlib, os, torch
for module in os.environ["WINDLASS_RANK_IMPORTS"].split(","):
    importlib.import_module(module)
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as Ray sets it when a process becomes a rank
raise SystemExit(torch.cuda.device_count())
"""
    subprocess.run([sys.executable, "-c", program], env=os.environ | RANKS_ENVIRONMENT, check=True)
