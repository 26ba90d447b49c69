"""Low-rank adapters (Hu et al. 2021, LoRA): W x becomes W x + alpha / rank * B A x, and only A and B are trained.

An adapted layer keeps the names of its weight and bias, so that a base's weights, checkpoints and sharding know it as
what it was. Why not through peft: docs/decisions/0011-own-lora.md.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from windlass.errors import WindlassError
from windlass.models.decoder import Decoder, assign
from windlass.models.families import FAMILIES, family_of
from windlass.models.foreign import AnyModel
from windlass.models.layouts import parts
from windlass.spec.job import Lora

GROUPS = {"attention": r"\.\w*att(n|ention)\w*\.", "mlp": r"^(?!.*\.\w*att(n|ention)\w*\.)"}
"""Targets with a name of their own, as regular expressions on names of layers in blocks, transformers' too."""


class LoraLinear(nn.Linear):
    """A linear layer with an adapter: `lora_a` [rank, in], `lora_b` [out, rank]."""

    def __init__(self, in_features: int, out_features: int, bias: bool, lora: Lora) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.lora_a = nn.Parameter(torch.empty(lora.rank, in_features))
        self.lora_b = nn.Parameter(torch.empty(out_features, lora.rank))
        self.scale, self.dropout = lora.alpha / lora.rank, lora.dropout

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for x [..., in], [..., out]."""
        dropped = F.dropout(x, self.dropout, self.training)
        return super().forward(x) + F.linear(F.linear(dropped, self.lora_a), self.lora_b) * self.scale


def add_adapters(model: AnyModel, lora: Lora) -> None:
    """Give an adapter to each targeted linear layer of the blocks. Raises ConfigInvalid for a target that is none."""
    places = [name for name, module in model.named_modules() if len(model.blocks) and module is model.blocks]
    place = places[0] if places else "body"
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    inner = [name for name in linear if name.startswith(f"{place}.")]
    for target in lora.targets:
        found = [name for name in inner if re.search(GROUPS.get(target, target), name)]
        if not found:
            raise WindlassError(
                "ConfigInvalid",
                f"spec.model.lora.targets: {target!r} is no layer of the model; there are {', '.join(GROUPS)}, or "
                f"regular expressions on names such as {', '.join(inner[:2])}",
            )
        for name in found:
            layer = model.get_submodule(name)
            if isinstance(layer, nn.Linear) and not isinstance(layer, LoraLinear):
                bias = layer.bias is not None
                model.set_submodule(name, LoraLinear(layer.in_features, layer.out_features, bias, lora))


@torch.no_grad()
def initialise_adapters(model: nn.Module, seed: int) -> None:
    """B is zero, so that training starts from the base; A is uniform as in Hu et al.'s code (He et al. 2015).

    Drawn on the CPU from a generator of its own, as the decoder's weights are.
    """
    generator = torch.Generator().manual_seed(seed)
    for _, layer in adapters(model):
        bound = 1 / math.sqrt(layer.in_features)  # kaiming_uniform_ with a = sqrt(5)
        assign(layer.lora_a, torch.empty(layer.lora_a.shape).uniform_(-bound, bound, generator=generator))
        assign(layer.lora_b, torch.zeros(layer.lora_b.shape))


def adapters(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The adapted layers and their names, in the model's order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear))


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Add each adapter to its layer's weight, in place: what is left has plain linear layers."""
    for name, layer in list(adapters(model)):
        merged = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        merged.weight = nn.Parameter(layer.weight + layer.scale * layer.lora_b @ layer.lora_a)
        if layer.bias is not None:
            merged.bias = layer.bias
        model.set_submodule(name, merged)


def export_adapter(model: AnyModel, lora: Lora, base: str, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors to a new folder, as peft's PeftModel reads them.

    Where our layer is several of theirs stacked, as query, key and value are in Llama, each gets all of A and its rows
    of B. `base` is the name or place of the weights that the adapter is for.
    """
    if not isinstance(model, Decoder):
        raise WindlassError("ConfigInvalid", "adapters are exported alone of the decoder only; export the whole model")
    layout, weights = FAMILIES[family_of(model.config)[0]].layout, dict[str, Tensor]()
    targets = list[str]()
    for name, layer in adapters(model):
        theirs = list(parts(layout, model.config, f"{name}.weight", layer.weight))
        rows = layer.lora_b.detach().split([part.rows for part in theirs])
        for part, b in zip(theirs, rows, strict=True):
            target = part.name.removesuffix(".weight")
            if target in targets:
                raise WindlassError(
                    "ConfigInvalid",
                    f"{target} has two adapters, of {name} and of a layer beside it, which peft has no place for; "
                    "export the model with its adapters merged",
                )
            weights[f"base_model.model.{target}.lora_A.weight"] = layer.lora_a.detach().clone()
            weights[f"base_model.model.{target}.lora_B.weight"] = b.contiguous()
            targets.append(target)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "fan_in_fan_out": layout.transposed,
        "bias": "none",
        "inference_mode": True,
    }
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WindlassError("ConfigInvalid", f"{folder} exists and is not an empty folder; name another, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
