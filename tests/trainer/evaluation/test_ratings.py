"""Ratings: against other solvers of the same likelihood, published numbers and what must hold of any votes."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize  # type: ignore[import-untyped]

from windlass.evaluation.ratings import SCALE, bradley_terry, elo, rate
from windlass.evaluation.votes import Vote

BASEBALL = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ],
    float,
)
"""American League East, 1987: wins of Milwaukee, Detroit, Toronto, New York, Boston, Cleveland, Baltimore over each
other (Agresti, Categorical Data Analysis, 2002, table 10.10)."""
PUBLISHED = [1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0]
"""The maximum likelihood there, section 10.6.1, in nats, Baltimore being 0."""


def test_the_published_example_of_baseball_comes_out() -> None:
    points = bradley_terry(BASEBALL)
    strengths = (points - points[-1]) * math.log(10) / SCALE
    assert strengths == pytest.approx(PUBLISHED, abs=6e-4)
    assert points.mean() == pytest.approx(1000)


def test_a_general_optimizer_finds_the_same_maximum() -> None:
    generator = np.random.default_rng(3)
    wins = generator.integers(1, 9, (5, 5)) * (1 - np.eye(5))

    def loss(strength: np.ndarray) -> float:
        return float((wins * np.log1p(np.exp(strength[None, :] - strength[:, None]))).sum())

    best = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-8}).x
    expected = 1000 + SCALE / math.log(10) * (best - best.mean())
    assert bradley_terry(wins) == pytest.approx(expected, abs=1e-3)


def test_two_models_differ_by_the_logarithm_of_their_odds_and_tables_are_solved_together() -> None:
    tables = np.array([[[0.0, 30.0], [10.0, 0.0]], [[0.0, 1.0], [1000.0, 0.0]]])
    points = bradley_terry(tables)
    assert points[:, 0] - points[:, 1] == pytest.approx([400 * math.log10(3), -1200])


def test_elo_follows_its_definition() -> None:
    battles, results = np.array([[[0, 1], [1, 2]]]), np.array([[1.0, 0.5]])
    second = 998 + 4 * (0.5 - 1 / (1 + 10 ** (2 / 400)))
    assert elo(battles, results, 3)[0] == pytest.approx([1002, second, 1998 - second])


def test_the_better_model_is_rated_higher_and_few_votes_leave_it_open() -> None:
    few = rate(duel(3, 2), rounds=200)
    many = rate(duel(60, 20), rounds=200)
    assert [rating.model for rating in many] == ["good", "poor"]
    for ratings, is_sure in ((few, False), (many, True)):
        good = next(rating for rating in ratings if rating.model == "good")
        low, high = good.bradley_terry_interval
        assert low < good.bradley_terry < high
        assert (low > 1000) is is_sure
    assert (many[0].wins, many[0].losses, many[0].ties, many[0].votes) == (60, 20, 0, 80)


def test_a_model_that_always_won_has_a_finite_rating_and_an_honest_interval() -> None:
    good, poor = rate(duel(5, 0), rounds=500)
    assert good.bradley_terry - poor.bradley_terry == pytest.approx(400 * math.log10(11))
    low, high = good.bradley_terry_interval
    assert high - low > 50, "five votes are not certainty"


def test_ties_and_both_bad_count_half_and_sides_do_not_matter() -> None:
    votes = [Vote("a", "b", winner) for winner in ("tie", "tie (bothbad)", "model_a", "model_b")]
    swapped = [Vote("b", "a", "model_a"), Vote("a", "b", "model_a")] * 5
    for ratings in (rate(votes, rounds=50), rate(swapped, rounds=50)):
        assert [rating.bradley_terry for rating in ratings] == pytest.approx([1000, 1000])
    assert [rating.ties for rating in rate(votes, rounds=50)] == [2, 2]


def test_models_that_no_votes_connect_have_no_common_ratings() -> None:
    apart = [Vote("a", "b", "tie"), Vote("c", "d", "tie")]
    assert rate(apart) == []
    assert len(rate([*apart, Vote("b", "c", "model_a")], rounds=50)) == 4
    assert rate([]) == []


def duel(won: int, lost: int) -> list[Vote]:
    return [Vote("good", "poor", "model_a")] * won + [Vote("poor", "good", "model_a")] * lost
