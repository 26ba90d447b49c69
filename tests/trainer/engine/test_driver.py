"""Budgets of restarts."""

from windlass.engine.driver import backoff
from windlass.spec.job import Restarts


def test_the_first_restart_is_at_once_and_fruitless_ones_wait_twice_as_long_each_time() -> None:
    budget = Restarts(backoff_seconds=10.0, max_backoff_seconds=60.0)
    assert [backoff(budget, fruitless) for fruitless in range(6)] == [0.0, 10.0, 20.0, 40.0, 60.0, 60.0]
