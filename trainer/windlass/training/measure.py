"""What is measured beside training: the validation loss, and texts the model writes."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from windlass.data.stream import IGNORED, Batch
from windlass.data.tokenizers import Tokenizer
from windlass.models.generation import generate
from windlass.planning.choices import Strategy
from windlass.training.parallel import autocast, unwrapped
from windlass.training.ranks import Ranks
from windlass.training.recorder import Record

NO_TOKENS = Batch(np.zeros((1, 1), np.int64), np.full((1, 1), IGNORED, np.int64))
"""What a rank without a single window calls the model with."""


class Loss(Protocol):
    """Summed loss, in nats, of a batch: see `windlass.tasks.pretrain.output_loss`.

    One that measures more gives [1 + metrics]: the loss, and sums without gradients.
    """

    def __call__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        softcap: float,
        *,
        labels: torch.Tensor,
    ) -> torch.Tensor: ...


class Measurement(Protocol):
    """Something measured at some steps. All ranks call it together; it leaves random numbers and gradients alone."""

    def due(self, step: int) -> bool:
        """Whether to measure after step `step`; 0 is before training."""

    def __call__(self, model: nn.Module, step: int) -> Iterable[Record]:
        """Records for metrics.jsonl."""


@dataclass(frozen=True)
class Validation:
    """Mean cross entropy, in nats per token, over the same held-out windows every time."""

    batches: Callable[[], Iterator[Batch]]
    """This rank's share of the windows."""
    every_steps: int
    total_steps: int
    ranks: Ranks
    strategy: Strategy
    precision: str
    loss: Loss

    def due(self, step: int) -> bool:
        return step > 0 and (step % self.every_steps == 0 or step == self.total_steps)

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int) -> Iterator[Record]:
        start = time.perf_counter()
        model.eval()
        loss = tokens = 0.0
        for batch in in_step(self.batches(), self.ranks):
            inputs, documents, targets = to_device(batch, self.ranks.device)
            with autocast(self.strategy, self.precision, self.ranks.device):
                batch_loss = unwrapped(model)(inputs, documents=documents, head=partial(self.loss, **targets))
            loss += batch_loss.item()
            tokens += count_labels([batch])
        model.train()
        loss, tokens = self.ranks.sum(loss, tokens)
        seconds = time.perf_counter() - start
        yield {"kind": "validation", "step": step, "loss": loss / tokens, "tokens": int(tokens), "seconds": seconds}


@dataclass(frozen=True)
class Samples:
    """Continuations of the job's prompts: by the random model, half way, and at the end."""

    prompts: Sequence[str]
    tokens: int
    total_steps: int
    tokenizer: Tokenizer
    seed: int
    encode: Callable[[str], Sequence[int]]
    """Of a prompt: what the model continues."""

    def due(self, step: int) -> bool:
        return bool(self.prompts) and step in {0, self.total_steps // 2, self.total_steps}

    def __call__(self, model: nn.Module, step: int) -> Iterator[Record]:
        """Every rank generates the same text, since sharded layers are gathered by all ranks together."""
        model.eval()
        for prompt in self.prompts:
            tokens = generate(
                unwrapped(model),
                self.encode(prompt),
                self.tokens,
                temperature=0.8,
                top_k=40,
                seed=self.seed,
                end_token=self.tokenizer.end_of_document,
                vocab_size=self.tokenizer.vocab_size,
            )
            yield {"kind": "sample", "step": step, "prompt": prompt, "text": self.tokenizer.decode(list(tokens))}
        model.train()


def in_step(batches: Iterator[Batch], ranks: Ranks) -> Iterator[Batch]:
    """This rank's batches, and NO_TOKENS while other ranks have some: sharded layers are gathered by all together."""
    while True:
        batch = next(batches, None)
        [left] = ranks.sum(batch is not None)
        if not left:
            return
        yield batch or NO_TOKENS


def to_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, Any]]:
    """Inputs and document numbers, each [batch, sequence], and what a loss takes: labels, and references of pairs."""

    def move(array: torch.Tensor) -> torch.Tensor:
        if device.type == "cuda":
            # Inputs and labels are views of one array; a copy of a view would not be asynchronous.
            return array.contiguous().pin_memory().to(device, non_blocking=True)
        return array.to(device)

    documents = None if batch.documents is None else move(torch.from_numpy(batch.documents))
    targets = {"labels": move(torch.from_numpy(batch.labels))}
    if batch.reference is not None:
        targets["reference"] = move(torch.from_numpy(batch.reference))
    return move(torch.from_numpy(batch.inputs)), documents, targets


def count_labels(batches: Sequence[Batch]) -> int:
    """What the loss is a mean of: tokens that count in it, or pairs."""
    return sum(
        int((batch.labels >= 0).sum()) if batch.reference is None else len(batch.reference) // 2 for batch in batches
    )


def count_tokens(batches: Sequence[Batch]) -> int:
    """Tokens that the model reads, without those that pad."""
    return sum(count_labels([batch]) if batch.read is None else batch.read for batch in batches)
