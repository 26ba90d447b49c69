import pytest
import torch
from tests.trainer.evaluation.suite_data import GPT2, LLAMA
from tests.trainer.random_models import random_model

from windlass.evaluation.likelihood import pieces, score
from windlass.models.decoder import Decoder
from windlass.spec.presets import ModelConfig

SHORT = {"context_length": 8, "vocab_size": 40}
PAIRS = [
    ([1], [2]),
    ([1, 2, 3], [4, 5]),
    ([1, 2, 3], [4, 6]),  # shares its pass with the one before
    ([1, 2, 3, 4], [5]),  # and so does this one
    (list(range(20)), [7, 8, 9]),  # loses the start of its context
    ([3], list(range(30))),  # longer than the model's context
]


@pytest.fixture(params=[GPT2, LLAMA], ids=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> Decoder:
    config: ModelConfig = request.param
    return random_model(config.model_copy(update=SHORT))


def by_definition(model: Decoder, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Token by token: each after those of its window, which are 8 at most."""
    total, greedy = 0.0, True
    for start in range(0, len(continuation), 8):
        part = continuation[start : start + 8]
        window = [*context, *continuation[:start], *part][-9:]
        for place in range(len(window) - len(part), len(window)):
            with torch.no_grad():
                logits = model(torch.tensor([window[:place]]))[0, -1]
            total += float(torch.log_softmax(logits, dim=0)[window[place]])
            greedy &= int(logits.argmax()) == window[place]
    return total, greedy


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_scores_are_those_of_the_definition(model: Decoder, batch_size: int) -> None:
    greedy: list[int] = []
    for _ in range(3):
        greedy.append(int(model(torch.tensor([[1, 2, *greedy]]))[0, -1].argmax()))
    pairs = [*PAIRS, ([1, 2], greedy)]
    found = score(model, pairs, batch_size)
    for one, pair in zip(found, pairs, strict=True):
        total, is_greedy = by_definition(model, *pair)
        assert one[0] == pytest.approx(total, rel=1e-6, abs=1e-5)
        assert one[1] == is_greedy
    assert found[-1][1]


def test_answers_that_differ_in_their_last_token_share_a_pass(model: Decoder) -> None:
    rows: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    score(model, [([1, 2, 3], [answer]) for answer in range(4)], batch_size=8)
    assert rows == [1]


def test_every_token_is_in_one_piece_with_as_much_before_it_as_fits() -> None:
    text = list(range(1, 20))
    found = list(pieces([0], text, 8))
    assert [token for _, part in found for token in part] == text
    assert found == [([0], text[:8]), ([8], text[8:16]), (list(range(11, 17)), text[16:])]


@pytest.mark.parametrize("pair", [([], [1]), ([1], [])])
def test_nothing_before_or_after_is_refused(model: Decoder, pair: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="is empty"):
        score(model, [pair], 1)
