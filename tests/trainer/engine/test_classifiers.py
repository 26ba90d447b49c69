"""A classifier from labelled texts to labels, under kills; and texts and labels that are refused before training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from windlass.engine.preparation import prepare_data
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.engine.runs import classify_texts, export_run
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob


@pytest.fixture
def texts_with_labels(tmp_path: Path) -> Path:
    """A table of 120 texts, of which the "up" ones have a word that the others lack; ten are copies."""
    rows = [f"{'up' if n % 3 else 'down'}\tline {n * 37 % 113} {'high' * (n % 3 > 0)} end" for n in range(110)]
    table = tmp_path / "texts.tsv"
    table.write_text("\n".join(["label\ttext", *rows, *rows[:10]]) + "\n")
    return table


def overrides(table: Path, **examples: Any) -> list[str]:
    given = ", ".join(f"{name}: {value}" for name, value in examples.items())
    return [
        "task=Classify",
        "model.head.labels=[up, down]",
        f"data={{examples: {{sources: [{{uri: {table}}}], {given}}}}}",
        "evaluation.prompts=[]",
        "training.maxSteps=30",
    ]


def test_a_killed_classifier_ends_as_an_undisturbed_one_and_labels_texts(
    texts_with_labels: Path, undisturbed_and_killed: Callable[..., Any], tmp_path: Path
) -> None:
    groups = undisturbed_and_killed(2, *overrides(texts_with_labels, testFraction=0.2))
    lines = [[r for r in read_lines(RunFolder(g.folder).metrics) if r["kind"] == "classification"] for g in groups]
    for one, other in zip(*lines, strict=True):
        assert one | {"time": ""} == other | {"time": ""}
    steps = [[r for r in read_lines(RunFolder(g.folder).metrics) if r["kind"] == "train"] for g in groups]
    assert [r["loss"] for r in steps[0]] == [r["loss"] for r in steps[1]]
    texts_read = 30 * groups[0].job.spec.training.global_batch_size
    assert 13 * texts_read < steps[0][-1]["tokens"] < 20 * texts_read  # "line 5  end" to "line 100 high end"
    [test] = [line for line in lines[0] if line["split"] == "test"]
    assert test["texts"] == 22
    assert test["accuracy"] > 0.9
    found = classify_texts(groups[0].folder, ["line 5 high end", "line 5  end"])
    assert [max(labels, key=lambda name: labels[name]) for labels in found] == ["up", "down"]

    transformers = pytest.importorskip("transformers")
    export_run(groups[0].folder, tmp_path / "export")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").eval()
    scores = theirs(torch.tensor([list(b"line 5 high end")])).logits.softmax(-1)[0]
    assert theirs.config.id2label == {0: "up", 1: "down"}
    torch.testing.assert_close(scores.tolist(), list(found[0].values()), atol=1e-5, rtol=1e-5)


def prepared(job: LLMTrainingJob, tmp_path: Path) -> list[str]:
    run = RunFolder(tmp_path / "runs" / "tiny")
    run.path.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    prepare_data(job, run, said.append)
    return said


def test_copies_go_first_then_labels_are_balanced_then_split(
    texts_with_labels: Path, tiny_job: Callable[..., LLMTrainingJob], tmp_path: Path
) -> None:
    job = tiny_job(*overrides(texts_with_labels, balance="true", validationFraction=0.25, testFraction=0.25))
    [said] = prepared(job, tmp_path)
    assert said == (
        "Examples: 120 examples read; 10 copies removed; 36 left out to balance the labels; "
        "38 train, 18 validation, 18 test"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.head.labels=[up, dwn]", r"texts\.tsv:2: label 'down' is none of .*, up, dwn; did you mean dwn\?"),
        ("model.head.labels=[up, down, flat]", "label 'flat' has 0 examples, and none of them is left for train"),
        ("training.globalBatchSize=600", r"globalBatchSize: 600 is more than the \d+ examples"),
        ("data.examples.sources.0.labelField=kind", "has no text in field kind; it has label, text; set labelField"),
    ],
)
def test_labels_and_texts_that_do_not_fit_are_refused(
    texts_with_labels: Path, tiny_job: Callable[..., LLMTrainingJob], tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(WindlassError, match=message):
        prepared(tiny_job(*overrides(texts_with_labels), override), tmp_path)
