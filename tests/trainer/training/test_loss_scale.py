"""FP16's dynamic loss scale."""

from windlass.training.loss_scale import GROWTH_INTERVAL, LossScale


def test_other_precisions_are_not_scaled() -> None:
    for precision in ("FP32", "BF16"):
        scale = LossScale.for_precision(precision)
        scale.update(finite=False)
        assert scale.factor == 1.0


def test_it_halves_at_an_overflow_and_doubles_after_many_good_steps() -> None:
    scale = LossScale.for_precision("FP16")
    start = scale.factor
    scale.update(finite=False)
    assert scale.factor == start / 2
    for _ in range(GROWTH_INTERVAL):
        scale.update(finite=True)
    assert scale.factor == start
