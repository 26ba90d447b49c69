"""The order of samples: each exactly once an epoch, the same from anywhere, well shuffled, and the same for ever."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from windlass.data.order import WINDOW, Mixture, SampleOrder

token_orders = st.builds(
    SampleOrder,
    corpus_id=st.text(max_size=4),
    seed=st.integers(0, 2**63 - 1),
    sequence_length=st.integers(1, 50),
    tokens=st.integers(60, 3000),
    block_tokens=st.integers(20, 500),
    stride=st.none() | st.integers(1, 80),
)
document_orders = st.builds(
    lambda sizes, seed: SampleOrder("a", seed, 50, sum(sizes), 300, None, np.cumsum([0, *sizes[:-1]])),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=120),
    seed=st.integers(0, 2**63 - 1),
)
orders = token_orders | document_orders


@given(orders, st.integers(0, 5))
def test_every_epoch_has_every_sample_once(order: SampleOrder, epoch: int) -> None:
    positions = np.arange(order.samples) + epoch * order.samples
    assert sorted(order.at(positions)) == list(range(order.samples))


@given(orders, st.data())
def test_any_part_is_what_the_whole_says(order: SampleOrder, data: st.DataObject) -> None:
    whole = order.at(np.arange(3 * order.samples))
    positions = np.array(data.draw(st.lists(st.integers(0, 3 * order.samples - 1), max_size=40)), np.int64)
    assert order.at(positions).tolist() == whole[positions].tolist()


@given(token_orders)
def test_every_window_that_fits_is_a_sample(order: SampleOrder) -> None:
    stride = order.stride or order.sequence_length
    starts = order.start(np.arange(order.samples))
    assert starts.tolist() == list(range(0, order.tokens - order.sequence_length, stride))


@given(st.lists(token_orders, min_size=1, max_size=4), st.data())
def test_a_mixture_over_any_ranks_has_exact_shares_and_no_sample_of_a_corpus_twice_before_all_were_there(
    corpora: list[SampleOrder], data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=len(corpora), max_size=len(corpora)))
    mixture = Mixture.of(weights)
    ranks, each = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 5))
    steps = sum(order.samples for order in corpora) // (ranks * each) + 1
    drawn: list[list[int]] = [[] for _ in corpora]
    for part in range(steps * ranks):  # rank by rank, step by step
        chosen, places = mixture.at(np.arange(part * each, (part + 1) * each))
        for number, place in zip(chosen.tolist(), places.tolist(), strict=True):
            drawn[number] += corpora[number].at(np.array([place])).tolist()
    for order, samples, weight in zip(corpora, drawn, weights, strict=True):
        assert abs(len(samples) - steps * ranks * each * weight / sum(weights)) <= len(mixture.cycle)
        for epoch in range(len(samples) // order.samples):
            assert sorted(samples[epoch * order.samples :][: order.samples]) == list(range(order.samples))


@given(orders, st.integers(0, 2000), st.integers(1, 6), st.integers(1, 6))
def test_ranks_of_any_world_size_share_the_same_steps(order: SampleOrder, first: int, ranks: int, each: int) -> None:
    step = order.at(np.arange(first, first + ranks * each))
    parts = [order.at(np.arange(first + rank * each, first + (rank + 1) * each)) for rank in range(ranks)]
    assert np.concatenate(parts).tolist() == step.tolist()


@given(orders)
def test_samples_of_a_window_come_from_its_blocks_only(order: SampleOrder) -> None:
    windows: list[tuple[int, ...]] = []
    for position, sample in enumerate(order.at(np.arange(order.samples))):
        window = tuple(order.window(position).tolist())
        assert order.start(np.array([sample]))[0] // order.block_tokens in window
        assert len(window) <= WINDOW
        if not windows or windows[-1] != window:
            windows.append(window)
    assert len(set(windows)) == len(windows)  # none is come back to: a block is read once an epoch


@given(orders)
def test_the_window_after_the_last_is_the_next_epochs_first(order: SampleOrder) -> None:
    last, first = order.samples - 1, order.samples
    assert order.window(last, ahead=1).tolist() == order.window(first).tolist()


def test_epochs_seeds_and_corpora_differ_and_blocks_and_samples_are_shuffled() -> None:
    def order(corpus_id: str = "a", seed: int = 1) -> SampleOrder:
        return SampleOrder(corpus_id, seed, sequence_length=8, tokens=64_001, block_tokens=800)

    samples = order().samples
    epoch = order().at(np.arange(samples))
    others = [
        order().at(np.arange(samples) + samples),
        order(seed=2).at(np.arange(samples)),
        order("b").at(np.arange(samples)),
    ]
    for other in others:
        assert np.mean(other == epoch) < 0.02
    blocks = epoch * 8 // 800
    assert np.mean(np.diff(blocks) == 0) < 0.4  # neighbours are of different blocks, 4 in a window
    assert np.abs(np.corrcoef(np.arange(samples), epoch)[0, 1]) < 0.3
    window = epoch[: 4 * 100]
    ranks = np.argsort(np.argsort(window))
    assert np.abs(np.corrcoef(np.arange(400), ranks)[0, 1]) < 0.2


def test_a_permutation_is_uniform() -> None:
    firsts = [SampleOrder("a", seed, 1, 5, 100).at(np.arange(4))[0] for seed in range(4000)]
    counts = np.bincount(firsts, minlength=4)
    assert (np.abs(counts - 1000) < 130).all()  # 4.7 standard deviations


def test_the_order_never_changes_between_versions() -> None:
    order = SampleOrder("0123456789abcdef", 1337, sequence_length=16, tokens=2000, block_tokens=256)
    assert order.at(np.arange(10)).tolist() == [83, 55, 116, 51, 43, 119, 120, 118, 88, 42]
    assert order.at(np.arange(10) + order.samples).tolist() == [120, 44, 39, 91, 118, 87, 26, 38, 95, 28]


@given(st.lists(st.sampled_from([0.1, 0.25, 0.3, 1.0, 2.0, 3.5, 7.0]), min_size=1, max_size=5), st.integers(1, 5))
def test_a_mixture_has_exact_shares_in_each_cycle(weights: list[float], cycles: int) -> None:
    mixture = Mixture.of(weights)
    length = len(mixture.cycle)
    corpora, places = mixture.at(np.arange(cycles * length))
    total = sum(Fraction(str(weight)) for weight in weights)
    for corpus, weight in enumerate(weights):
        mine = places[corpora == corpus]
        assert Fraction(len(mine), cycles * length) == Fraction(str(weight)) / total
        assert mine.tolist() == list(range(len(mine)))  # none left out, none twice, in their order


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5), st.integers(0, 10**12))
def test_shares_are_even_all_along_whatever_the_weights(weights: list[float], first: int) -> None:
    corpora, places = Mixture.of(weights).at(np.arange(first, first + 1000))
    for corpus, weight in enumerate(weights):
        expected = 1000 * weight / sum(weights)
        assert abs(np.sum(corpora == corpus) - expected) <= 0.05 * expected + 2
        assert (np.diff(places[corpora == corpus]) == 1).all()


def test_the_mixture_never_changes_between_versions() -> None:
    assert Mixture.of([3, 1]).cycle.tolist() == [0, 0, 1, 0]
    assert Mixture.of([0.7, 0.2, 0.1]).cycle.tolist() == [0, 0, 1, 0, 0, 2, 0, 1, 0, 0]
