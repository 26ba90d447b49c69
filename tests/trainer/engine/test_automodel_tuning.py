"""Instructions and preferences learned by transformers' own language models: the losses are those of transformers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.trainer.automodels import saved
from torch.nn import functional as F

from windlass.data.buckets import POOL, Example
from windlass.data.stream import IGNORED
from windlass.engine.examples import RankExamples
from windlass.engine.preparation import prepare_data
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.engine.runs import export_run
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob
from windlass.storage import Storage
from windlass.tasks.preference import METRICS

transformers: Any = pytest.importorskip("transformers")

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] + ' : ' + m.content + eos_token }}{% endfor %}"
    "{{ 'a : ' if add_generation_prompt }}"
)
BATCH = 4


def overrides(task: str, base: Path, examples: Path, **data: Any) -> list[str]:
    source = {"uri": str(examples), "answerField": "chosen"}
    return [
        f"task={task}",
        f"model={{from: '{base}'}}",
        "tokenizer=null",
        f"data={json.dumps({'examples': {'sources': [source]}, 'template': TEMPLATE} | data)}",
        "evaluation.prompts=[]",
        f"training={{maxSteps: 24, globalBatchSize: {BATCH}, optimizer: {{learningRate: 1e-2}}}}",
    ]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Prompts of several lengths with two answers, of which the chosen one is always "yes"."""
    lines = [
        {"prompt": f"{'line ' * (n % 7)}{n}", "chosen": "yes", "rejected": "no" if n % 2 else "never never"}
        for n in range(60)
    ]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "examples.jsonl"


def of_run(group: Any, rows: int) -> RankExamples:
    """What a run learns from."""
    identity = prepare_data(group.job, RunFolder(group.folder), lambda said: None).examples
    assert identity is not None
    storage = Storage(RunFolder(group.folder).checkpoints_uri(group.job))
    return RankExamples(identity, storage, padding=0, context_length=32, rows=rows)


def first_rows(examples: RankExamples) -> list[Example]:
    """What all ranks train on in the first step, without what pads."""
    with examples.stream(0, seed=1337, batch=BATCH, pool=POOL, micro_batch_size=BATCH, rank=0, world_size=1) as stream:
        [batch] = next(stream)
    ends = [int(np.flatnonzero(labels != IGNORED)[-1]) + 1 for labels in batch.labels]
    rows = zip(batch.inputs, batch.labels, ends, strict=True)
    return [Example(inputs[:end], labels[:end]) for inputs, labels, end in rows]


def mean_loss(model: Any, examples: Sequence[Example]) -> float:
    """Cross entropy of the answers' tokens, by transformers' own loss, which shifts labels; each example by itself."""
    total = tokens = 0.0
    for example in examples:
        inputs = torch.from_numpy(np.append(example.inputs, 0))[None]  # nothing sees the last one
        labels = torch.from_numpy(np.append(IGNORED, example.labels))[None]
        count = int((labels != IGNORED).sum())
        total += float(model(input_ids=inputs, labels=labels).loss) * count
        tokens += count
    return total / tokens


def log_probabilities(model: Any, examples: Sequence[Example]) -> torch.Tensor:
    """Of each example's answer, [examples]."""
    return torch.tensor([-mean_loss(model, [example]) * int((example.labels != IGNORED).sum()) for example in examples])


def records(group: Any, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(RunFolder(group.folder).metrics) if line["kind"] == kind]


@torch.no_grad()
def test_instructions_are_learned_with_the_loss_that_transformers_computes_and_continue_exactly(
    examples: Path, undisturbed_and_killed: Callable[..., Any], tmp_path: Path
) -> None:
    base = saved(tmp_path / "base", "gpt_neox", hidden_dropout=0.0)
    given = overrides("Instruct", base, examples, packing=False)
    groups = undisturbed_and_killed(1, *given)
    assert groups[0].curve() == groups[1].curve()

    found = of_run(groups[0], rows=1)
    rows = first_rows(found)
    assert len({len(row.inputs) for row in rows}) > 1, "some are padded"
    before = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    first, *_ = records(groups[0], "train")
    assert first["loss"] == pytest.approx(mean_loss(before, rows), rel=1e-5)

    export_run(groups[0].folder, tmp_path / "export")
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    held_out = [row for [row] in found.splits["validation"]]
    *_, last = records(groups[0], "validation")
    assert last["loss"] == pytest.approx(mean_loss(after, held_out), rel=1e-5)
    assert last["loss"] < mean_loss(before, held_out) - 1
    assert (tmp_path / "export" / "chat_template.jinja").read_text() == TEMPLATE


@torch.no_grad()
def test_preferences_are_those_that_transformers_computes_and_continue_exactly(
    examples: Path, undisturbed_and_killed: Callable[..., Any], tmp_path: Path
) -> None:
    base = saved(tmp_path / "base", "opt", ffn_dim=32, word_embed_proj_dim=16, dropout=0.0)
    beta = 0.5
    given = overrides("Preference", base, examples)
    groups = undisturbed_and_killed(2, *given, f"training.preference={{beta: {beta}}}")
    assert groups[0].curve() == groups[1].curve()
    assert without_time(records(groups[0], "preference")) == without_time(records(groups[1], "preference"))

    steps = [[[line[name] for name in ("loss", *METRICS)] for line in records(group, "train")] for group in groups]
    assert steps[0] == steps[1]

    found = of_run(groups[0], rows=2)
    held_out = [row for pair in found.splits["validation"] for row in pair]
    before = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    reference = log_probabilities(before, held_out)
    for group in groups:
        kept = np.load(group.folder / "checkpoints" / "examples" / "reference.npz")
        np.testing.assert_allclose(kept["validation"], reference, rtol=1e-5)

    first, *_, end = records(groups[0], "train")
    trained = log_probabilities(before, first_rows(found))
    assert first["logps/chosen"] == pytest.approx(float(trained[0::2].mean()), rel=1e-5)
    assert first["logps/rejected"] == pytest.approx(float(trained[1::2].mean()), rel=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert end["rewards/margins"] == pytest.approx(end["rewards/chosen"] - end["rewards/rejected"], rel=1e-4)
    assert (end["rewards/accuracies"], end["rewards/margins"] > 1) == (1.0, True)

    export_run(groups[0].folder, tmp_path / "export")
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    rewards = beta * (log_probabilities(after, held_out) - reference)
    chosen, rejected = rewards[0::2], rewards[1::2]
    *_, last = records(groups[0], "preference")
    assert last["loss"] == pytest.approx(float(-F.logsigmoid(chosen - rejected).mean()), rel=1e-4)
    assert last["rewards/chosen"] == pytest.approx(float(chosen.mean()), rel=1e-4)
    assert last["rewards/rejected"] == pytest.approx(float(rejected.mean()), rel=1e-4)
    assert last["rewards/accuracies"] == 1.0


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**line, "time": ""} for line in lines]


def test_conversations_that_would_share_a_sequence_are_refused_before_they_are_read(
    tiny_job: Callable[..., LLMTrainingJob], tmp_path: Path
) -> None:
    base = saved(tmp_path / "base", "gpt_neox")
    job = tiny_job(*overrides("Instruct", base, tmp_path / "not-there.jsonl"))
    with pytest.raises(WindlassError, match=r"only the decoder keeps packed conversations apart; give packing: false"):
        prepare_data(job, RunFolder(tmp_path / "runs" / "tiny"), lambda said: None)
