"""What the train function costs: its tokens/s against the shortest plain PyTorch loop, alternated in one run.

    python benchmarks/training_overhead.py                          # a small model on this machine's CPU or GPU
    python benchmarks/training_overhead.py --preset gpt2-small --precision BF16 --compile --sequence-length 1024

Both train the same architecture with the same batch, precision, optimizer and clipping, in one process and turn by
turn: some steps of ours, then as many of the plain loop's, so that both see the machine's good and bad moments. Ours
has all on that a run has: the verified stream, a line of metrics a step, Prometheus, asynchronous checkpoints. The
plain loop cuts random windows from an array in memory and writes nothing. The number is the median of the turns'
ratios; 1.0 is no cost.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from windlass.data.corpus import Corpus
from windlass.engine import train_function
from windlass.engine.machine import this_machine
from windlass.engine.preparation import prepare_run
from windlass.engine.rank_settings import RankSettings
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.models.decoder import Decoder
from windlass.spec.job import LLMTrainingJob
from windlass.spec.presets import model_config
from windlass.training.ranks import single_process


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--preset", default="gpt2-tiny")
    options.add_argument("--batch", type=int, default=16, help="sequences a step")
    options.add_argument("--sequence-length", type=int, default=256)
    options.add_argument("--turns", type=int, default=81, help="of each; the first does not count")
    options.add_argument("--steps", type=int, default=2, help="in a turn")
    options.add_argument("--precision", default="Auto", choices=["Auto", "BF16", "FP32"])
    options.add_argument("--compile", action="store_true")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(chosen, RunFolder(Path(folder) / "runs" / "overhead"))


def compare(chosen: argparse.Namespace, run: RunFolder) -> None:
    """Train a run in which the plain loop has its turns where others measure; print each turn."""
    run.path.mkdir(parents=True)
    settings = prepare_run(job(chosen), run, this_machine(), 1, lambda message: None)
    device = torch.device(settings.plan.device)
    plain = PlainLoop(chosen, settings, device)
    train_function._measurements = lambda *_: [plain]
    train_function.train_rank(settings, single_process(device))

    lines = [line for line in read_lines(run.metrics) if line["kind"] == "train"]
    ratios = []
    print(
        f"{'turn':>4} {'plain loop':>12} {'Windlass':>12} {'ratio':>7}   (tokens/s, {torch.get_num_threads()} threads)"
    )
    for turn in range(1, chosen.turns):
        mine = lines[turn * chosen.steps : (turn + 1) * chosen.steps]
        speed = chosen.batch * chosen.sequence_length / statistics.mean(line["step_seconds"]["total"] for line in mine)
        ratios.append(speed / plain.speeds[turn])
        print(f"{turn:>4} {plain.speeds[turn]:>12,.0f} {speed:>12,.0f} {ratios[-1]:>7.3f}")
    print(f"median of {len(ratios)} ratios: {statistics.median(ratios):.3f}")


def job(chosen: argparse.Namespace) -> LLMTrainingJob:
    """A run of as many steps as all turns have, with two checkpoints."""
    steps = chosen.turns * chosen.steps
    return LLMTrainingJob.model_validate(
        {
            "metadata": {"name": "overhead"},
            "spec": {
                "model": {"preset": chosen.preset},
                "tokenizer": "bytes",
                "data": {
                    "prepare": {"sources": [{"uri": "python://stdlib"}]},
                    "sequenceLength": chosen.sequence_length,
                },
                "training": {
                    "maxSteps": steps,
                    "globalBatchSize": chosen.batch,
                    "microBatchSize": chosen.batch,
                    "precision": chosen.precision,
                    "parallelism": {"compile": chosen.compile},
                    "schedule": {"name": "Constant"},
                },
                "checkpoints": {"everySteps": max(1, steps // 3)},
                "evaluation": {"baseline": "None"},
            },
        }
    )


@dataclass
class PlainLoop:
    """What one would write without Windlass; takes its turn after each turn of ours."""

    chosen: argparse.Namespace
    settings: RankSettings
    device: torch.device
    speeds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        split = Corpus.open(self.settings.train[0][0]).split("train")
        self.tokens = torch.from_numpy(split.read(0, split.tokens).astype("int64"))
        decoder = Decoder(model_config(self.settings.job.spec.model, 257)).to(self.device)
        decoder.initialise(0)
        self.model = torch.compile(decoder) if self.chosen.compile else decoder
        self.parameters = list(decoder.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def due(self, step: int) -> bool:
        return step > 0 and step % self.chosen.steps == 0

    def __call__(self, model: nn.Module, step: int) -> Iterator[dict[str, Any]]:
        start = self.now()
        for _ in range(self.chosen.steps):
            self.step()
        self.speeds.append(self.chosen.steps * self.chosen.batch * self.chosen.sequence_length / (self.now() - start))
        return iter(())

    def step(self) -> None:
        length = self.chosen.sequence_length
        at = torch.randint(len(self.tokens) - length - 1, (self.chosen.batch,))
        windows = torch.stack([self.tokens[i : i + length + 1] for i in at.tolist()]).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.plan.precision == "BF16"):
            logits = self.model(windows[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def now(self) -> float:
        """The time once all kernels have run."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


if __name__ == "__main__":
    main()
