"""The loop: precisions, memory-saving choices, steps whose loss is not finite, and what it writes down."""

import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from windlass.engine.machine import this_machine
from windlass.engine.preparation import prepare_run
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.engine.train_function import train_rank
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob
from windlass.training import loop
from windlass.training.parallel import clip_gradients
from windlass.training.ranks import single_process

Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def train(tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]) -> Iterator[Train]:
    """Trains the tiny job in this process, and returns its lines of metrics.jsonl."""
    threads, level = torch.get_num_threads(), logging.root.level

    def train(name: str, *overrides: str) -> list[dict[str, Any]]:
        run = RunFolder(tmp_path / "runs" / name)
        run.path.mkdir(parents=True, exist_ok=True)
        job = tiny_job("training.maxSteps=20", "evaluation.prompts=[]", *overrides)
        settings = prepare_run(job, run, this_machine(), 1, lambda message: None)
        train_rank(settings, single_process(torch.device("cpu")))
        return list(read_lines(run.metrics))

    yield train
    torch.set_num_threads(threads)
    logging.root.setLevel(level)  # which ranks set for their process


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_the_first_loss_is_that_of_guessing_and_it_falls(train: Train) -> None:
    found = losses(train("run"))
    assert found[0] == pytest.approx(math.log(257), abs=0.05)
    assert found[-1] < found[0] - 1


def test_a_line_has_all_that_the_contract_names(train: Train) -> None:
    lines = train("run", "logging.everySteps=5")
    first = next(line for line in lines if line["kind"] == "train")
    assert {
        *("kind", "step", "loss", "learning_rate", "gradient_norm", "tokens", "epoch", "tokens_per_second"),
        *("mfu", "step_seconds", "stream", "time"),
    } == first.keys()
    assert first["step_seconds"].keys() == {"total", "data", "forward_backward", "optimizer", "checkpoint"}
    assert {"waited_seconds", "bytes_read", "cache_hits", "retries", "verification_failures"} <= first["stream"].keys()
    assert [line["step"] for line in lines if line["kind"] == "train"] == [5, 10, 15, 20]
    assert first["tokens"] == 5 * 12 * 32
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [20]


@pytest.mark.parametrize("how", ["packing=false", "stride=16", "documentMask=true"])
def test_sequences_are_cut_as_the_job_says_for_training_and_validation(train: Train, how: str) -> None:
    lines = train("run", f"data.{how}")
    assert losses(lines)[-1] < losses(lines)[0] - 1
    tokens = {line["kind"]: line["tokens"] for line in lines if "tokens" in line}
    if how == "documentMask=true":
        assert 0 < tokens["train"] < 20 * 12 * 32  # labels that cross documents do not count
    else:
        assert tokens["train"] == 20 * 12 * 32
    assert 0 < tokens["validation"] <= 2048


def test_the_batch_is_the_same_however_it_is_split_into_micro_batches(train: Train) -> None:
    whole = losses(train("whole", "training.microBatchSize=12", "model.config.dropout=0.0"))
    split = losses(train("split", "training.microBatchSize=2", "model.config.dropout=0.0"))
    assert split == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("checkpointing", ["Selective", "Full"])
def test_activation_checkpointing_changes_no_bit(train: Train, checkpointing: str) -> None:
    plain = losses(train("plain"))
    assert losses(train("saved", f"training.parallelism.activationCheckpointing={checkpointing}")) == plain


@pytest.mark.parametrize("precision", ["BF16", "FP16"])
def test_mixed_precision_learns_like_float32(train: Train, precision: str) -> None:
    full = losses(train("full", "model.config.dropout=0.0"))
    mixed = losses(train("mixed", "model.config.dropout=0.0", f"training.precision={precision}"))
    assert mixed != full
    assert mixed[-1] == pytest.approx(full[-1], abs=0.1)


def test_a_loss_that_explodes_fails_with_its_remedy(train: Train) -> None:
    with pytest.raises(WindlassError, match=r"not finite at step \d+.*learningRate") as failure:
        train("run", "training.optimizer.learningRate=1e30")
    assert failure.value.reason == "NonFiniteLoss"


@pytest.mark.parametrize("policy", ["Skip", "RollBack"])
def test_a_loss_that_goes_on_exploding_fails_after_ten_steps_left_out(train: Train, policy: str) -> None:
    with pytest.raises(WindlassError, match=rf"with 10 steps left out before \(onNonFiniteLoss: {policy}\)"):
        train("run", "training.optimizer.learningRate=1e30", f"lifecycle.onNonFiniteLoss={policy}")


@pytest.mark.parametrize("policy", ["Skip", "RollBack"])
def test_one_bad_step_is_left_out_and_training_goes_on(
    train: Train, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bad step is made up: a real one is an accident of hardware."""
    calls = iter(range(1, 1000))

    def bad_at_call_eight(model: torch.nn.Module, *arguments: Any) -> torch.Tensor:
        if next(calls) == 8:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, math.nan)
        return clip_gradients(model, *arguments)

    monkeypatch.setattr(loop, "clip_gradients", bad_at_call_eight)
    lines = train("run", f"lifecycle.onNonFiniteLoss={policy}")
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == [step for step in range(1, 21) if step != 8]
    assert losses(lines)[-1] < 4.5


def test_the_largest_seed_trains(train: Train) -> None:
    assert losses(train("run", f"training.seed={2**63 - 1}", "training.maxSteps=2", "training.schedule.warmupSteps=0"))


def test_when_every_checkpoint_is_damaged_the_run_ends_instead_of_starting_over(train: Train, tmp_path: Path) -> None:
    train("run", "training.maxSteps=10")
    shards = list((tmp_path / "runs" / "run" / "checkpoints").rglob("*.distcp"))
    assert len(shards) == 2
    for shard in shards:
        shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(WindlassError, match=r"All 2 checkpoints in .* are damaged") as failure:
        train("run", "training.maxSteps=10")
    assert failure.value.reason == "DataCorrupt"
    assert all(shard.exists() for shard in shards)


HANG = """
import time
from windlass.training.hang import HangWatch
def stuck():
    HangWatch(0.3).alive()
    time.sleep(60)
stuck()
"""


def test_a_hang_ends_the_process_with_its_stacks() -> None:
    hung = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, timeout=50, check=False)
    assert hung.returncode == 1
    assert "in stuck" in hung.stderr
