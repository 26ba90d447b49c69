"""Log-probabilities of pairs of answers: those of the reference model, once, and how training changes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from windlass.data.stream import Batch
from windlass.planning.choices import Strategy
from windlass.tasks.preference import log_probabilities, measure
from windlass.training.measure import in_step, to_device
from windlass.training.parallel import autocast, unwrapped
from windlass.training.ranks import Ranks
from windlass.training.recorder import Record


@torch.no_grad()
def log_probabilities_of(
    model: nn.Module, batches: Iterator[Batch], ranks: Ranks, strategy: Strategy, precision: str
) -> torch.Tensor:
    """Of each row of this rank's batches, on the CPU, [rows]. All ranks call it together."""
    model.eval()
    found = [torch.empty(0)]
    for batch in in_step(batches, ranks):
        inputs, _, targets = to_device(batch, ranks.device)
        with autocast(strategy, precision, ranks.device):
            rows = unwrapped(model)(inputs, head=partial(log_probabilities, labels=targets["labels"]))
        if batch.read:
            found.append(rows.float().cpu())
    model.train()
    return torch.cat(found)


@dataclass(frozen=True)
class PreferenceMeasurement:
    """Loss, rewards and accuracy over the same pairs every time."""

    batches: Callable[[], Iterator[Batch]]
    """This rank's share of the pairs."""
    beta: float
    every_steps: int
    total_steps: int
    ranks: Ranks
    strategy: Strategy
    precision: str

    def due(self, step: int) -> bool:
        return step % self.every_steps == 0 or step == self.total_steps

    def __call__(self, model: nn.Module, step: int) -> Iterator[Record]:
        policy = log_probabilities_of(model, self.batches(), self.ranks, self.strategy, self.precision)
        known = [torch.from_numpy(batch.reference) for batch in self.batches() if batch.reference is not None]
        parts = self.ranks.gather((policy, torch.cat([torch.empty(0), *known])))
        policy, reference = (torch.cat([part[place] for part in parts]) for place in (0, 1))
        found = measure(policy, reference, self.beta)
        if step:
            yield {"kind": "validation", "step": step, "loss": found["loss"], "pairs": found["pairs"]}
        yield {"kind": "preference", "step": step, **found}
