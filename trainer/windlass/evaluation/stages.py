"""The page of runs that follow one another: what went into each stage, what came out, and what the model wrote."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.evaluation import record
from windlass.evaluation.history import History, read_history, read_records
from windlass.evaluation.report import Chart, facts_of_plan, loss_figure, read_object, render, samples
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import load_job

LESSONS = {
    "Pretrain": "The model reads text and learns to guess the next token. What it knows of language and of the world, "
    "it learns here; most of the work of a large model is this stage.",
    "Continue": "The model of before reads on, in other text: it learns what is new, and forgets of the old what it "
    "no longer reads.",
    "Instruct": "The model reads prompts with their answers, written as a conversation. Only the tokens of answers "
    "count in the loss: it learns when to answer, in which form, and when to stop.",
    "Classify": "The output for tokens gives way to one for labels. What the model knows of text is kept, and says "
    "which label a text has.",
    "Preference": "The model reads pairs of answers to the same prompt, and learns to make the better one likelier "
    "than the model of before did, and the worse one less likely.",
}
"""What a stage is for, to someone who sees it for the first time."""


@dataclass(frozen=True)
class Stage:
    """What the page says of one run."""

    name: str
    title: str
    status: str
    lesson: str
    facts: list[tuple[str, str]]
    """What went in, and what came out."""
    chart: Chart | None
    samples: list[tuple[str, list[tuple[str, str]]]]
    """Of each prompt, what the model wrote before and after."""
    evaluation: tuple[list[str], list[list[str]]]
    """Header and lines."""


def write_pages_of(run: Path) -> None:
    """Write the pages of all stages that a run is one of again, after something was added to it."""
    for stages in run.parent.glob("*.json"):
        if run.name in read_object(stages).get("stages", []):
            write_stages(stages)


def write_stages(stages: Path) -> Path:
    """Write the page of a file RUNS/NAME.json that names runs, as RUNS/NAME.html; returns its path.

    A run that has not begun has its name only.
    """
    names = read_object(stages)["stages"]
    found = [_stage(stages.parent / name) for name in names]
    return render("stages.html", stages.with_suffix(".html"), name=stages.stem, stages=found)


def _stage(run: Path) -> Stage:
    if not (run / "job.yaml").exists():
        return Stage(run.name, run.name, "Not started", "", [], None, [], ([], []))
    job, result, history = (
        load_job(run / "job.yaml"),
        read_object(run / "result.json"),
        read_history(run / "metrics.jsonl"),
    )
    baseline = (result.get("baseline") or {}).get("validation_loss")
    evaluated = read_object(run / record.FILE)
    kind = "Continue" if job.spec.task == "Pretrain" and job.spec.model.from_ else job.spec.task
    return Stage(
        run.name,
        {"Continue": "Continue pretraining"}.get(kind, kind),
        result.get("status", "Running"),
        LESSONS[kind],
        [*_went_in(job, run), *_came_out(result, history)],
        loss_figure(history, baseline) if len(history.train["step"]) else None,
        [(prompt, [texts[0], texts[-1]] if len(texts) > 1 else texts) for prompt, texts in samples(history, result)],
        record.table(evaluated) if evaluated else ([], []),
    )


def _went_in(job: LLMTrainingJob, run: Path) -> Iterator[tuple[str, str]]:
    base = read_object(run / "base.json")
    start = f"the weights of {base['uri']}" if base else "random weights"
    plan = facts_of_plan(list(read_records(run / "events.jsonl")))
    yield "Starts from", start
    if "Model" in plan:
        yield "Model", plan["Model"]
    data = job.spec.data
    sources = data.examples.sources if data.examples else data.prepare.sources if data.prepare else data.train
    yield "Reads", ", ".join(source.uri for source in sources)
    if "Length" in plan:
        yield "For", plan["Length"]
    for event in read_records(run / "events.jsonl"):
        if event["kind"] == "info" and event["message"].startswith("Examples: "):
            yield "Examples", event["message"].removeprefix("Examples: ")


def _came_out(result: dict[str, Any], history: History) -> Iterator[tuple[str, str]]:
    for title, curve in (("Loss on what it reads", history.train), ("Loss on held-out data", history.validation)):
        if len(curve["step"]):
            ends = dict.fromkeys((0, len(curve["step"]) - 1))
            yield title, ", ".join(f"{curve['loss'][at]:.3f} at step {curve['step'][at]:.0f}" for at in ends)
    baseline = result.get("baseline")
    if baseline:
        yield "Bigram baseline", f"{baseline['validation_loss']:.3f}: guessing each token from the one before alone"
    for split, found in (result.get("classification") or {}).items():
        yield f"Accuracy, {split}", f"{found['accuracy']:.1%} of {found['texts']:,} texts"
    if pairs := result.get("preference"):
        yield (
            "Accuracy",
            f"the better answer has the higher reward in {pairs['rewards/accuracies']:.1%} of {pairs['pairs']:,} pairs",
        )
    if result.get("reason"):
        yield "Failed", f"{result['reason']}: {result['message']}"
    if result.get("tokens"):
        yield "Took", f"{result['tokens']:,} tokens, {result['seconds']:.0f} seconds"
