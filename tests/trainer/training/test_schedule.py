"""The learning rate of every step."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.spec.job import Schedule
from windlass.training.schedule import learning_rate


def rates(total: int, **schedule: object) -> list[float]:
    spec = Schedule.model_validate(schedule)
    return [learning_rate(spec, 1.0, step, total) for step in range(1, total + 1)]


@pytest.mark.parametrize("name", ["Cosine", "Linear", "Constant", "WSD"])
def test_warmup_is_linear_and_reaches_the_peak(name: str) -> None:
    assert rates(100, name=name, warmupSteps=4)[:4] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("name", ["Cosine", "Linear", "WSD"])
def test_the_last_step_has_the_final_ratio(name: str) -> None:
    assert rates(100, name=name, warmupSteps=10, finalRatio=0.1)[-1] == pytest.approx(0.1)


def test_cosine_is_half_way_in_the_middle() -> None:
    assert rates(110, name="Cosine", warmupSteps=10, finalRatio=0.0)[59] == pytest.approx(0.5)


def test_constant_stays() -> None:
    assert set(rates(50, name="Constant")) == {1.0}


def test_wsd_is_stable_until_its_last_part() -> None:
    found = rates(100, name="WSD", warmupSteps=10, finalRatio=0.0, decayFraction=0.2)
    assert set(found[9:80]) == {1.0}
    assert found[89] == pytest.approx(0.5)


@given(
    name=st.sampled_from(["Cosine", "Linear", "Constant", "WSD"]),
    warmup=st.integers(0, 50),
    total=st.integers(1, 200),
    final=st.floats(0, 1),
)
def test_no_step_is_above_the_peak_or_below_zero_and_none_rises_after_warmup(
    name: str, warmup: int, total: int, final: float
) -> None:
    found = rates(total, name=name, warmupSteps=warmup, finalRatio=final)
    assert all(0 <= rate <= 1 + 1e-12 for rate in found)
    after = found[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))
