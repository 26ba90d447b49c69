"""A killed run continues as if it had not been killed, and the number of ranks changes nothing but rounding."""

from collections.abc import Callable
from typing import Any

import pytest

Curve = dict[tuple[str, int], Any]


def finish(group: Any) -> Curve:
    group.start()
    group.wait()
    curve: Curve = group.curve()
    return curve


@pytest.mark.parametrize(
    ("world_size", "strategy", "kills"),
    [
        (1, "Auto", [(0, 3), (0, 17), (0, 44)]),
        (2, "DDP", [(1, 8), (0, 31)]),
        (2, "FSDP", [(0, 12), (1, 43)]),
        (4, "DDP", [(3, 26)]),
        (4, "FSDP", [(2, 33)]),
    ],
)
def test_losses_after_sigkill_are_those_of_an_undisturbed_run(
    ranks: Callable[..., Any], world_size: int, strategy: str, kills: list[tuple[int, int]]
) -> None:
    override = f"training.parallelism.strategy={strategy}"
    undisturbed = finish(ranks("undisturbed", world_size, override))
    killed = ranks("killed", world_size, override)
    for rank, step in kills:
        killed.start()
        killed.kill(rank, at_step=step)
    assert finish(killed) == undisturbed
    assert len([key for key in undisturbed if key[0] == "train"]) == 60


@pytest.mark.parametrize("world_size", [1, 2])
def test_losses_after_a_clean_stop_are_those_of_an_undisturbed_run(ranks: Callable[..., Any], world_size: int) -> None:
    undisturbed = finish(ranks("undisturbed", world_size))
    stopped = ranks("stopped", world_size)
    stopped.start()
    stopped.stop(at_step=11)
    at = stopped.step()
    assert 11 <= at < 60
    assert finish(stopped) == undisturbed


def losses(curve: Curve, steps: int) -> list[float]:
    return [curve["train", step][0] for step in range(1, steps + 1)]


def test_two_ranks_and_sharded_ranks_train_like_one(ranks: Callable[..., Any]) -> None:
    # Without dropout, whose random numbers are each rank's own.
    base = ("model.config.dropout=0.0", "training.maxSteps=20")
    one = finish(ranks("one", 1, *base))
    ddp = finish(ranks("ddp", 2, *base, "training.parallelism.strategy=DDP"))
    fsdp = finish(ranks("fsdp", 2, *base, "training.parallelism.strategy=FSDP"))
    assert losses(ddp, 20) == pytest.approx(losses(one, 20), abs=1e-5)
    assert losses(fsdp, 20) == pytest.approx(losses(ddp, 20), abs=1e-5)
    assert one["validation", 20][0] == pytest.approx(ddp["validation", 20][0], abs=1e-5)


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_a_checkpoint_of_two_ranks_continues_on_another_number_of_ranks(
    ranks: Callable[..., Any], world_size: int, strategy: str
) -> None:
    # Losses near those of two ranks show that the order of samples is the same: another order is off by over 0.01.
    base = ("model.config.dropout=0.0", f"training.parallelism.strategy={strategy}")
    two = ranks("two", 2, *base)
    undisturbed = finish(ranks("undisturbed", 2, *base))
    two.start()
    two.stop(at_step=20)
    other = ranks("two", world_size, *base)
    resized = finish(other)
    assert losses(resized, 40) == pytest.approx(losses(undisturbed, 40), abs=1e-5)


@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_a_rank_without_a_validation_window_waits_for_the_others(ranks: Callable[..., Any], strategy: str) -> None:
    base = ("model.config.dropout=0.0", "training.maxSteps=10", "evaluation.maxTokens=32")
    one = finish(ranks("one", 1, *base))
    two = finish(ranks("two", 2, *base, f"training.parallelism.strategy={strategy}"))
    assert two["validation", 10][0] == pytest.approx(one["validation", 10][0], abs=1e-5)
