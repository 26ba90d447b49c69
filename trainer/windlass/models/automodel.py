"""Architectures that transformers has and the decoder is not, trained as transformers builds them.

A classifier is transformers' AutoModel, pooled, with a linear layer; a language model is its AutoModelForCausalLM.
Code that comes with weights is never run.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
)

from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.models import pooled_classifier
from windlass.models.foreign import Foreign, to_meta
from windlass.models.huggingface import new_folder
from windlass.models.pooled_classifier import PooledClassifier, PooledConfig, make_body, pooled
from windlass.models.weight_files import SAFETENSORS
from windlass.spec.presets import ModelConfig

MISSING_SHOWN = 4


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """What a config.json says of an architecture of transformers: itself, and its sizes for the plan.

    Raises:
        WindlassError: ConfigInvalid, for an architecture that transformers lacks, or that does not read tokens alone;
            DataCorrupt, for values that it does not take.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise WindlassError("ConfigInvalid", f"transformers has no model_type {kind!r}; code beside weights is not run")
    try:
        config = CONFIG_MAPPING[kind].from_dict(dict(values))
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise WindlassError("DataCorrupt", f"config.json: transformers has no {kind} like it: {reason}") from error
    if config.is_encoder_decoder:
        raise WindlassError(
            "ConfigInvalid", f"{kind} has an encoder and a decoder, and only one of them can be trained"
        )
    sizes: dict[str, Any] = {
        name: getattr(config, theirs, None)
        for name, theirs in {
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "hidden_size": "hidden_size",
            "vocab_size": "vocab_size",
            "context_length": "max_position_embeddings",
        }.items()
    }
    if missing := [name for name, size in sizes.items() if not isinstance(size, int)]:
        raise WindlassError("ConfigInvalid", f"{kind} is no model of texts that fits here: it has no {missing[0]}")
    sizes["context_length"] = min(sizes["context_length"], _positions(make(dict(values), causal=False)))
    return ModelConfig(
        **sizes,
        kv_heads=getattr(config, "num_key_value_heads", None) or sizes["heads"],
        intermediate_size=getattr(config, "intermediate_size", None) or 4 * sizes["hidden_size"],
        norm="LayerNorm",
        position="Learned",
        activation="GELU",
        bias=True,
        qkv_bias=True,
        tie_embeddings=_causal(config) and bool(getattr(config, "tie_word_embeddings", False)),
        dropout=float(getattr(config, "attention_probs_dropout_prob", 0.0) or 0.0),
        theirs=dict(values),
    )


def make(values: dict[str, Any], *, causal: bool) -> Any:
    """transformers' model of a config.json, with parameters on the meta device. Raises ConfigInvalid."""
    hook = register_module_parameter_registration_hook(to_meta)
    try:
        with torch.device("cpu"):
            if not causal:
                return make_body(values)
            config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
            if not _causal(config):
                kind = values["model_type"]
                message = f"spec.model.from: {kind} predicts no next token; it can be trained with task Classify"
                raise WindlassError("ConfigInvalid", message)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WindlassError("ConfigInvalid", f"transformers cannot build {values['model_type']}: {reason}") from error
    finally:
        hook.remove()


def _causal(config: Any) -> bool:
    """Whether each token sees those before it alone: encoders may have such a head as well, and see all."""
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def _positions(body: Any) -> int:
    """Tokens that learned positions suffice for: RoBERTa's and its kind's begin after the one for padding."""
    found = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in body.named_modules()
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
    ]
    return min(found, default=1 << 62)


def _blocks(body: Any, layers: int) -> nn.ModuleList:
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module) == layers]
    return lists[0] if lists else nn.ModuleList()


class AutoModelOf(Foreign):
    """What a classifier and a language model of transformers have in common."""

    def __init__(self, config: ModelConfig, *, causal: bool) -> None:
        super().__init__()
        assert config.theirs is not None
        self.config = config
        self.body = make(config.theirs, causal=causal)

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        """The layers, wherever the architecture has them."""
        return _blocks(self.body, self.config.layers)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Zeros: the base has all weights but those that `initialise_added` sets."""
        for parameter in self.parameters():
            parameter.zero_()


class AutoDecoder(AutoModelOf):
    """A language model of transformers, as it is."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, causal=True)

    def logits(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        found: Tensor = self.body(input_ids=tokens, use_cache=False, return_dict=True).logits
        return found

    @property
    def output_name(self) -> str:  # type: ignore[override]
        """Of the parameter that makes logits."""
        weight = self.body.get_output_embeddings().weight
        return next(name for name, parameter in self.named_parameters() if parameter is weight)


class AutoClassifier(AutoModelOf):
    """Any model of transformers that reads tokens, with a head for labels."""

    def __init__(
        self, config: ModelConfig, labels: Sequence[str], pooling: Literal["LastToken", "FirstToken", "Mean"]
    ) -> None:
        super().__init__(config, causal=False)
        self.labels = list(labels)
        self.pooling = pooling
        self.score = nn.Linear(config.hidden_size, len(labels), device="meta")

    def logits(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        """Scores [batch, length, labels] of texts [batch, length], the same at each position."""
        mask = (torch.ones_like(tokens) if documents is None else documents >= 0).long()
        hidden = self.body(
            input_ids=tokens, attention_mask=None if documents is None else mask, return_dict=True
        ).last_hidden_state
        scores: Tensor = self.score(pooled(hidden, mask, self.pooling))
        return scores[:, None].expand(-1, tokens.shape[1], -1)


def base_weights(folder: Path, *, causal: bool) -> dict[str, Tensor]:
    """Name -> weight of an `AutoDecoder` or `AutoClassifier`, on the CPU in float32, as transformers reads a folder.

    Raises:
        WindlassError: DataCorrupt, where weights are missing, of another shape, or not to be read.
    """
    return {f"body.{name}": weight for name, weight in _read(folder, causal=causal).state_dict().items()}


def load(folder: Path, config: ModelConfig) -> AutoDecoder:
    """A folder's language model, on the CPU in float32 and in evaluation mode; errors as of `make`, `base_weights`."""
    try:
        model = AutoDecoder(config)
    except WindlassError as error:
        raise WindlassError(error.reason, f"{folder}: {error.message.removeprefix('spec.model.from: ')}") from error
    model.body = _read(folder, causal=True)
    return model.eval()


def _read(folder: Path, *, causal: bool) -> Any:
    kind: Any = AutoModelForCausalLM if causal else AutoModel
    try:
        model, found = kind.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise WindlassError("DataCorrupt", f"{folder}: transformers cannot load it: {error}") from error
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        shown = ", ".join(missing[:MISSING_SHOWN])
        more = f" and {len(missing) - MISSING_SHOWN} more" if len(missing) > MISSING_SHOWN else ""
        raise WindlassError("DataCorrupt", f"{folder}: the weights are not those of its config.json: no {shown}{more}")
    return model


def export(model: AutoModelOf, tokenizer: Tokenizer, folder: Path, *, chat_template: str | None = None) -> None:
    """Write a model in Hugging Face layout, whole or not at all; adapters are merged before.

    A classifier has `pooled_classifier` beside it, which transformers runs where it is trusted. Errors as of
    `new_folder`.
    """
    with new_folder(folder, sum(weight.nbytes for weight in model.state_dict().values())) as unfinished:
        if isinstance(model, AutoClassifier):
            _write_classifier(model, unfinished)
        else:
            model.body.save_pretrained(unfinished)
        tokenizer.save(unfinished)
        if chat_template is not None:
            (unfinished / "chat_template.jinja").write_text(chat_template)


def _write_classifier(model: AutoClassifier, folder: Path) -> None:
    config = PooledConfig(
        body=model.config.theirs,
        pooling=model.pooling,
        id2label=dict(enumerate(model.labels)),
        label2id={label: number for number, label in enumerate(model.labels)},
    )
    module = pooled_classifier.__name__.rpartition(".")[2]
    written = config.to_dict() | {
        "architectures": [PooledClassifier.__name__],
        "auto_map": {
            "AutoConfig": f"{module}.{PooledConfig.__name__}",
            "AutoModelForSequenceClassification": f"{module}.{PooledClassifier.__name__}",
        },
    }
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    save_file(dict(model.state_dict()), folder / SAFETENSORS, metadata={"format": "pt"})
    (folder / f"{module}.py").write_text(inspect.getsource(pooled_classifier))
