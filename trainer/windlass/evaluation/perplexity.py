"""Perplexity and bits per byte of texts."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windlass.data.sources.documents import documents
from windlass.data.sources.listing import list_files
from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.evaluation.likelihood import Pair, pieces, score
from windlass.intervals import Difference, Interval, normal, stderr_of_ratio
from windlass.models.foreign import AnyModel
from windlass.spec.job import RawData
from windlass.storage import shown

BATCHES = 16
"""Batches of windows that are sorted by length together."""


@dataclass(frozen=True, eq=False)
class TextScore:
    """How well a model predicts a text.

    Each document is read by itself, after the token that ends the one before, in windows of the model's context: every
    token is predicted once, that ending token not. Tokenizers differ in what a token is, so perplexities of models with
    different ones cannot be compared; bits per byte can.
    """

    text: str
    """Where it is."""
    bytes: int
    """Of its UTF-8."""
    losses: NDArray[np.float64]
    """Summed cross entropy of each window, nats: [windows]."""
    counts: NDArray[np.int64]
    """Tokens of each window: [windows]."""

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    @property
    def windows(self) -> int:
        return len(self.counts)

    @property
    def loss(self) -> float:
        """Mean cross entropy, nats per token."""
        return float(self.losses.sum()) / self.tokens

    @property
    def stderr(self) -> float | None:
        """Of the loss, from the windows' differences; None where there is one window."""
        return stderr_of_ratio(self._residuals, self.tokens)

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return self.loss * self._bits

    @property
    def perplexity_interval(self) -> Interval | None:
        """95 %."""
        around = normal(self.loss, self.stderr)
        return around and (math.exp(around[0]), math.exp(around[1]))

    @property
    def bits_per_byte_interval(self) -> Interval | None:
        """95 %."""
        around = normal(self.loss, self.stderr)
        return around and (around[0] * self._bits, around[1] * self._bits)

    def above(self, other: "TextScore", metric: str) -> Difference:
        """How much perplexity or bits_per_byte is above another model's; an interval needs the same windows.

        The interval is that of the windows' differences, each weighted by what the metric gains with the loss (the
        delta method; Cochran 1977, sections 6.4 and 6.19).
        """
        value = getattr(self, metric) - getattr(other, metric)
        if not np.array_equal(self.counts, other.counts):
            return Difference(value, None)
        residuals = self._slope(metric) * self._residuals - other._slope(metric) * other._residuals
        return Difference(value, normal(value, stderr_of_ratio(residuals, self.tokens)))

    @property
    def _residuals(self) -> NDArray[np.float64]:
        return self.losses - self.loss * self.counts

    @property
    def _bits(self) -> float:
        """Bits per byte of a nat per token."""
        return self.tokens / self.bytes / math.log(2)

    def _slope(self, metric: str) -> float:
        return self.perplexity if metric == "perplexity" else self._bits


def score_text(
    model: AnyModel, tokenizer: Tokenizer, source: RawData, *, batch_size: int, limit: int | None = None
) -> TextScore:
    """Measure a model on the documents of a source, or on their first `limit` windows; errors as of `measure_text`."""

    def losses(windows: Sequence[Pair]) -> list[float]:
        return [-likelihood for likelihood, _ in score(model, windows, batch_size)]

    length = model.config.context_length
    return measure_text(losses, tokenizer, source, length=length, limit=limit, at_once=BATCHES * batch_size)


def measure_text(
    losses_of: Callable[[Sequence[Pair]], list[float]],
    tokenizer: Tokenizer,
    source: RawData,
    *,
    length: int,
    limit: int | None = None,
    at_once: int = 1024,
) -> TextScore:
    """Measure what gives the summed cross entropy of each of `at_once` windows of up to `length` tokens, in nats.

    Raises WindlassError: DataNotFound where there is no text, and as `list_files` and `documents`.
    """
    losses: list[float] = []
    counts: list[int] = []
    seen = 0
    held: list[Pair] = []

    def flush() -> None:
        losses.extend(losses_of(held))
        counts.extend(len(continuation) for _, continuation in held)
        held.clear()

    for window, size in _windows(tokenizer, source, length):
        held.append(window)
        seen += size
        if len(held) == at_once:
            flush()
        if limit is not None and len(counts) + len(held) == limit:
            break
    flush()
    if not counts:
        raise WindlassError("DataNotFound", f"{shown(source.uri)} has no text; name another file, or its field")
    return TextScore(shown(source.uri), seen, np.array(losses), np.array(counts))


def _windows(tokenizer: Tokenizer, source: RawData, length: int) -> Iterator[tuple[Pair, int]]:
    """Each window, and the bytes of the text that it predicts."""
    for file in list_files(source):
        for document in documents(source, file):
            if not document.text:
                continue
            tokens = tokenizer.encode(document.text).tolist()
            left = len(document.text.encode())
            windows = list(pieces([tokenizer.end_of_document], tokens, length))
            for number, window in enumerate(windows, start=1):
                # A character may be cut between windows; the last one makes the sum right.
                size = left if number == len(windows) else min(left, len(tokenizer.decode(window[1]).encode()))
                left -= size
                yield window, size
