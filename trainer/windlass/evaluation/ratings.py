"""Ratings of models from votes on pairs of their answers: Bradley-Terry and Elo, on the scale of chess.

400 points between two models mean that the better one is preferred ten times as often; 1000 is the mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windlass.evaluation.votes import Vote
from windlass.intervals import Interval

Floats = NDArray[np.float64]

SCALE, MEAN = 400.0, 1000.0
K = 4.0
"""How far one vote moves Elo, at most; small, as in Chatbot Arena (Chiang et al. 2024, arXiv:2403.04132)."""
HALF = 0.5
"""Votes that each of two models that met is given beside the real ones, so that one that was always preferred has a
finite rating; for two models that is Firth's correction (1993) of the likelihood's bias."""
_STEPS = 200


@dataclass(frozen=True)
class Rating:
    """A model's place among others, with 95 % intervals."""

    model: str
    votes: int
    wins: int
    losses: int
    ties: int
    """Votes for neither, both bad among them."""
    bradley_terry: float
    bradley_terry_interval: Interval
    elo: float
    elo_interval: Interval


def rate(votes: Sequence[Vote], *, rounds: int = 1000, seed: int = 0) -> list[Rating]:
    """Ratings of all models that votes name, the best first; none where models have no votes that connect them.

    Intervals are of a bootstrap in `rounds` samples (Efron 1979) from the votes and the added halves.
    """
    models = sorted({model for vote in votes for model in (vote.model_a, vote.model_b)})
    wins = wins_of(votes, models)
    if not votes or not _connected(wins):
        return []
    met = (wins + wins.T > 0).astype(float)
    points = bradley_terry(wins + HALF * met)
    place = {model: number for number, model in enumerate(models)}
    battles = np.array([[place[vote.model_a], place[vote.model_b]] for vote in votes])
    results = np.array([vote.points for vote in votes])
    cells, weights = _cells(battles, results, met)
    generator = np.random.default_rng(seed)
    resampled = generator.multinomial(len(votes), weights / weights.sum(), size=rounds)
    sampled_points = bradley_terry(_wins(cells, resampled, len(models)) + HALF * met)
    elo_points = elo(battles[None], results[None], len(models))[0]
    draws = _sequences(generator, len(votes), weights / weights.sum(), rounds)
    sampled_elo = elo(cells[draws, :2].astype(int), cells[draws, 2], len(models))
    found = []
    for number, model in enumerate(models):
        mine = [vote for vote in votes if model in (vote.model_a, vote.model_b)]
        outcomes = [vote.points if vote.model_a == model else 1 - vote.points for vote in mine]
        found.append(
            Rating(
                model,
                len(mine),
                outcomes.count(1.0),
                outcomes.count(0.0),
                outcomes.count(0.5),
                float(points[number]),
                _interval(sampled_points[:, number]),
                float(elo_points[number]),
                _interval(sampled_elo[:, number]),
            )
        )
    return sorted(found, key=lambda rating: -rating.bradley_terry)


def wins_of(votes: Sequence[Vote], models: Sequence[str]) -> Floats:
    """How often each model was preferred to each other one, ties as half a time to both: [models, models]."""
    place = {model: number for number, model in enumerate(models)}
    wins = np.zeros((len(models), len(models)))
    for vote in votes:
        a, b = place[vote.model_a], place[vote.model_b]
        wins[a, b] += vote.points
        wins[b, a] += 1 - vote.points
    return wins


def bradley_terry(wins: Floats) -> Floats:
    """Ratings of the greatest likelihood (Bradley and Terry 1952), of one or many tables at once.

    `wins` [..., models, models] has how often the row's model beat the column's; the result is [..., models], with the
    mean at 1000. Newton's method on the log-likelihood, which is concave, with steps of bounded size. There is none
    where a model never lost, or never met others: add some wins to each.
    """
    games = wins + wins.swapaxes(-1, -2)
    count = wins.shape[-1]
    strength = np.zeros(wins.shape[:-1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(strength[..., None, :] - strength[..., :, None]))
        gradient = (wins - games * chance).sum(-1)
        weights = games * chance * (1 - chance)
        # The likelihood knows differences only; adding 1 everywhere takes out the direction that it does not see.
        hessian = np.eye(count) * weights.sum(-1)[..., None] - weights + 1.0
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        largest = np.abs(step).max(-1, keepdims=True)
        strength = strength + step / np.maximum(1.0, largest)
        if largest.max() < 1e-10:
            break
    strength = strength - strength.mean(-1, keepdims=True)
    return np.asarray(MEAN + SCALE / math.log(10) * strength)


def elo(battles: NDArray[np.int64], results: Floats, models: int) -> Floats:
    """Ratings after all votes in their order (Elo 1978): battles [rounds, votes, 2], results [rounds, votes].

    A result is 1 where the first model was preferred, 0 where the second was, 0.5 for neither. Returns
    [rounds, models].
    """
    ratings = np.full((len(battles), models), MEAN)
    rows = np.arange(len(battles))
    for turn in range(battles.shape[1]):
        a, b = battles[:, turn, 0], battles[:, turn, 1]
        expected = 1 / (1 + 10 ** ((ratings[rows, b] - ratings[rows, a]) / SCALE))
        change = K * (results[:, turn] - expected)
        ratings[rows, a] += change
        ratings[rows, b] -= change
    return ratings


def _connected(wins: Floats) -> bool:
    """Whether votes lead from each model to each other one."""
    met = (wins + wins.T > 0) | np.eye(len(wins), dtype=bool)
    reached = np.linalg.matrix_power(met.astype(float), len(met)) > 0
    return bool(reached.all())


def _cells(battles: NDArray[np.int64], results: Floats, met: Floats) -> tuple[Floats, Floats]:
    """Kinds of votes, [kinds, (a, b, result)], and how many there are of each, with the added halves."""
    counts: dict[tuple[int, int, float], float] = {}
    for (a, b), result in zip(battles.tolist(), results.tolist(), strict=True):
        key = (a, b, result) if a < b else (b, a, 1 - result)
        counts[key] = counts.get(key, 0.0) + 1
    for a, b in np.argwhere(np.triu(met, 1)).tolist():
        for result in (0.0, 1.0):
            counts[a, b, result] = counts.get((a, b, result), 0.0) + HALF
    return np.array(list(counts)), np.array(list(counts.values()))


def _wins(cells: Floats, counts: NDArray[np.int64], models: int) -> Floats:
    """Tables of wins, [rounds, models, models], of so many votes of each kind, [rounds, kinds]."""
    wins = np.zeros((len(counts), models, models))
    for (a, b, result), count in zip(cells.tolist(), counts.T, strict=True):
        wins[:, int(a), int(b)] += result * count
        wins[:, int(b), int(a)] += (1 - result) * count
    return wins


def _sequences(generator: np.random.Generator, votes: int, weights: Floats, rounds: int) -> NDArray[np.int64]:
    """Votes drawn with replacement, as numbers of kinds: [rounds, votes], and fewer rounds for very many votes."""
    rounds = max(100, min(rounds, 5_000_000 // max(1, votes)))
    return generator.choice(len(weights), size=(rounds, votes), p=weights)


def _interval(samples: Floats) -> Interval:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)
