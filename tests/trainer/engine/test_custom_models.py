"""The user's own model: trained, killed and continued like any other; and what is wrong with it, said early."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from windlass.engine.evaluation import Request, evaluate
from windlass.engine.preparation import find_model
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.engine.runs import classify_texts, export_run, generate_text, load_run
from windlass.errors import WindlassError
from windlass.models.build import count_trained
from windlass.spec.job import LLMTrainingJob, Model, RawData
from windlass.spec.presets import custom_config
from windlass.spec.problems import InvalidJob

CODE = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self, vocab_size, outputs):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 16)
        self.inner = nn.GRU(16, 16, batch_first=True)
        self.unused = nn.Linear(2, 2)
        self.output = nn.Linear(16, outputs, bias=False)
        if outputs == vocab_size:
            self.output.weight = self.embedding.weight
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("scale", torch.full((16,), 2.0), persistent=False)

    def forward(self, tokens):
        if self.training:
            self.calls += 1
        return self.output(self.inner(self.embedding(tokens) * self.scale)[0])

def build(vocab_size, context_length, labels=None):
    return Tied(vocab_size, len(labels or []) or vocab_size)

def number(vocab_size, context_length):
    return 7

def other(size):
    return nn.Linear(size, size)

def wrong(vocab_size, context_length, labels=None):
    return nn.Sequential(nn.Embedding(vocab_size, 16), nn.Linear(16, 3))

SIZE = 7
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder, by a name that no other test imports."""
    name = f"mine_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def overrides(custom: str) -> list[str]:
    return [
        f"model={{custom: '{custom}'}}",
        "data.sequenceLength=32",
        "training.microBatchSize=6",
        "training.maxSteps=25",
    ]


@pytest.mark.parametrize(("world_size", "strategy"), [(2, "DDP"), (2, "FSDP")])
def test_a_killed_run_ends_as_an_undisturbed_one(
    module: str, ranks: Callable[..., Any], texts: Path, world_size: int, strategy: str
) -> None:
    chosen = [*overrides(f"{module}:build"), f"training.parallelism.strategy={strategy}"]
    undisturbed, killed = (ranks(name, world_size, *chosen) for name in ("undisturbed", "killed"))
    undisturbed.start_with_job_file()
    undisturbed.wait()
    killed.start_with_job_file()
    killed.kill(0, at_step=12)
    killed.start()
    killed.wait()
    assert killed.curve() == undisturbed.curve()
    losses = [line["loss"] for line in read_lines(RunFolder(killed.folder).metrics) if line["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    model, _ = load_run(killed.folder)
    state = model.state_dict()
    assert int(state["body.calls"]) == 25
    assert torch.equal(state["body.output.weight"], state["body.embedding.weight"])
    assert len("".join(generate_text(killed.folder, "the ", max_new_tokens=40))) > 0
    request = Request(texts=[RawData(uri=str(texts / "00.txt"))], limit=2, alone=True)
    [measured] = evaluate(killed.folder, request, killed.folder / "measured")["texts"]
    assert measured["loss"] < 0.8 * losses[0]
    with pytest.raises(WindlassError, match=r"transformers cannot load .*:build, a model of yours"):
        export_run(killed.folder, killed.folder / "export")


def test_a_classifier_of_ones_own_labels_texts(module: str, ranks: Callable[..., Any], tmp_path: Path) -> None:
    rows = [f"{'up' if n % 2 else 'down'}\tline {n} {'high' * (n % 2)}" for n in range(100)]
    (tmp_path / "texts.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    run = ranks(
        "mine",
        1,
        *overrides(f"{module}:build"),
        "task=Classify",
        "model.head.labels=[up, down]",
        f"data={{examples: {{sources: [{{uri: {tmp_path}/texts.tsv}}]}}, sequenceLength: 32}}",
        "evaluation.prompts=[]",
    )
    run.start_with_job_file()
    run.wait()
    [found] = classify_texts(run.folder, ["line 7 high"])
    assert found["up"] > 0.9


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        ("nowhere.at_all:build", "there is no module nowhere; install it, put its folder on PYTHONPATH"),
        ("{}:biuld", "has no biuld; it has Tied, build, number, other, wrong"),
        ("{}:SIZE", "is a int, and no function"),
        ("{}:number", "number returned int; it has to return a torch.nn.Module"),
        ("{}:other", r"other\(size\) is called with vocab_size=257, context_length=32"),
        ("{}:wrong", r"gave \[1, 2, 3\] torch.float32 for \[1, 2\] tokens; it has to give logits \[1, 2, 257\]"),
    ],
)
def test_what_is_no_model_is_refused_before_data_are_prepared(
    module: str, tiny_job: Callable[..., LLMTrainingJob], tmp_path: Path, custom: str, message: str
) -> None:
    with pytest.raises(WindlassError, match=message):
        find_model(tiny_job(*overrides(custom.format(module))), tmp_path)


def test_its_weights_are_not_quantised(module: str) -> None:
    config = custom_config(Model.model_validate({"custom": f"{module}:build"}), 20, 32)
    spec = Model.model_validate({"from": "run://mine", "lora": {"quantize": "NF4"}})
    with pytest.raises(WindlassError, match=r"spec\.model\.lora\.quantize: a model of your own"):
        count_trained(config, spec)


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("data.sequenceLength=null", "spec.data.sequenceLength"),
        ("training.microBatchSize=Auto", "spec.training.microBatchSize"),
        ("model.trainable.scope=Head", "spec.model.trainable.scope"),
        ("data.documentMask=true", "spec.data.documentMask"),
        ("checkpoints.export=HuggingFace", "spec.checkpoints.export"),
    ],
)
def test_what_a_model_of_ones_own_cannot_have_is_named(
    tiny_job: Callable[..., LLMTrainingJob], override: str, path: str
) -> None:
    with pytest.raises(InvalidJob) as refusal:
        tiny_job(*overrides("mine:build"), override)
    assert [problem.path for problem in refusal.value.problems] == [path]
