"""Low-rank adapters (Hu et al. 2021, LoRA): W x becomes W x + alpha / rank * B A x, and only A and B are trained.

With magnitudes (Liu et al. 2024, DoRA, equation 5) each row of W + alpha / rank * B A is scaled to a length that is
trained as well, and at first that of W's row.

An adapted layer keeps the names of its weight and bias, so that a base's weights, checkpoints and sharding know it as
what it was. Why not through peft: docs/decisions/0011-own-lora.md.
"""

import json
import math
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from windlass.errors import WindlassError
from windlass.models.classifier import Classifier, require_last_token
from windlass.models.decoder import Decoder, assign
from windlass.models.families import FAMILIES, family_of
from windlass.models.foreign import AnyModel, Foreign
from windlass.models.layouts import parts
from windlass.spec.job import Lora

GROUPS = {"attention": r"\.\w*att(n|ention)\w*\.", "mlp": r"^(?!.*\.\w*att(n|ention)\w*\.)"}
"""Targets with a name of their own, as regular expressions on names of layers in blocks, transformers' too."""

BLOCK = 64
"""Weights that share a constant in NF4. Blocks of one row alone: where they span two, bitsandbytes 0.50 computes other
weights on CPUs with AVX-512."""


class LoraLinear(nn.Linear):
    """A linear layer with an adapter: `lora_a` [rank, in], `lora_b` [out, rank], and of DoRA `lora_magnitude` [out]."""

    def __init__(self, in_features: int, out_features: int, bias: bool, lora: Lora) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.lora_a = nn.Parameter(torch.empty(lora.rank, in_features))
        self.lora_b = nn.Parameter(torch.empty(out_features, lora.rank))
        self.lora_magnitude = nn.Parameter(torch.empty(out_features)) if lora.dora else None
        self.scale, self.dropout = lora.alpha / lora.rank, lora.dropout

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for x [..., in], [..., out]."""
        dropped = F.dropout(x, self.dropout, self.training)
        update = F.linear(F.linear(dropped, self.lora_a), self.lora_b) * self.scale
        if self.lora_magnitude is None:
            return self.product(x, self.bias) + update
        with torch.no_grad():  # the length counts as a constant in the gradient (Liu et al. 2024, section 4.3)
            lengths = row_lengths(self.updated())
        out = self.product(x) + update
        out = out * (self.lora_magnitude / lengths).to(out.dtype)
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)
        return out

    @torch.no_grad()
    def set_weight(self, full: Tensor) -> None:
        """Take over a base's weight [out, in]."""
        assign(self.weight, full)

    def full_weight(self) -> Tensor:
        """The base's weight [out, in]."""
        return self.weight

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """What the base's weight makes of x [..., in], [..., out]."""
        return F.linear(x, self.weight, bias)

    def updated(self) -> Tensor:
        """The weight with the adapter's update [out, in], before its rows are scaled."""
        return self.full_weight() + self.scale * self.lora_b @ self.lora_a


def row_lengths(weight: Tensor) -> Tensor:
    """Euclidean lengths of a weight's rows [out], in float32 and never 0."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32)
    return lengths.clamp_min(torch.finfo(torch.float32).tiny)


def add_adapters(model: AnyModel, lora: Lora) -> None:
    """Give an adapter to each targeted linear layer of the blocks.

    Raises ConfigInvalid for a target that is none, and for one that cannot be quantised where that is asked.
    """
    adapted = LoraLinear if lora.quantize == "None" else _quantised()
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
                if lora.quantize != "None" and layer.in_features % BLOCK:
                    raise WindlassError(
                        "ConfigInvalid",
                        f"spec.model.lora.quantize: {name} has {layer.in_features} inputs, which are no multiple of "
                        f"NF4's blocks of {BLOCK}; leave it out of targets",
                    )
                bias = layer.bias is not None
                model.set_submodule(name, adapted(layer.in_features, layer.out_features, bias, lora))


def _quantised() -> type[LoraLinear]:
    """The layer with a weight of 4 bits. Raises ConfigInvalid without bitsandbytes."""
    if find_spec("bitsandbytes") is None:
        message = "spec.model.lora.quantize needs bitsandbytes, which is not installed: pip install 'windlass[qlora]'"
        raise WindlassError("ConfigInvalid", message)
    from windlass.models.quantised import QuantisedLoraLinear

    return QuantisedLoraLinear


@torch.no_grad()
def initialise_adapters(model: nn.Module, seed: int) -> None:
    """B is zero, so that training starts from the base; A is uniform as in Hu et al.'s code (He et al. 2015).

    Magnitudes are the lengths of the weight's rows, so the weight has to have its values before.
    Drawn on the CPU from a generator of its own, as the decoder's weights are.
    """
    generator = torch.Generator().manual_seed(seed)
    for _, layer in adapters(model):
        bound = 1 / math.sqrt(layer.in_features)  # kaiming_uniform_ with a = sqrt(5)
        assign(layer.lora_a, torch.empty(layer.lora_a.shape).uniform_(-bound, bound, generator=generator))
        assign(layer.lora_b, torch.zeros(layer.lora_b.shape))
        if layer.lora_magnitude is not None:
            layer.lora_magnitude.copy_(row_lengths(layer.full_weight()))  # where sharded, both by rows


def adapters(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The adapted layers and their names, in the model's order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear))


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Add each adapter to its layer's weight, in place: what is left has plain linear layers."""
    for name, layer in list(adapters(model)):
        merged = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        weight = layer.updated()
        if layer.lora_magnitude is not None:
            weight *= (layer.lora_magnitude / row_lengths(weight))[:, None]
        merged.weight = nn.Parameter(weight)
        if layer.bias is not None:
            merged.bias = layer.bias
        model.set_submodule(name, merged)


def export_adapter(model: AnyModel, lora: Lora, base: str, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors to a new folder, as peft's PeftModel reads them.

    Where our layer is several of theirs stacked, as query, key and value are in Llama, each gets all of A and its rows
    of B and of the magnitudes. A classifier's head is a module that peft saves whole. `base` is the name or place of
    the weights that the adapter is for.
    """
    if isinstance(model, Foreign) and model.output_name is None:
        raise WindlassError(
            "ConfigInvalid",
            "adapters are exported alone of the decoder and of transformers' language models only; export all of it",
        )
    layout = FAMILIES[family_of(model.config)[0]].layout if isinstance(model, Decoder) else None
    weights, targets = dict[str, Tensor](), list[str]()
    of_task: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if isinstance(model, Classifier):
        require_last_token(model)
        of_task = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
        weights["base_model.model.score.weight"] = model.score.weight.detach().clone()
    for name, layer in adapters(model):
        theirs = {name.removeprefix("body."): layer.out_features}
        if layout is not None:
            places = list(parts(layout, model.config, f"{name}.weight", layer.full_weight()))
            theirs = {part.name.removesuffix(".weight"): part.rows for part in places}
            if any(part.rows != part.shape[-1 if part.transposed else 0] for part in places):
                raise WindlassError(
                    "ConfigInvalid",
                    f"{next(iter(theirs))} is {name} and another layer in one, and peft has no adapter for a part; "
                    "export the model with its adapters merged",
                )
        first = 0
        for target, count in theirs.items():
            rows, first = slice(first, first + count), first + count
            weights[f"base_model.model.{target}.lora_A.weight"] = layer.lora_a.detach().clone()
            weights[f"base_model.model.{target}.lora_B.weight"] = layer.lora_b.detach()[rows].clone()
            if layer.lora_magnitude is not None:
                weights[f"base_model.model.{target}.lora_magnitude_vector"] = layer.lora_magnitude.detach()[
                    rows
                ].clone()
            targets.append(target)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        **of_task,
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "use_dora": lora.dora,
        "fan_in_fan_out": layout is not None and layout.transposed,
        "bias": "none",
        "inference_mode": True,
    }
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WindlassError("ConfigInvalid", f"{folder} exists and is not an empty folder; name another, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
