import pytest

from windlass.planning.compute import count_parameters, flops_per_token
from windlass.spec.presets import PRESETS

GPT2 = PRESETS["gpt2-small"].config
LLAMA = PRESETS["llama-8b"].config


def test_gpt2s_flops_are_those_of_nanogpts_estimate() -> None:
    # nanoGPT, model.py, estimate_mfu: 6 * (N without position embeddings) + 12 * layers * width * sequence.
    assert flops_per_token(GPT2, 1024) == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024


def test_an_untied_embedding_is_looked_up_and_not_multiplied() -> None:
    looked_up = LLAMA.vocab_size * LLAMA.hidden_size
    assert flops_per_token(LLAMA, 2048) == 6 * (8_030_261_248 - looked_up) + 12 * 32 * 4096 * 2048
    tied = LLAMA.model_copy(update={"tie_embeddings": True})
    assert flops_per_token(tied, 2048) == flops_per_token(LLAMA, 2048)
    assert count_parameters(tied) == count_parameters(LLAMA) - looked_up


@pytest.mark.parametrize(("window", "reach"), [(None, 4096), (512, 512), (8192, 4096)])
def test_a_sliding_window_bounds_the_attention(window: int | None, reach: int) -> None:
    windowed = LLAMA.model_copy(update={"sliding_window": window})
    assert flops_per_token(windowed, 4096) == flops_per_token(LLAMA, reach)


def test_layers_of_two_kinds_reach_differently() -> None:
    gemma = PRESETS["gemma3-1b"].config
    attended = 12 * gemma.heads * 256
    whole = 26 // 6
    expected = attended * (whole * 4096 + (26 - whole) * 512)
    assert flops_per_token(gemma, 4096) == 6 * count_parameters(gemma) + expected
