"""From a job's model to modules: the decoder or another, its adapters, and which of its parameters are trained."""

import re
from collections.abc import Iterable

import torch
from torch import nn

from windlass.errors import WindlassError
from windlass.models.classifier import Classifier
from windlass.models.decoder import INITIAL_STD, Decoder, assign
from windlass.models.foreign import AnyModel
from windlass.models.lora import LoraLinear, adapters, add_adapters, initialise_adapters
from windlass.spec.job import Model
from windlass.spec.presets import ModelConfig

SCORE = ("score.weight", "score.bias")
"""A classifier's head; the decoder's has no bias."""
RECOMPUTED = "_checkpoint_wrapped_module."
"""In the names of parameters whose block is recomputed in the backward pass."""


def build_model(config: ModelConfig, spec: Model) -> AnyModel:
    """The model without weights of sense; parameters that are not trained have no `requires_grad`.

    Raises WindlassError: ConfigInvalid, for adapters or trainable parts that the model does not have, and for a
    quantised base that it cannot have.
    """
    model = _bare_model(config, spec)
    if spec.lora is not None:
        if spec.lora.quantize != "None" and config.custom is not None:
            message = "a model of your own may read its weights, which are packed then; leave it out"
            raise WindlassError("ConfigInvalid", f"spec.model.lora.quantize: {message}")
        add_adapters(model, spec.lora)
    trained = set(_trained(model, spec))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model


def _bare_model(config: ModelConfig, spec: Model) -> AnyModel:
    head = spec.head
    if config.custom is not None:
        from windlass.models.custom import CustomModel

        return CustomModel(config) if head is None else CustomModel(config, head.labels, head.pooling)
    if config.theirs is not None:
        from windlass.models.automodel import AutoClassifier, AutoDecoder  # transformers' seconds, where it is needed

        return AutoDecoder(config) if head is None else AutoClassifier(config, head.labels, head.pooling)
    return Decoder(config) if head is None else Classifier(config, head.labels, head.pooling)


def _trained(model: AnyModel, spec: Model) -> Iterable[str]:
    names = [name for name, _ in model.named_parameters()]
    scope, layers = spec.trainable.scope, model.config.layers
    if spec.lora is not None:
        return added_parameters(model)
    if scope == "All":
        return names
    if scope == "Matching":
        return [name for pattern in spec.trainable.patterns or [] for name in _matching(pattern, names)]
    head = added_parameters(model) or {_output(model)}
    blocks = spec.trainable.blocks or 0
    if blocks and not len(model.blocks):
        raise WindlassError("ConfigInvalid", f"spec.model.trainable.scope: {_unknown('blocks', names)}")
    if blocks > layers:
        raise WindlassError("ConfigInvalid", f"spec.model.trainable.blocks: {blocks} of {layers} layers")
    last = {id(parameter) for block in [*model.blocks][layers - blocks :] for parameter in block.parameters()}
    return [
        name
        for name, parameter in model.named_parameters()
        if name in head or (blocks and (id(parameter) in last or name.startswith("norm.")))
    ]


def _output(model: AnyModel) -> str:
    """The name of the parameter that makes logits."""
    if isinstance(model, Decoder):
        return "token_embedding.weight" if model.config.tie_embeddings else "output.weight"
    if model.output_name is None:
        names = [name for name, _ in model.named_parameters()]
        raise WindlassError("ConfigInvalid", f"spec.model.trainable.scope: {_unknown('head', names)}")
    return model.output_name


def _unknown(what: str, names: list[str]) -> str:
    return f"which parameters are its {what} is not known of this model; use Matching, with names such as " + ", ".join(
        names[:4]
    )


def _matching(pattern: str, names: list[str]) -> list[str]:
    found = [name for name in names if re.search(pattern, name)]
    if not found:
        raise WindlassError(
            "ConfigInvalid",
            f"spec.model.trainable.patterns: {pattern!r} is in no parameter's name; they are such as "
            + ", ".join(names[:4]),
        )
    return found


def added_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that a base has none of: adapters, and a classifier's head."""
    return {name for name, _ in model.named_parameters() if name in SCORE} | {
        f"{name}.{part}".replace(RECOMPUTED, "")
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
        for part, _ in module.named_parameters(recurse=False)
        if part.startswith("lora_")
    }


def initialise_added(model: nn.Module, seed: int) -> None:
    """Set the parameters that a base has none of."""
    initialise_adapters(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "score.weight":
                assign(parameter, torch.empty(parameter.shape).normal_(0.0, INITIAL_STD, generator=generator))
            elif name == "score.bias":
                assign(parameter, torch.zeros(parameter.shape))


def parameters_by_name(model: nn.Module, *, trained: bool) -> dict[str, nn.Parameter]:
    """The parameters that are trained, or those that are not, by the names that the bare model has for them."""
    named = ((name.replace(RECOMPUTED, ""), parameter) for name, parameter in model.named_parameters())
    return {name: parameter for name, parameter in named if parameter.requires_grad == trained}


def count_trained(config: ModelConfig, spec: Model) -> tuple[int, int, int]:
    """All parameters, those that are trained, and those that are quantised; errors as of `build_model`."""
    with torch.device("meta"):
        model = build_model(config, spec)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    quantised = 0
    if spec.lora is not None and spec.lora.quantize != "None":  # which are no parameters until they have values
        quantised = sum(layer.in_features * layer.out_features for _, layer in adapters(model))
    return sum(size for size, _ in sizes) + quantised, sum(size for size, trained in sizes if trained), quantised
