"""What the train function costs: its tokens/s against the shortest plain PyTorch loop, alternated in one run.

    python benchmarks/training_overhead.py                          # a small model on this machine's CPU or GPU
    python benchmarks/training_overhead.py --preset gpt2-small --precision BF16 --compile --sequence-length 1024

Both train the same model on the same corpus with the same batch, precision, optimizer and clipping, in one process.
Ours has all on that a run has: the verified stream, a line of metrics a step, Prometheus, asynchronous checkpoints.
Neither's first steps count. The number is the median of the pairs' ratios; 1.0 is no cost at all.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

WARM_UP_STEPS = 5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--preset", default="gpt2-tiny")
    options.add_argument("--batch", type=int, default=16, help="sequences a step")
    options.add_argument("--sequence-length", type=int, default=256)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--precision", default="Auto", choices=["Auto", "BF16", "FP32"])
    options.add_argument("--compile", action="store_true")
    chosen = options.parse_args()

    context = multiprocessing.get_context("spawn")  # each run in a process of its own, as in life
    ratios = []
    print(f"{'pair':>4} {'plain loop':>14} {'Windlass':>14} {'ratio':>7}   (tokens/s)")
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(1, chosen.pairs + 1):
            speeds = {}
            order = (plain_loop, windlass) if pair % 2 else (windlass, plain_loop)
            for function in order:
                with context.Pool(1) as pool:
                    speeds[function] = pool.apply(function, (chosen, Path(folder), pair))
            ratios.append(speeds[windlass] / speeds[plain_loop])
            print(f"{pair:>4} {speeds[plain_loop]:>14,.0f} {speeds[windlass]:>14,.0f} {ratios[-1]:>7.3f}", flush=True)
    print(f"median of {len(ratios)} ratios: {statistics.median(ratios):.3f}")


def settings_of(chosen: argparse.Namespace, folder: Path, name: str):  # type: ignore[no-untyped-def]  # imports torch
    from windlass.engine.machine import this_machine
    from windlass.engine.preparation import prepare_run
    from windlass.engine.run_folder import RunFolder
    from windlass.spec.job import LLMTrainingJob

    job = LLMTrainingJob.model_validate(
        {
            "metadata": {"name": name},
            "spec": {
                "model": {"preset": chosen.preset},
                "tokenizer": "bytes",
                "data": {
                    "prepare": {"sources": [{"uri": "python://stdlib"}]},
                    "sequenceLength": chosen.sequence_length,
                },
                "training": {
                    "maxSteps": chosen.steps,
                    "globalBatchSize": chosen.batch,
                    "microBatchSize": chosen.batch,
                    "precision": chosen.precision,
                    "parallelism": {"compile": chosen.compile},
                    "schedule": {"name": "Constant"},
                },
                "checkpoints": {"everySteps": max(1, chosen.steps // 2)},
                "evaluation": {"everySteps": 10**9, "maxTokens": chosen.sequence_length, "baseline": "None"},
            },
        }
    )
    run = RunFolder(folder / "runs" / name)
    run.path.mkdir(parents=True)
    return prepare_run(job, run, this_machine(), 1, lambda message: None)


def windlass(chosen: argparse.Namespace, folder: Path, pair: int) -> float:
    """Tokens/s of a run, from the times in its metrics.jsonl."""
    from windlass.engine.run_folder import RunFolder, read_lines
    from windlass.engine.train_function import train_alone

    settings = settings_of(chosen, folder, f"windlass-{pair}")
    train_alone(settings)
    steps = [line for line in read_lines(RunFolder(settings.folder).metrics) if line["kind"] == "train"]
    first, last = (datetime.fromisoformat(steps[index]["time"]) for index in (WARM_UP_STEPS - 1, -1))
    return (steps[-1]["tokens"] - steps[WARM_UP_STEPS - 1]["tokens"]) / (last - first).total_seconds()


def plain_loop(chosen: argparse.Namespace, folder: Path, pair: int) -> float:
    """Tokens/s of what one would write without Windlass: random windows of an array in memory, no files."""
    import torch
    from torch.nn import functional as F

    from windlass.data.corpus import Corpus
    from windlass.models.decoder import Decoder
    from windlass.spec.presets import model_config

    settings = settings_of(chosen, folder, f"plain-{pair}")
    torch.set_num_threads(settings.threads)
    split = Corpus.open(settings.train[0][0]).split("train")
    tokens = torch.from_numpy(split.read(0, split.tokens).astype("int64"))
    device = settings.plan.device
    model = Decoder(model_config(settings.job.spec.model, 257)).to(device)
    model.initialise(0)
    step_model = torch.compile(model) if chosen.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    length, start = chosen.sequence_length, 0.0
    for step in range(chosen.steps):
        if step == WARM_UP_STEPS:
            start = now(device)
        at = torch.randint(len(tokens) - length - 1, (chosen.batch,))
        windows = torch.stack([tokens[i : i + length + 1] for i in at]).to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=settings.plan.precision == "BF16"):
            logits = step_model(windows[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = now(device) - start
    return (chosen.steps - WARM_UP_STEPS) * chosen.batch * length / seconds


def now(device: str) -> float:
    """The time once all kernels have run."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
