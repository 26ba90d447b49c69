"""How Hugging Face's files name things: configurations and weights of GPT-2, Llama, Mistral and Qwen2.

To add an architecture, add its writer and reader of config.json here, and a `Layout` where its weights' names differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from windlass.errors import WindlassError
from windlass.spec.presets import ModelConfig


@dataclass(frozen=True)
class Layout:
    """Names of weights: our module's, without the block's prefix -> theirs; several where ours is theirs stacked."""

    base: str
    """Prefix of all but the head; files of a model without head lack it."""
    block: str
    """Prefix of a block, after `base`."""
    names: dict[str, tuple[str, ...]]
    transposed: bool
    """Matrices of the blocks are stored [in, out] (GPT-2's Conv1D)."""
    computed: tuple[str, ...]
    """Endings of entries in older files that are no weights."""


GPT2 = Layout(
    base="transformer.",
    block="h.",
    names={
        "token_embedding": ("wte",),
        "position_embedding": ("wpe",),
        "attention_norm": ("ln_1",),
        "attention.qkv": ("attn.c_attn",),
        "attention.output": ("attn.c_proj",),
        "feed_forward_norm": ("ln_2",),
        "feed_forward.up": ("mlp.c_fc",),
        "feed_forward.down": ("mlp.c_proj",),
        "norm": ("ln_f",),
    },
    transposed=True,
    computed=(".attn.bias", ".attn.masked_bias"),
)
LLAMA = Layout(
    base="model.",
    block="layers.",
    names={
        "token_embedding": ("embed_tokens",),
        "attention_norm": ("input_layernorm",),
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.output": ("self_attn.o_proj",),
        "feed_forward_norm": ("post_attention_layernorm",),
        "feed_forward.gate": ("mlp.gate_proj",),
        "feed_forward.up": ("mlp.up_proj",),
        "feed_forward.down": ("mlp.down_proj",),
        "norm": ("norm",),
    },
    transposed=False,
    computed=(".rotary_emb.inv_freq",),
)
HEAD = "lm_head.weight"
ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
ACTIVATIONS = {"gelu_new": "GELUTanh", "gelu_pytorch_tanh": "GELUTanh", "gelu": "GELU"}


def layout_of(config: ModelConfig) -> Layout:
    """The names that a configuration's weights have."""
    return GPT2 if config.position == "Learned" else LLAMA


def their_names(layout: Layout, name: str) -> list[str]:
    """Their name of our parameter; several where ours is theirs stacked along the first dimension."""
    module, _, kind = name.rpartition(".")
    if module == "output":
        return [HEAD]
    prefix = layout.base
    if module.startswith("blocks."):
        _, layer, module = module.split(".", 2)
        prefix += f"{layout.block}{layer}."
    return [f"{prefix}{theirs}.{kind}" for theirs in layout.names[module]]


def model_type(config: ModelConfig) -> str:
    """Which of transformers' architectures computes what a configuration does; missing biases count as zeros.

    Raises:
        WindlassError: ConfigInvalid, naming the fields that none of them has.
    """
    if config.position == "Learned":
        kind, name = "gpt2", "GPT-2"
        needs: dict[str, tuple[Any, ...]] = {"norm": ("LayerNorm",), "activation": ("GELUTanh", "GELU")}
        needs |= {"kv_heads": (config.heads,), "sliding_window": (None,)}
    else:
        kind, name = "qwen2" if config.qkv_bias and not config.bias else "llama", "Llama"
        needs = {"norm": ("RMSNorm",), "activation": ("SwiGLU",)}
        if config.sliding_window is not None:
            kind, name = "mistral", "Mistral"
            needs |= {"bias": (False,), "qkv_bias": (False,)}
    wrong = [
        f"spec.model.config.{to_camel(field)}: {getattr(config, field)}, where {name} has {' or '.join(map(str, has))}"
        for field, has in needs.items()
        if getattr(config, field) not in has
    ]
    if wrong:
        raise WindlassError("ConfigInvalid", "No architecture of transformers is like this model: " + "; ".join(wrong))
    return kind


def write_config(config: ModelConfig, end_token: int) -> dict[str, Any]:
    """What config.json says of a model."""
    kind = model_type(config)
    common = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "dtype": "float32",
        "vocab_size": config.vocab_size,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": end_token,
        "eos_token_id": end_token,
    }
    return common | (_write_gpt2(config) if kind == "gpt2" else _write_llama(config, kind))


def _write_gpt2(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_positions": config.context_length,
        "layer_norm_epsilon": config.norm_epsilon,
        "activation_function": "gelu" if config.activation == "GELU" else "gelu_new",
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
    }


def _write_llama(config: ModelConfig, kind: str) -> dict[str, Any]:
    special: dict[str, dict[str, Any]] = {
        "llama": {"attention_bias": config.bias, "mlp_bias": config.bias},
        "mistral": {"sliding_window": config.sliding_window},
        "qwen2": {"use_sliding_window": False},
    }
    return {
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,  # read by transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},  # read by transformers 5
        "hidden_act": "silu",
        "attention_dropout": config.dropout,
        **special[kind],
    }


def read_config(values: dict[str, Any]) -> ModelConfig:
    """The configuration that a config.json describes; what it leaves out has transformers' defaults.

    Raises:
        WindlassError: ConfigInvalid, for what the decoder does not do; DataCorrupt, for a size missing or of no sense.
    """
    kind = values.get("model_type")
    readers: dict[Any, Callable[[dict[str, Any]], ModelConfig]] = {"gpt2": _read_gpt2} | dict.fromkeys(
        ("llama", "mistral", "qwen2"), _read_llama
    )
    if kind not in readers:
        raise WindlassError("ConfigInvalid", f"config.json: model_type {kind!r} is none of {', '.join(readers)}")
    try:
        return readers[kind](values)
    except KeyError as missing:
        raise WindlassError("DataCorrupt", f"config.json: {missing} is missing") from missing
    except ValidationError as error:
        wrong = "; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())
        raise WindlassError("DataCorrupt", f"config.json: {wrong}") from error


def _read_gpt2(values: dict[str, Any]) -> ModelConfig:
    activation = values.get("activation_function", "gelu_new")
    _check_allowed(
        activation_function=(activation, tuple(ACTIVATIONS)),
        scale_attn_weights=(values.get("scale_attn_weights", True), (True,)),
        scale_attn_by_inverse_layer_idx=(values.get("scale_attn_by_inverse_layer_idx", False), (False,)),
        add_cross_attention=(values.get("add_cross_attention", False), (False,)),
    )
    return ModelConfig(
        layers=values["n_layer"],
        heads=values["n_head"],
        kv_heads=values["n_head"],
        hidden_size=values["n_embd"],
        intermediate_size=values.get("n_inner") or 4 * values["n_embd"],
        context_length=values["n_positions"],
        vocab_size=values["vocab_size"],
        norm="LayerNorm",
        norm_epsilon=float(values.get("layer_norm_epsilon", 1e-5)),
        position="Learned",
        activation="GELU" if ACTIVATIONS[activation] == "GELU" else "GELUTanh",
        bias=True,
        qkv_bias=True,
        tie_embeddings=values.get("tie_word_embeddings", True),
        dropout=float(values.get("resid_pdrop", 0.1)),
    )


def _read_llama(values: dict[str, Any]) -> ModelConfig:
    kind, heads, hidden_size = values["model_type"], values["num_attention_heads"], values["hidden_size"]
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    bias = values.get("mlp_bias", False)
    _check_allowed(
        hidden_act=(values.get("hidden_act", "silu"), ("silu",)),
        head_dim=(values.get("head_dim"), (None, hidden_size // heads)),
        attention_bias=(values.get("attention_bias", False), (bias,)),
        use_sliding_window=(values.get("use_sliding_window", False), (False,)),
        rope_type=(rope.get("rope_type", rope.get("type", "default")), ("default",)),
    )
    return ModelConfig(
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        hidden_size=hidden_size,
        intermediate_size=values["intermediate_size"],
        context_length=values["max_position_embeddings"],
        vocab_size=values["vocab_size"],
        norm="RMSNorm",
        norm_epsilon=float(values.get("rms_norm_eps", 1e-6)),
        position="Rotary",
        rope_theta=float(rope.get("rope_theta") or values.get("rope_theta") or 10000.0),
        activation="SwiGLU",
        bias=bias,
        qkv_bias=bias or kind == "qwen2",
        tie_embeddings=values.get("tie_word_embeddings", False),
        dropout=float(values.get("attention_dropout", 0.0)),
        sliding_window=values.get("sliding_window") if kind == "mistral" else None,
    )


def _check_allowed(**fields: tuple[Any, tuple[Any, ...]]) -> None:
    for field, (value, allowed) in fields.items():
        if value not in allowed:
            here = " or ".join(map(str, allowed))
            raise WindlassError(
                "ConfigInvalid", f"config.json: {field} is {value}; the decoder of this model has {here}"
            )
