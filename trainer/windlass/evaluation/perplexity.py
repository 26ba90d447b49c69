"""Perplexity and bits per byte of texts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from windlass.data.sources.documents import documents
from windlass.data.sources.listing import list_files
from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.evaluation.likelihood import Pair, pieces, score
from windlass.evaluation.scores import Z95, Interval
from windlass.models.decoder import Decoder
from windlass.spec.job import RawData
from windlass.storage import shown

BATCHES = 16
"""Batches of windows that are sorted by length together."""


@dataclass(frozen=True)
class TextScore:
    """How well a model predicts a text.

    Each document is read by itself, after the token that ends the one before, in windows of the model's context: every
    token is predicted once, that ending token not. Tokenizers differ in what a token is, so perplexities of models with
    different ones cannot be compared; bits per byte can.
    """

    text: str
    """Where it is."""
    tokens: int
    bytes: int
    """Of its UTF-8."""
    windows: int
    loss: float
    """Mean cross entropy, nats per token."""
    stderr: float | None
    """Of the loss, from the windows' differences; None where there is one window."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return self._in_bits(self.loss)

    @property
    def perplexity_interval(self) -> Interval | None:
        """95 %."""
        return self._interval and (math.exp(self._interval[0]), math.exp(self._interval[1]))

    @property
    def bits_interval(self) -> Interval | None:
        """95 %."""
        return self._interval and (self._in_bits(self._interval[0]), self._in_bits(self._interval[1]))

    @property
    def _interval(self) -> Interval | None:
        return None if self.stderr is None else (self.loss - Z95 * self.stderr, self.loss + Z95 * self.stderr)

    def _in_bits(self, nats_per_token: float) -> float:
        return nats_per_token / math.log(2) * self.tokens / self.bytes


def score_text(
    model: Decoder, tokenizer: Tokenizer, source: RawData, *, batch_size: int, limit: int | None = None
) -> TextScore:
    """Measure a model on the documents of a source, or on their first `limit` windows.

    Raises WindlassError: DataNotFound where there is no text, and as `list_files` and `documents`.
    """
    losses: list[float] = []
    counts: list[int] = []
    seen = 0
    held: list[Pair] = []

    def flush() -> None:
        losses.extend(-likelihood for likelihood, _ in score(model, held, batch_size))
        counts.extend(len(continuation) for _, continuation in held)
        held.clear()

    for window, size in _windows(tokenizer, source, model.config.context_length):
        held.append(window)
        seen += size
        if len(held) == BATCHES * batch_size:
            flush()
        if limit is not None and len(counts) + len(held) == limit:
            break
    flush()
    if not counts:
        raise WindlassError("DataNotFound", f"{shown(source.uri)} has no text; name another file, or its field")
    loss = sum(losses) / sum(counts)
    return TextScore(shown(source.uri), sum(counts), seen, len(counts), loss, _stderr(losses, counts, loss))


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


def _stderr(losses: Sequence[float], counts: Sequence[int], loss: float) -> float | None:
    """Standard error of a ratio of sums (Cochran 1977, Sampling Techniques, section 6.4)."""
    windows = len(losses)
    if windows < 2:
        return None
    squares = sum((total - loss * count) ** 2 for total, count in zip(losses, counts, strict=True))
    return math.sqrt(squares * windows / (windows - 1)) / sum(counts)
