import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.errors import WindlassError
from windlass.planning.batching import Batching, batching, total_steps
from windlass.spec.job import Training


@given(ranks=st.integers(1, 12), micro=st.integers(1, 12), accumulation=st.integers(1, 12), limit=st.integers(1, 200))
def test_auto_takes_the_largest_micro_batch_that_divides_and_fits(
    ranks: int, micro: int, accumulation: int, limit: int
) -> None:
    part = micro * accumulation
    shared = batching(ranks * part, "Auto", ranks, fits=lambda size: size <= limit)
    assert shared.global_batch_size == ranks * part
    assert shared.micro_batch_size == max(size for size in range(1, part + 1) if part % size == 0 and size <= limit)


@given(ranks=st.integers(1, 12), micro=st.integers(1, 12), accumulation=st.integers(1, 12))
def test_the_global_batch_is_what_was_asked_for(ranks: int, micro: int, accumulation: int) -> None:
    shared = batching(ranks * micro * accumulation, micro, ranks)
    assert shared == Batching(ranks, micro, accumulation)


def test_auto_takes_one_sequence_where_none_fits() -> None:
    assert batching(8, "Auto", 2, fits=lambda size: False) == Batching(2, 1, 4)


@pytest.mark.parametrize(
    ("total", "micro", "ranks", "words"),
    [
        (
            32,
            "Auto",
            3,
            "32 sequences cannot be shared evenly by 3 ranks; numbers of ranks that fit: 1, 2, 4, 8, 16, 32",
        ),
        (32, 5, 2, "5 does not divide globalBatchSize, 32; micro batch sizes that fit: 1, 2, 4, 8, 16, or Auto"),
        (32, 16, 4, "16 does not divide the 8 sequences of each of 4 ranks; micro batch sizes that fit: 1, 2, 4, 8"),
        (32, 16, 4, "with 16, numbers of ranks that fit: 1, 2"),
        (32, 16, 3, "numbers of ranks that fit: 1, 2"),
    ],
)
def test_a_batch_that_cannot_be_shared_names_the_numbers_that_fit(
    total: int, micro: int, ranks: int, words: str
) -> None:
    with pytest.raises(WindlassError) as caught:
        batching(total, micro, ranks)
    assert caught.value.reason == "ConfigInvalid"
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"max_tokens": 1}, 1),
        ({"max_tokens": 4 * 16 * 10}, 10),
        ({"max_tokens": 4 * 16 * 10 + 1}, 11),
        ({"epochs": 1.0}, 25),
        ({"epochs": 2.0}, 50),
        ({"epochs": 0.1}, 3),
        ({"epochs": 0.01}, 1),
        ({"epochs": 1.1}, 28),
    ],
)
def test_steps_are_rounded_up_to_whole_ones(length: dict[str, float], steps: int) -> None:
    training = Training.model_validate({"global_batch_size": 4, **length})
    assert total_steps(training, sequence_length=16, samples_per_epoch=100) == steps


def test_a_tenth_of_thirty_is_three() -> None:
    training = Training(epochs=0.1, global_batch_size=1)
    assert total_steps(training, 16, 30) == 3


def test_epochs_need_a_corpus_and_a_run_needs_a_length() -> None:
    with pytest.raises(WindlassError, match=r"spec.training.epochs: .* only the prepared corpus can tell"):
        total_steps(Training(epochs=1.0), 16, None)
    with pytest.raises(WindlassError, match="one of maxSteps, maxTokens and epochs"):
        total_steps(Training(), 16, 100)
