"""The bigram baseline is a probability, learns what adjacent tokens tell, and is measured like the model."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from windlass.data.stream import Batch
from windlass.evaluation.bigram import Bigram


@dataclass
class Tokens:
    """A split in memory."""

    values: NDArray[np.uint16]

    @property
    def tokens(self) -> int:
        return len(self.values)

    def read(self, start: int, stop: int) -> NDArray[np.uint16]:
        assert 0 <= start < stop <= self.tokens
        return self.values[start:stop]


def fit(values: object, vocab_size: int, max_tokens: int = 2**24) -> Bigram:
    return fit_mixture([(values, 1.0)], vocab_size, max_tokens)


def fit_mixture(corpora: list[tuple[object, float]], vocab_size: int, max_tokens: int = 2**24) -> Bigram:
    splits = [(Tokens(np.asarray(values, dtype=np.uint16)), weight) for values, weight in corpora]
    return Bigram.fit(splits, vocab_size, max_tokens)  # type: ignore[arg-type]


def window(values: object) -> Batch:
    tokens = np.asarray(values, dtype=np.int64)[None]
    return Batch(inputs=tokens[:, :-1], labels=tokens[:, 1:], documents=None)


def reference_probability(values: list[int], vocab_size: int, first: int, second: int) -> float:
    """Interpolated Kneser-Ney in the plainest words."""
    count = Counter(pairwise(values))
    after, before = defaultdict(set), defaultdict(set)
    for a, b in count:
        after[a].add(b)
        before[b].add(a)
    once, twice = (sum(c == n for c in count.values()) for n in (1, 2))
    d = (once + 1) / (once + 2 * twice + 2)
    types = len(count)
    unigram = (max(len(before[second]) - d, 0) + d * sum(map(bool, before.values())) / vocab_size) / types
    total = sum(c for (a, _), c in count.items() if a == first)
    if total == 0:
        return unigram
    return max(count[first, second] - d, 0) / total + d * len(after[first]) / total * unigram


texts = st.lists(st.integers(0, 6), min_size=2, max_size=60)


@given(texts)
def test_probabilities_after_any_token_sum_to_one_and_none_is_zero(values: list[int]) -> None:
    model = fit(values, vocab_size=8)
    first, second = (side.ravel() for side in np.meshgrid(np.arange(8), np.arange(8), indexing="ij"))
    probability = model.probability(first, second).reshape(8, 8)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert (probability > 0).all()


@given(texts, st.integers(0, 7), st.integers(0, 7))
def test_probability_is_that_of_interpolated_kneser_ney(values: list[int], first: int, second: int) -> None:
    probability = fit(values, vocab_size=8).probability(np.array([first]), np.array([second]))
    assert probability[0] == pytest.approx(reference_probability(values, 8, first, second))


def test_loss_on_a_markov_chain_nears_its_entropy() -> None:
    random = np.random.default_rng(0)
    steps = random.choice([1, 3], size=200_000, p=[0.75, 0.25])
    chain = np.cumsum(steps) % 10
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert fit(chain[:150_000], vocab_size=10).loss([window(chain[150_000:])]) == pytest.approx(entropy, abs=0.01)


def test_large_vocabularies_are_kept_sparse() -> None:
    random = np.random.default_rng(0)
    model = fit(random.zipf(1.3, size=50_000) % 50_257, vocab_size=50_257)
    assert len(model.pairs) < 50_000
    assert np.isfinite(model.loss([window(random.integers(0, 50_257, size=1000))]))


def test_ignored_labels_do_not_count() -> None:
    model = fit([0, 1, 2, 0, 1, 2], vocab_size=3)
    batch = window([0, 1, 2, 0])
    ignoring = Batch(inputs=batch.inputs, labels=np.where(batch.labels == 2, -100, batch.labels), documents=None)
    counted = Batch(inputs=np.array([[0, 2]]), labels=np.array([[1, 0]]), documents=None)
    assert model.loss([ignoring]) == pytest.approx(model.loss([counted]))


def test_loss_is_averaged_over_tokens_of_all_batches() -> None:
    model = fit([0, 1, 2, 0, 1, 1, 2], vocab_size=3)
    long, short = window([0, 1, 2, 0, 1]), window([2, 2])
    assert model.loss([long, short]) == pytest.approx((4 * model.loss([long]) + model.loss([short])) / 5)


def test_no_labels_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no validation tokens"):
        fit([0, 1, 2], vocab_size=3).loss([])


def test_a_part_of_a_large_split_is_taken_from_all_over_it() -> None:
    halves = np.repeat([0, 1], 50_000)
    model = fit(halves, vocab_size=2, max_tokens=6_400)
    assert model.probability(np.array([0, 1]), np.array([0, 1])) == pytest.approx([1, 1], abs=0.01)


@given(texts)
def test_a_corpus_in_two_parts_of_equal_weight_is_one_corpus(values: list[int]) -> None:
    once, mixed = fit(values, 8), fit_mixture([(values, 0.5), (values, 0.5)], 8)
    twice = fit_mixture([(values, 3.0)], 8)
    first, second = (axis.ravel() for axis in np.meshgrid(np.arange(8), np.arange(8)))
    assert twice.probability(first, second) == pytest.approx(once.probability(first, second))
    assert mixed.probability(first, second).reshape(8, 8).sum(axis=0) == pytest.approx(np.ones(8))


def test_a_mixture_is_counted_by_weight_not_by_size() -> None:
    small, large = [0, 1] * 50, [0, 2] * 5000
    model = fit_mixture([(small, 3.0), (large, 1.0)], 3)
    after_zero = model.probability(np.array([0, 0]), np.array([1, 2]))
    assert after_zero[0] / after_zero[1] == pytest.approx(3, rel=0.05)
