"""How well a classifier tells labels apart, measured while it trains and at the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from windlass.data.stream import Batch
from windlass.planning.choices import Strategy
from windlass.tasks.classify import measure, probabilities
from windlass.training.measure import in_step, to_device
from windlass.training.parallel import autocast, unwrapped
from windlass.training.ranks import Ranks
from windlass.training.recorder import Record


@dataclass(frozen=True)
class LabelMeasurement:
    """Accuracy, F1, confusion and calibration over the same texts every time."""

    split: str
    batches: Callable[[], Iterator[Batch]]
    """This rank's share of the texts."""
    labels: Sequence[str]
    every_steps: int | None
    """None: at the end only."""
    total_steps: int
    ranks: Ranks
    strategy: Strategy
    precision: str

    def due(self, step: int) -> bool:
        regular = self.every_steps is not None and step > 0 and step % self.every_steps == 0
        return regular or step == self.total_steps

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int) -> Iterator[Record]:
        model.eval()
        truth: list[int] = []
        found: list[list[float]] = []
        for batch in in_step(self.batches(), self.ranks):
            inputs, documents, targets = to_device(batch, self.ranks.device)
            with autocast(self.strategy, self.precision, self.ranks.device):
                scores = unwrapped(model)(inputs, documents=documents)
            some_truth, some_found = probabilities(scores, targets["labels"])
            truth += some_truth
            found += some_found
        model.train()
        parts = self.ranks.gather((truth, found))
        truth, found = ([item for part in parts for item in part[place]] for place in (0, 1))
        yield {"kind": "classification", "split": self.split, "step": step, **measure(truth, found, self.labels)}
