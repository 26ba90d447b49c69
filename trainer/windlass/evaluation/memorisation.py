"""Does a model know its training text by heart? It continues passages of it, the same passages with some words changed,
and passages that it has not been trained on (Carlini et al. 2022, arXiv:2202.07646, section 3).

A model that predicts well continues all three about equally well; one that has memorised continues the first better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windlass.data.corpus import Corpus, Split
from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.intervals import Interval, normal, stderr_of_mean
from windlass.models.foreign import AnyModel
from windlass.models.generation import continue_together
from windlass.storage import shown

TOKENS = 50
"""Tokens before a continuation, and of it; half a context each where that is less."""
CHANGED = 0.1
"""Share of the tokens before a continuation that are replaced by others of the corpus."""


@dataclass(frozen=True)
class Recall:
    """How much of passages a model reproduces, token by token, by greedy decoding."""

    text: str
    """training text, training text with changes, or held-out text."""
    passages: int
    tokens: int
    """Of each continuation."""
    share: float
    """Mean share of a continuation that is reproduced before the first other token."""
    stderr: float | None
    whole: int
    """Passages whose continuation is reproduced to its end."""

    @property
    def interval(self) -> Interval | None:
        """95 %, of the share, by the normal approximation."""
        return normal(self.share, self.stderr, 0.0, 1.0)


def probe(
    model: AnyModel, tokenizer: Tokenizer, corpus: Corpus, *, passages: int, batch_size: int, seed: int = 0
) -> list[Recall]:
    """Continue `passages` of a prepared corpus's training split, as they are and changed, and of its held-out split.

    Raises WindlassError: ConfigInvalid for a corpus of another tokenizer, or one that is too short.
    """
    corpus.require_tokenizer(tokenizer)
    count = min(TOKENS, model.config.context_length // 2)
    generator = np.random.default_rng(seed)
    trained = _passages(corpus, "train", passages, 2 * count, generator)
    changed = trained.copy()
    places = generator.random((passages, count)) < CHANGED
    changed[:, :count][places] = generator.permutation(trained.reshape(-1))[: int(places.sum())]
    held_out = _passages(corpus, "validation", passages, 2 * count, generator)
    texts = {"training text": trained, "training text with changes": changed, "held-out text": held_out}
    return [_recall(model, tokenizer, name, text, count, batch_size) for name, text in texts.items()]


def _passages(
    corpus: Corpus, name: str, passages: int, length: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Tokens of passages that begin anywhere in a split: [passages, length]."""
    split: Split = corpus.split("train" if name == "train" else "validation")
    if split.tokens < 2 * length:
        raise WindlassError(
            "ConfigInvalid",
            f"corpus {shown(corpus.uri)} has {split.tokens:,} tokens in its {name} split; a probe of what is memorised "
            f"needs {2 * length:,}",
        )
    starts = generator.integers(0, split.tokens - length, passages)
    return split.windows(starts, length)


def _recall(
    model: AnyModel, tokenizer: Tokenizer, name: str, texts: NDArray[np.int64], count: int, batch_size: int
) -> Recall:
    matched: list[int] = []
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size].tolist()
        matched += _matched(model, tokenizer, batch, count)
    shares = np.array(matched) / count
    return Recall(name, len(shares), count, float(shares.mean()), stderr_of_mean(shares), matched.count(count))


def _matched(model: AnyModel, tokenizer: Tokenizer, batch: Sequence[list[int]], count: int) -> list[int]:
    """Tokens of each continuation before the first that the model would not write."""

    def differs(row: int, tokens: list[int]) -> bool:
        return tokens[-1] != batch[row][count + len(tokens) - 1]

    found = continue_together(
        model, [text[:count] for text in batch], count, finished=differs, vocab_size=tokenizer.vocab_size
    )
    return [len(tokens) - differs(row, tokens) for row, tokens in enumerate(found)]
