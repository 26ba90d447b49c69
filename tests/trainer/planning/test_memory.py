from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from windlass.models.decoder import Decoder
from windlass.planning.compute import count_parameters
from windlass.planning.memory import LOGITS_BYTES, activation_bytes_per_token, estimate_memory
from windlass.spec.presets import PRESETS, ModelConfig

GPT2 = PRESETS["gpt2-small"].config
GIB = 2**30


def estimate(config: ModelConfig = GPT2, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "device": "cuda",
        "shards": 1,
        "precision": "BF16",
        "micro_batch_size": 4,
        "sequence_length": 1024,
    }
    return estimate_memory(config, **(settings | changes))


def saved_bytes_per_token(config: ModelConfig) -> float:
    """Memory that autograd really keeps of a float32 forward pass, the parameters themselves left out."""
    model, tokens = Decoder(config), torch.zeros(2, 64, dtype=torch.long)
    model.initialise(0)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(tokens)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / tokens.numel()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": False, "activation": "SwiGLU"},
        {"position": "Rotary", "kv_heads": 1},
        {"position": "Rotary", "norm": "RMSNorm", "activation": "SwiGLU"},
        {"layers": 6, "intermediate_size": 512},
        {"dropout": 0.1},
        {"position": "Rotary", "head_size": 32, "qk_norm": True},
        {"parallel_block": True, "activation": "GeGLU"},
        {"post_norms": True},
        {"attention_softcap": 50.0},
    ],
    ids=str,
)
def test_the_estimate_of_activations_is_what_autograd_keeps(changes: dict[str, Any]) -> None:
    small = {"layers": 3, "heads": 4, "kv_heads": 4, "hidden_size": 64, "intermediate_size": 256, "vocab_size": 61}
    config = GPT2.model_copy(update=small | changes)
    scores = 64 if config.dropout or config.attention_softcap else 0
    estimated = activation_bytes_per_token(config, element=4, scores=scores) - LOGITS_BYTES * config.vocab_size
    assert abs(estimated / saved_bytes_per_token(config) - 1) < 0.1


def test_gpt3s_layer_keeps_34_bytes_per_hidden_unit_and_the_residuals_other_half() -> None:
    # Korthikanti et al. 2022 has 16-bit norm inputs (4 h) and dropout's three masks, one of them the scores'.
    one, two = (
        GPT2.model_copy(update={"layers": layers, "intermediate_size": 4 * 768, "dropout": 0.1}) for layers in (1, 2)
    )
    layer = activation_bytes_per_token(two, element=2) - activation_bytes_per_token(one, element=2)
    assert layer == (34 + 4) * 768


def test_recomputing_blocks_saves_activations_and_nothing_else() -> None:
    plain, selective, full = (estimate(checkpointing=kind) for kind in ("None", "Selective", "Full"))
    assert plain.activations > selective.activations > full.activations
    assert plain.weights == full.weights
    assert plain.optimizer == full.optimizer


def test_state_is_16_bytes_a_parameter_in_float32() -> None:
    memory = estimate(precision="FP32")
    assert memory.weights + memory.gradients + memory.optimizer == 16 * count_parameters(GPT2)
    assert memory.total == 16 * count_parameters(GPT2) + memory.activations


def test_quantised_weights_take_half_a_byte_and_no_copy() -> None:
    config, linear = PRESETS["llama-7b"].config, 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    plain, quantised = (estimate(config, trained=2**25, quantised=count) for count in (0, linear))
    assert plain.weights - quantised.weights == pytest.approx((4 + 2 - 4.127 / 8) * linear, rel=1e-4)
    assert (plain.gradients, plain.activations) == (quantised.gradients, quantised.activations)


def test_sharding_divides_the_state() -> None:
    whole, shared = estimate(PRESETS["llama-70b"].config), estimate(PRESETS["llama-70b"].config, shards=64)
    assert shared.optimizer * 64 == pytest.approx(whole.optimizer)
    assert shared.weights < whole.weights / 8, "a 64th, and the blocks that are gathered"
    assert shared.activations == whole.activations


def test_an_8b_model_needs_sharding_on_80_gib() -> None:
    llama = PRESETS["llama-8b"].config
    assert estimate(llama, micro_batch_size=1).total > 80 * GIB
    assert estimate(llama, micro_batch_size=1, shards=8, sequence_length=4096).total < 80 * GIB


def test_dropout_on_a_cpu_keeps_the_scores() -> None:
    config = GPT2.model_copy(update={"dropout": 0.1})
    assert estimate(config, device="cpu").activations > 1.5 * estimate(config, device="cuda").activations
