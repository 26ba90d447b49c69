"""A classifier by what it starts from and by what is trained of it: accuracy on the test split, over seeds.

    windlass run manifests/samples/quickstart.yaml
    python benchmarks/classification.py manifests/samples/spam.yaml

Run where the base's runs/ and the examples are. Each seed draws its own split, order of examples and weights. Runs have
one rank, without Ray, and are in runs/; those that are there from before are not trained again. Seconds are of one
core: what training and measuring take on a machine that does nothing else.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from one_rank import run

from windlass.engine.run_folder import RunFolder, last, read_lines
from windlass.spec.loading import load_job

STARTS = {"base": [], "random": ["model.from=null", "model.preset=llama-tiny", "tokenizer=bytes"]}
WAYS = {
    "all": [],
    "last block": ["model.trainable={scope: LastBlocks, blocks: 1}"],
    "head": ["model.trainable.scope=Head", "training.optimizer.learningRate=1e-2"],
    "LoRA": ["model.lora={rank: 8, alpha: 16, targets: [attention, mlp]}", "training.optimizer.learningRate=3e-3"],
}
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}
"""Student's t of as many seeds, for an interval that has the mean in it in 95 of 100 cases."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("job", type=Path)
    options.add_argument("--starts", nargs="*", choices=STARTS, default=list(STARTS))
    options.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    options.add_argument("--seeds", type=int, choices=T_95, default=5)
    options.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="overrides for all runs")
    chosen = options.parse_args()
    print("| start | trained | parameters | test accuracy | F1 | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for start in chosen.starts:
        for way in chosen.ways:
            overrides = [*STARTS[start], *WAYS[way], *chosen.set]
            name = f"{chosen.job.stem}-{start}-{way.replace(' ', '-').lower()}"
            found = [run_seed(chosen.job, name, seed, overrides) for seed in range(1, chosen.seeds + 1)]
            accuracy = [result["accuracy"] for result in found]
            mean, half = statistics.mean(accuracy), T_95[chosen.seeds] * statistics.stdev(accuracy) / len(found) ** 0.5
            f1, seconds = (statistics.mean(result[key] for result in found) for key in ("f1", "seconds"))
            print(
                f"| {start} | {way} | {found[0]['trained']:,} | {mean:.1%}, {mean - half:.1%} to {mean + half:.1%} "
                f"| {f1:.3f} | {seconds:.0f} |",
                flush=True,
            )


def run_seed(file: Path, name: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """What was measured on the test split, and what it took."""
    overrides = [f"metadata.name={name}-{seed}", f"training.seed={seed}", "workers.replicas=1", *overrides]
    return dict(run(load_job(file, overrides), on_test_split))


def on_test_split(folder: RunFolder) -> dict[str, Any]:
    """The run's last record of the test split."""
    return last([record for record in read_lines(folder.metrics) if record.get("split") == "test"], "classification")


if __name__ == "__main__":
    main()
