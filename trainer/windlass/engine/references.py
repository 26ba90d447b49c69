"""What the model that a preference run starts from says of each answer: computed once, and kept beside the examples."""

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from windlass.engine.examples import FOLDER, RankExamples
from windlass.engine.rank_settings import RankSettings
from windlass.engine.run_folder import RunFolder
from windlass.storage import Storage
from windlass.training.measure_preferences import log_probabilities_of
from windlass.training.ranks import Ranks

FILE = "reference.npz"


def add_references(
    examples: RankExamples,
    settings: RankSettings,
    storage: Storage,
    ranks: Ranks,
    model: nn.Module,
    initialise: Callable[[], None],
) -> None:
    """Give each example its log-probability by the model that `initialise` makes. All ranks call it together.

    The model's parameters are changed only where no run before has left the numbers.
    """
    base, seed = settings.base, settings.job.spec.training.seed
    lora = settings.job.spec.model.lora
    kept = f" in {lora.quantize}" if lora and lora.quantize != "None" else ""
    of = f"{settings.examples} by {base.identity if base else seed}{kept}"
    place = storage.child(FOLDER)
    content = ranks.from_first(place.read(FILE) if ranks.first and place.exists(FILE) else None)
    found = {} if content is None else dict(np.load(io.BytesIO(content)))
    if str(found.pop("of", "")) != of:
        if ranks.first:
            answers = sum(len(sample) for samples in examples.splits.values() for sample in samples)
            message = f"Log-probabilities of {answers:,} answers by the reference model, computed once"
            RunFolder(settings.folder).tell("info", message)
        initialise()
        found = {name: _computed(examples, name, settings, ranks, model) for name in examples.splits}
        if ranks.first:
            file = io.BytesIO()
            np.savez(file, of=np.array(of), **found)
            place.write(FILE, file.getvalue())
    for name, samples in examples.splits.items():
        numbers = iter(found[name].tolist())
        examples.splits[name] = [tuple(row._replace(reference=next(numbers)) for row in sample) for sample in samples]


def _computed(
    examples: RankExamples, split: str, settings: RankSettings, ranks: Ranks, model: nn.Module
) -> NDArray[np.float32]:
    """[rows of the split]"""
    plan, samples = settings.plan, examples.splits[split]
    mine = examples.batches_of(samples[ranks.rank :: ranks.world_size], plan.batching.micro_batch_size)
    parts = ranks.gather(log_probabilities_of(model, mine, ranks, plan.strategy, plan.precision))
    rows = len(samples[0]) if samples else 1
    whole = torch.empty(len(samples), rows)
    for rank, part in enumerate(parts):
        whole[rank :: ranks.world_size] = part.view(-1, rows)
    return whole.flatten().numpy()
