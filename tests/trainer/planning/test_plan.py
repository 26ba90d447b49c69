import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest

from windlass.errors import WindlassError
from windlass.planning.plan import CPU_MICRO_BATCH_TOKENS, MEMORY_SHARE, Plan, in_units, make_plan
from windlass.spec.loading import load_job_text
from windlass.spec.presets import TOKENIZERS, model_config, tokenizer_name

JOB = """\
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {name: shakespeare}
spec: {model: {preset: gpt2-small}, data: {train: [{uri: corpora/plays}]}, training: {maxSteps: 100}}
"""


def plan(*overrides: str, **changes: Any) -> Plan:
    where: dict[str, Any] = {
        "world_size": 2,
        "device": "cuda",
        "device_memory": 80 * 2**30,
        "train_tokens": 10_000_001,
    }
    job = load_job_text(JOB, overrides=overrides)
    config = model_config(job.spec.model, TOKENIZERS[tokenizer_name(job.spec)])
    return make_plan(job, config, **(where | changes))


def test_a_plan_has_the_runs_numbers() -> None:
    made = plan("training.globalBatchSize=64")
    assert made.parameters == 124_439_808
    assert made.sequence_length == 1024
    assert made.tokens_per_step == 64 * 1024
    assert made.steps == 100
    assert made.total_tokens == 100 * 64 * 1024
    assert made.epochs == pytest.approx(0.65536)
    assert made.checkpoint_bytes == 12 * 124_439_808
    assert made.batching.global_batch_size == 64
    assert (made.strategy, made.precision) == ("DDP", "BF16")


def test_epochs_are_counted_in_whole_sequences_of_the_corpus() -> None:
    made = plan("training.maxSteps=null", "training.epochs=2.0", "training.globalBatchSize=10", train_tokens=102401)
    assert made.steps == 20


def test_a_run_of_epochs_is_planned_before_its_corpus_is_there() -> None:
    made = plan("training.maxSteps=null", "training.epochs=2.0", train_tokens=None)
    assert made.steps is made.total_tokens is made.epochs is None
    assert any("once it is prepared" in line for line in made.lines())


def test_the_micro_batch_is_the_largest_that_fits() -> None:
    made = plan("training.globalBatchSize=512")
    assert made.fits
    larger = plan("training.globalBatchSize=512", f"training.microBatchSize={2 * made.batching.micro_batch_size}")
    assert not larger.fits
    assert any("it may not fit" in line for line in larger.lines())


def test_less_memory_gives_a_smaller_micro_batch_of_the_same_step() -> None:
    large, small = plan("training.globalBatchSize=512"), plan("training.globalBatchSize=512", device_memory=16 * 2**30)
    assert large.batching.micro_batch_size > small.batching.micro_batch_size
    assert large.tokens_per_step == small.tokens_per_step
    assert small.memory.total <= MEMORY_SHARE * 16 * 2**30


def test_a_cpus_micro_batch_stays_small() -> None:
    made = plan("training.globalBatchSize=512", "model.preset=gpt2-tiny", device="cpu")
    assert made.batching.micro_batch_size * made.sequence_length == CPU_MICRO_BATCH_TOKENS
    assert f"{CPU_MICRO_BATCH_TOKENS:,} tokens" in made.batching_reason


def test_choices_and_their_reasons_are_told() -> None:
    text = "\n".join(plan("training.parallelism.strategy=FSDP", world_size=1).lines())
    assert "FSDP was asked for, but one rank has nothing to share" in text
    assert "124,439,808 parameters" in text
    assert "BF16: the default on a GPU that has it" in text
    text = "\n".join(plan("training.microBatchSize=4", "training.precision=FP32").lines())
    assert "2 ranks x 4 micro-batches x 4 sequences x 1024 tokens" in text


@pytest.mark.parametrize(
    ("override", "changes", "message"),
    [
        ("training.globalBatchSize=32", {"world_size": 3}, "numbers of ranks that fit"),
        ("training.parallelism.strategy=HSDP", {"device": "cpu"}, "HSDP needs GPUs"),
        ("training.precision=FP8", {"device": "cpu"}, "FP8 needs a GPU"),
        ("training.precision=BF16", {"compute_capability": (7, 0)}, "BF16 needs compute capability 8.0"),
    ],
)
def test_what_cannot_be_is_refused(override: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WindlassError, match=message):
        plan(override, **changes)


def test_a_plan_is_plain_data() -> None:
    assert json.loads(json.dumps(asdict(plan())))["batching"]["world_size"] == 2


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (80 * 2**30, "80 GiB"), (5 * 2**50, "5,120 TiB")],
)
def test_bytes_are_told_in_units(count: int, text: str) -> None:
    assert in_units(count) == text


def test_planning_needs_no_torch() -> None:
    code = "import sys, windlass.planning.plan, windlass.planning.peaks; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
