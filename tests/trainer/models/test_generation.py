import math
from collections import Counter
from typing import Any

import pytest
import torch

from windlass.errors import WindlassError
from windlass.models.decoder import Decoder
from windlass.models.generation import continue_together, generate, sample, window_start
from windlass.spec.presets import PRESETS, ModelConfig

SMALL = {"layers": 2, "hidden_size": 32, "intermediate_size": 48, "context_length": 12, "vocab_size": 13}
GPT2 = PRESETS["gpt2-tiny"].config.model_copy(update=SMALL)
LLAMA = PRESETS["llama-tiny"].config.model_copy(update=SMALL)
PROMPT = [3, 1, 4]


def decided(config: ModelConfig, **changes: Any) -> Decoder:
    """A random model with opinions: the logits of initial weights are too close to each other."""
    model, generator = Decoder(config.model_copy(update=changes)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def probabilities(logits: list[float], temperature: float, top_k: int | None, top_p: float | None) -> list[float]:
    """The definition, token by token."""
    exponentials = [math.exp(logit / temperature) for logit in logits]
    ranked = sorted(range(len(logits)), key=lambda token: -exponentials[token])[:top_k]
    total = sum(exponentials[token] for token in ranked)
    kept: dict[int, float] = {}
    for token in ranked:
        if top_p is not None and sum(kept.values()) / total >= top_p:
            break
        kept[token] = exponentials[token]
    return [kept.get(token, 0.0) / sum(kept.values()) for token in range(len(logits))]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, None),
        (0.5, None, None),
        (2.0, 3, None),
        (1.0, None, 0.7),
        (1.5, 4, 0.8),
        (1.0, 100, 1.0),
        (1.0, 1, None),
    ],
)
def test_samples_have_the_distribution_of_the_definition(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    logits = [0.3, 2.0, -1.0, 1.1, 0.0, 1.9, -3.0]
    generator, draws = torch.Generator().manual_seed(0), 3000
    counts = Counter(
        sample(torch.tensor(logits), generator, temperature=temperature, top_k=top_k, top_p=top_p) for _ in range(draws)
    )
    for token, expected in enumerate(probabilities(logits, temperature, top_k, top_p)):
        deviation = math.sqrt(expected * (1 - expected) / draws)
        assert abs(counts[token] / draws - expected) <= 4 * deviation, token


def test_each_next_token_is_drawn_from_the_models_own_distribution() -> None:
    model = decided(LLAMA).eval()
    expected = torch.softmax(model(torch.tensor([PROMPT]))[0, -1], dim=0).tolist()
    counts = Counter(next(generate(model, PROMPT, 1, seed=seed)) for seed in range(400))
    for token, probability in enumerate(expected):
        assert abs(counts[token] / 400 - probability) <= 4 * math.sqrt(probability * (1 - probability) / 400), token


def test_temperature_zero_takes_the_likeliest_token() -> None:
    model, tokens = decided(GPT2).eval(), list(PROMPT)
    for _ in range(9):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert list(generate(model, PROMPT, 9, temperature=0)) == tokens[3:]
    assert list(generate(model, PROMPT, 9, temperature=1e-30)) == tokens[3:]
    assert list(generate(model, PROMPT, 9, temperature=5.0, top_k=1)) == tokens[3:]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("prompt", [[3], PROMPT, [1, 2] * 20], ids=["one", "short", "over-long"])
@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_the_cache_changes_nothing_within_and_beyond_the_context(
    config: ModelConfig, prompt: list[int], window: int | None
) -> None:
    model = decided(config, sliding_window=window)
    with_cache = list(generate(model, prompt, 40, seed=7))
    assert with_cache == list(generate(model, prompt, 40, seed=7, use_cache=False))
    assert len(with_cache) == 40


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_prompts_that_are_continued_together_give_what_each_gives_alone(
    config: ModelConfig, window: int | None
) -> None:
    model = decided(config, sliding_window=window).eval()
    prompts = [[3], [1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8], [7, 9]]
    alone = [list(generate(model, prompt, 8, temperature=0)) for prompt in prompts]
    enough = [tokens[:count] for tokens, count in zip(alone, (8, 1, 8, 3, 5), strict=True)]
    assert continue_together(model, prompts, 8, finished=lambda *_: False) == alone
    assert continue_together(model, prompts, 8, finished=lambda row, tokens: tokens == enough[row]) == enough
    with pytest.raises(ValueError, match="are more than contextLength"):
        continue_together(model, prompts, 10, finished=lambda *_: False)


def test_beyond_the_context_each_token_follows_from_the_window() -> None:
    model = decided(GPT2).eval()
    tokens = PROMPT + list(generate(model, PROMPT, 40, temperature=0))
    for length in range(3, 43):
        window = tokens[window_start(length, 12) : length]
        assert tokens[length] == int(model(torch.tensor([window]))[0, -1].argmax())


@pytest.mark.parametrize("context_length", [1, 2, 5, 12])
def test_the_window_holds_half_a_context_to_a_whole_one(context_length: int) -> None:
    starts = [window_start(length, context_length) for length in range(1, 60)]
    assert starts == sorted(starts)
    for length, start in enumerate(starts, 1):
        assert length - start <= context_length
        assert length - start > context_length - max(1, context_length // 2) or start == 0


def test_a_seed_gives_the_same_text_again_and_another_seed_another() -> None:
    model = decided(LLAMA)
    texts = [list(generate(model, PROMPT, 30, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_training_is_left_alone() -> None:
    model = decided(GPT2, dropout=0.5)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    tokens = generate(model, PROMPT, 10)
    next(tokens)
    assert model.training, "between tokens, and when a text is given up half way"
    list(tokens)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model(torch.tensor([PROMPT])).sum().backward()
    assert model.token_embedding.weight.grad is not None


def test_a_compiled_model_is_not_compiled_again_for_each_length() -> None:
    model, compiled = decided(LLAMA), []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        compiled.append(graph)
        return graph.forward

    expected = list(generate(model, PROMPT, 30))
    for block in model.blocks:
        block.compile(backend=backend)
    assert list(generate(model, PROMPT, 30)) == expected
    assert compiled == []
    model(torch.tensor([PROMPT]))
    assert len(compiled) > 0, "outside generation it is"


def test_generation_stops_before_the_end_token() -> None:
    model = decided(GPT2)
    tokens = list(generate(model, PROMPT, 50, seed=3))
    end = tokens[20]
    assert list(generate(model, PROMPT, 50, seed=3, end_token=end)) == tokens[: tokens.index(end)]


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([13], {}, "outside the model's vocabulary of 13"),
        ([-1], {}, "outside the model's vocabulary of 13"),
        ([1], {"temperature": -1.0}, "temperature is -1.0"),
        ([1], {"top_k": 0}, "top_k is 0"),
        ([1], {"top_p": 0.0}, "top_p is 0.0"),
        ([1], {"top_p": 1.1}, "top_p is 1.1"),
    ],
)
def test_bad_input_is_refused_at_the_call(prompt: list[int], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(WindlassError, match=message) as caught:
        generate(decided(GPT2), prompt, 5, **settings)
    assert caught.value.reason == "ConfigInvalid"


def test_a_padded_vocabulary_gives_no_tokens_that_are_no_text() -> None:
    model = decided(GPT2)
    whole = set(generate(model, PROMPT, 100, temperature=3.0))
    assert max(whole) >= 10
    assert max(generate(model, PROMPT, 100, temperature=3.0, vocab_size=10)) < 10
