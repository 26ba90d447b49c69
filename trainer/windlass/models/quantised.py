"""Adapters on weights of 4 bits (Dettmers et al. 2023, QLoRA), by bitsandbytes.

A weight is kept in NF4 in blocks of 64, and the blocks' constants in 8 bits (sections 3, NormalFloat and Double
Quantization). It is multiplied in the precision of the run, and only the layer at work has it there.
"""

import torch
from bitsandbytes import matmul_4bit
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from torch import Tensor

from windlass.models.lora import BLOCK, LoraLinear
from windlass.spec.job import Lora


class QuantisedLoraLinear(LoraLinear):
    """A linear layer with an adapter; it has no weight until it is set, and then one in NF4."""

    weight: Params4bit

    def __init__(self, in_features: int, out_features: int, bias: bool, lora: Lora) -> None:
        super().__init__(in_features, out_features, bias, lora)
        self.register_parameter("weight", None)

    @torch.no_grad()
    def set_weight(self, full: Tensor) -> None:
        """Quantise a weight [out, in] on the layer's device, which has this one in 32 bits for a moment."""
        whole = Params4bit(full, quant_type="nf4", blocksize=BLOCK, compress_statistics=True)
        self.weight = whole.to(self.lora_a.device)

    def full_weight(self) -> Tensor:
        """What the layer multiplies with [out, in], in float32."""
        full: Tensor = dequantize_4bit(self.weight, self.weight.quant_state)
        return full

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """As of LoraLinear; the backward pass computes the weight once more instead of keeping it."""
        if torch.is_autocast_enabled(x.device.type):  # which does not know bitsandbytes' operators
            x = x.to(torch.get_autocast_dtype(x.device.type))
        bias = None if bias is None else bias.to(x.dtype)
        out: Tensor = matmul_4bit(x, self.weight, self.weight.quant_state, bias=bias)
        return out
