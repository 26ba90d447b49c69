"""What each choice of an architecture changes in the loss, on the same tokens: docs/variants.md has a table of it.

    python benchmarks/variants.py

Each row changes one thing in a small GPT-2 that reads Python's standard library; runs are in runs/, and not done again.
The start is trained with several seeds: what differs less than they do is noise.
"""

import argparse
import statistics
from typing import Any

from one_rank import run

from windlass.engine.run_folder import RunFolder, last, read_lines
from windlass.spec.loading import load_job_text

JOB = """
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {name: start}
spec:
  model: {preset: gpt2-nano}
  tokenizer: bytes
  data:
    prepare: {sources: [{uri: python://stdlib}], validationFraction: 0.05}
    sequenceLength: 64
  training:
    maxSteps: 300
    globalBatchSize: 12
    optimizer: {learningRate: 2e-3, betas: [0.9, 0.99]}
    schedule: {name: Cosine, warmupSteps: 30}
  evaluation: {maxTokens: 131072, baseline: None}
"""
VARIANTS = {
    "gpt2-nano, as it is": {},
    "norm: RMSNorm": {"norm": "RMSNorm"},
    "qkNorm: true": {"qkNorm": "true"},
    "position: Rotary": {"position": "Rotary"},
    "activation: GELUTanh": {"activation": "GELUTanh"},
    "activation: SwiGLU": {"activation": "SwiGLU", "intermediateSize": "344"},
    "activation: GeGLU": {"activation": "GeGLU", "intermediateSize": "344"},
    "kvHeads: 1": {"kvHeads": "1"},
    "slidingWindow: 16": {"slidingWindow": "16"},
    "heads: 1": {"heads": "1", "kvHeads": "1"},
    "bias: true": {"bias": "true"},
    "tieEmbeddings: false": {"tieEmbeddings": "false"},
    "parallelBlock: true": {"parallelBlock": "true"},
    "deeper: layers: 8, hiddenSize: 92": {"layers": "8", "hiddenSize": "92"},
    "wider: layers: 2, hiddenSize: 180": {"layers": "2", "hiddenSize": "180"},
    "norm: RMSNorm, position: Rotary, activation: SwiGLU": {
        "norm": "RMSNorm",
        "position": "Rotary",
        "activation": "SwiGLU",
        "intermediateSize": "344",
    },
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=3, help="of the start")
    options.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="overrides for all runs")
    chosen = options.parse_args()
    start = [
        measured(f"start-{seed}", {}, [f"training.seed={seed}", *chosen.set]) for seed in range(1, chosen.seeds + 1)
    ]
    losses = [found["loss"] for found in start]
    print(f"Of {len(losses)} seeds: {', '.join(f'{loss:.4f}' for loss in losses)}\n")
    print("| config | parameters | validation loss | less than the start | core seconds |")
    print("| --- | --- | --- | --- | --- |")
    for number, (title, config) in enumerate(VARIANTS.items()):
        found = start[0] if not config else measured(f"variant-{number}", config, ["training.seed=1", *chosen.set])
        gain = losses[0] - found["loss"]
        print(
            f"| `{title}` | {found['trained']:,} | {found['loss']:.4f} | {gain:+.4f} | {found['seconds']:.0f} |",
            flush=True,
        )
    if len(losses) > 1:
        print(f"\nStandard deviation of seeds: {statistics.stdev(losses):.4f}")


def measured(name: str, config: dict[str, str], overrides: list[str]) -> dict[str, Any]:
    """The last validation of one architecture, and what it took."""
    changes = [f"model.config.{field}={value}" for field, value in config.items()]
    return dict(run(load_job_text(JOB, overrides=[f"metadata.name={name}", *changes, *overrides]), last_validation))


def last_validation(folder: RunFolder) -> dict[str, Any]:
    """The run's last validation record."""
    return last(list(read_lines(folder.metrics)), "validation")


if __name__ == "__main__":
    main()
