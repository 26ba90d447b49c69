"""Scores of benchmark suites while a model trains, as it is, without an export."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from windlass.data.tokenizers import Tokenizer
from windlass.engine.suites import OpenSuite
from windlass.evaluation.record import plain
from windlass.planning.choices import Strategy
from windlass.training.parallel import autocast, unwrapped
from windlass.training.ranks import Ranks
from windlass.training.recorder import Record


@dataclass(frozen=True)
class SuiteMeasurement:
    """Scores of suites: before training, at their steps and at the end. Ranks share the items."""

    suites: Sequence[OpenSuite]
    tokenizer: Tokenizer
    batch_size: int
    every_steps: int
    """Of suites that do not say."""
    total_steps: int
    ranks: Ranks
    strategy: Strategy
    precision: str
    alive: Callable[[], None]
    """Called while it goes on, which may take longer than a step may."""

    def due(self, step: int) -> bool:
        return any(self._due(suite, step) for suite in self.suites)

    def _due(self, suite: OpenSuite, step: int) -> bool:
        return step % (suite.settings.every_steps or self.every_steps) == 0 or step == self.total_steps

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int) -> Iterator[Record]:
        """Where layers are sharded, every rank answers everything, since they are gathered by all ranks together."""
        from windlass.evaluation.harness import DecoderLM, Share
        from windlass.evaluation.suites import run_benchmarks

        start = time.perf_counter()
        ranks = self.ranks
        together = self.strategy in {"FSDP", "HSDP"}
        share = Share() if together else Share(ranks.rank, ranks.world_size, ranks.gather)
        lm = DecoderLM(unwrapped(model), self.tokenizer, self.batch_size, share, self.alive)
        model.eval()
        with autocast(self.strategy, self.precision, ranks.device):
            scores = [
                plain(score)
                for suite in self.suites
                if self._due(suite, step)
                for score in run_benchmarks(lm, suite.benchmarks, suite.settings.limit)
            ]
        model.train()
        yield {"kind": "suites", "step": step, "scores": scores, "seconds": time.perf_counter() - start}
