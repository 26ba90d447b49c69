"""What a model forgets when it reads on: losses on old and new text after each stage, by learning rate and by replay.

    windlass data prepare python://stdlib --tokenizer bytes --validation-fraction 0.05 --out corpora/code
    python benchmarks/continued_pretraining.py manifests/samples/continued.yaml

Run where input.txt is, the plays. The sample's three jobs, plays, code and plays again, with other learning rates and
mixes of data in the second; runs are in runs/, and not done again. Losses are nats per byte on held-out text.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from one_rank import run

from windlass.data.corpus import Corpus
from windlass.data.stream import validation_batches
from windlass.engine.run_folder import RunFolder
from windlass.engine.runs import load_run
from windlass.spec.loading import dump_job, load_job_text, load_stages

CORPORA = {"plays": "corpora/plays", "code": "corpora/code"}
NOTHING_OLD = "data.train=[{uri: corpora/code}]"
SECOND_STAGES = {
    "2e-4, where the plays ended": [
        "training.optimizer.learningRate=2e-4",
        "training.schedule.name=Constant",
        NOTHING_OLD,
    ],
    "1e-3": [NOTHING_OLD],
    "2e-3": ["training.optimizer.learningRate=2e-3", NOTHING_OLD],
    "1e-3, a fifth plays": [],
}
"""Peak learning rate and data, as changes of the sample's second job."""
AND_BACK = ("1e-3", "1e-3, a fifth plays")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("jobs", type=Path)
    file = options.parse_args().jobs
    print("| stage | loss on plays | loss on code | core seconds |")
    print("| --- | --- | --- | --- |")
    row("plays", stage(file, 0, "plays"))
    for number, (title, changes) in enumerate(SECOND_STAGES.items()):
        row(f"then code: {title}", stage(file, 1, f"code-{number}", *changes))
    for number, title in enumerate(SECOND_STAGES):
        if title in AND_BACK:
            base = f"model.from=run://code-{number}"
            row(f"then plays again, after code at {title}", stage(file, 2, f"plays-again-{number}", base))


def stage(file: Path, number: int, name: str, *changes: str) -> dict[str, Any]:
    """One of the file's jobs under another name, and changed; returns its losses."""
    job = load_stages(file)[number]
    return dict(run(load_job_text(dump_job(job), overrides=[f"metadata.name={name}", *changes]), losses))


def row(title: str, found: dict[str, Any]) -> None:
    print(f"| {title} | {found['plays']:.3f} | {found['code']:.3f} | {found['seconds']:.0f} |", flush=True)


def losses(folder: RunFolder) -> dict[str, Any]:
    """The loss of a run's newest checkpoint on each corpus."""
    model, _ = load_run(folder.path)
    return {name: held_out_loss(model, Corpus.open(uri)) for name, uri in CORPORA.items()}


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, corpus: Corpus) -> float:
    """Mean cross entropy in nats a token over the same windows of the validation split every time."""
    total, tokens = 0.0, 0
    windows = validation_batches(
        [(corpus, 1.0)], sequence_length=128, batch_size=32, max_tokens=1 << 16, rank=0, world_size=1
    )
    for batch in windows:
        labels = torch.from_numpy(batch.labels)
        counted = labels >= 0
        logits = model(torch.from_numpy(batch.inputs))[counted]
        total += float(torch.nn.functional.cross_entropy(logits, labels[counted], reduction="sum"))
        tokens += int(counted.sum())
    return total / tokens


if __name__ == "__main__":
    main()
