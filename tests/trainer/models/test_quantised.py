"""Weights of 4 bits are the nearest of NF4, and adapters learn on them what they would on the same weights in 32."""

import sys

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

pytest.importorskip("bitsandbytes")

from windlass.errors import WindlassError
from windlass.models.build import count_trained
from windlass.models.lora import LoraLinear
from windlass.models.quantised import QuantisedLoraLinear
from windlass.planning.memory import NF4_BYTES
from windlass.spec.job import Lora, Model
from windlass.spec.presets import ModelConfig, model_config


def normal_floats() -> Tensor:
    """NF4's 16 numbers as Dettmers et al. 2023, section 3, define them: quantiles of a normal distribution."""
    last = 1 - (1 / 32 + 1 / 30) / 2
    positive, negative = (torch.special.ndtri(torch.linspace(last, 0.5, count).double()) for count in (9, 8))
    levels: Tensor = torch.cat([-negative, positive[:-1]]) / positive[0]
    return levels.float().sort().values


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_weight_is_kept_as_the_nearest_normal_floats_of_its_blocks() -> None:
    weight = random(331, 192)
    layer = QuantisedLoraLinear(192, 331, False, Lora())
    layer.set_weight(weight)
    kept = layer.full_weight()
    assert (kept.shape, kept.dtype) == (weight.shape, torch.float32)

    levels, exact = normal_floats(), list[Tensor]()
    for block, ours in zip(weight.flatten().split(64), kept.flatten().split(64), strict=True):
        nearest = levels[(block[:, None] / block.abs().max() - levels).abs().argmin(1)]
        constant = (ours @ nearest) / (nearest @ nearest)
        torch.testing.assert_close(ours, constant * nearest, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(constant, block.abs().max(), atol=0.0, rtol=0.02)  # itself in 8 bits
        exact.append(nearest * block.abs().max())
    error, least = ((found - weight.flatten()).abs().mean() for found in (kept.flatten(), torch.cat(exact)))
    assert error < 1.01 * least


def test_half_a_byte_is_kept_of_a_weight() -> None:
    layer = QuantisedLoraLinear(512, 1024, False, Lora())
    layer.set_weight(random(1024, 512))
    state = layer.weight.quant_state
    held = [layer.weight, state.absmax, state.state2.absmax]
    assert sum(tensor.nbytes for tensor in held) == 1024 * 512 * NF4_BYTES
    config, spec = small(quantize="NF4")
    inside = 3 * (64 * 192 + 64 * 64)
    assert count_trained(config, spec) == (*count_trained(*small())[:2], inside)


def small(hidden: int = 64, **lora: str) -> tuple[ModelConfig, Model]:
    sizes = {"layers": 3, "hiddenSize": hidden, "heads": 4, "contextLength": 32}
    spec = Model.model_validate({"preset": "gpt2-tiny", "config": sizes, "lora": lora})
    return model_config(spec, 257), spec


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_outputs_and_gradients_are_those_on_the_same_weights_in_32_bits(dora: bool, dtype: torch.dtype) -> None:
    lora = Lora(rank=4, dora=dora)
    plain, quantised = LoraLinear(64, 48, True, lora), QuantisedLoraLinear(64, 48, True, lora)
    quantised.set_weight(random(48, 64))
    for number, (name, parameter) in enumerate(plain.named_parameters()):
        value = quantised.full_weight() if name == "weight" else random(*parameter.shape, seed=number + 2)
        parameter.data.copy_(value)
        if name != "weight":
            quantised.get_parameter(name).data.copy_(value)
        parameter.requires_grad_(name.startswith("lora_"))
        quantised.get_parameter(name).requires_grad_(name.startswith("lora_"))

    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    inputs = [random(2, 5, 64, seed=9).requires_grad_() for _ in range(2)]
    outputs = []
    for layer, x in zip((plain, quantised), inputs, strict=True):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            kept.clear()
            with saved_tensors_hooks(keep, lambda tensor: tensor):
                outputs.append(layer(x))
        outputs[-1].square().sum().backward()
    pairs = [(outputs[1], outputs[0]), (inputs[1].grad, inputs[0].grad)]
    for name in ("lora_a", "lora_b", *(["lora_magnitude"] if dora else [])):
        pairs.append((quantised.get_parameter(name).grad, plain.get_parameter(name).grad))
    for ours, expected in pairs:
        assert ours is not None
        assert expected is not None
        assert (ours - expected).norm() < (1e-6 if dtype == torch.float32 else 0.01) * expected.norm()
    assert not [tensor for tensor in kept if tensor.numel() == 48 * 64], "the backward pass computes it again"


def test_blocks_that_span_rows_are_refused() -> None:
    with pytest.raises(WindlassError, match=r"quantize: blocks\.0\.attention\.qkv has 32 inputs, .* blocks of 64"):
        count_trained(*small(hidden=32, quantize="NF4"))


def test_without_bitsandbytes_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(WindlassError, match=r"spec\.model\.lora\.quantize needs .* pip install 'windlass\[qlora\]'"):
        count_trained(*small(quantize="NF4"))
