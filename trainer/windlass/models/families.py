"""What Hugging Face's config.json says of each family of architectures that the decoder can be.

To add a family, add it to `FAMILIES`, and a `Layout` where its weights have other names. A model is exported as the
first family whose config.json, read back, is the model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from windlass.errors import WindlassError
from windlass.models.layouts import GEMMA, GEMMA2, GPT2, LLAMA, PHI, PHI3, Layout
from windlass.spec.job import RopeScaling
from windlass.spec.presets import ModelConfig

Values = dict[str, Any]
Fields = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Family:
    """One of transformers' architectures, and how its configuration says ours."""

    name: str
    architecture: str
    layout: Layout
    fields: Fields
    """Ours -> theirs of the same value."""
    activations: dict[str, str]
    """Theirs -> ours; the first is what is written."""
    always: Values
    """Ours that it has one way of; a bias that a model lacks is zeros."""
    defaults: Values
    """Theirs, where config.json leaves them out; or a function of the others."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Theirs that the decoder has some ways of, or one; the first is the default, and what is written."""
    activation: str = "hidden_act"
    """Their name of the activation."""
    theta: float = 10000.0
    """Where config.json leaves it out."""
    local_theta: float | None = None
    """Where config.json leaves it out; None: layers with a window rotate like the others."""
    rotary_fraction: float | None = None
    """Where config.json leaves it out; None: heads are rotated whole."""
    scales: bool = True
    """Whether it has scaled frequencies, of the kinds here."""
    global_attention_every: int | None = None
    """Where config.json leaves out the layers' types."""


SIZES: Fields = {
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",),
    "hidden_size": ("hidden_size",),
    "intermediate_size": ("intermediate_size",),
    "context_length": ("max_position_embeddings",),
    "vocab_size": ("vocab_size",),
    "tie_embeddings": ("tie_word_embeddings",),
    "dropout": ("attention_dropout",),
    "norm_epsilon": ("rms_norm_eps",),
}
HEAD_SIZE: Fields = {"head_size": ("head_dim",)}
WINDOW: Fields = {"sliding_window": ("sliding_window",)}
SOFTCAP: Fields = {"logit_softcap": ("final_logit_softcapping",), "attention_scalar": ("query_pre_attn_scalar",)}
DROPOUTS: Fields = {"dropout": ("resid_pdrop", "embd_pdrop", "attention_dropout")}
SILU = {"silu": "SwiGLU"}
GELU = {"gelu_new": "GELUTanh", "gelu_pytorch_tanh": "GELUTanh", "gelu": "GELU"}
GEGLU = {"gelu_pytorch_tanh": "GeGLU", "gelu": "GeGLU"}  # "gelu" in Gemma's first files means the approximation
NO_BIAS = {"bias": False, "qkv_bias": False}
ROTARY_RMS = {"norm": "RMSNorm", "position": "Rotary"}
GEMMAS = ROTARY_RMS | NO_BIAS | {"scale_embeddings": True}


def _defaults(tied: bool, epsilon: float = 1e-6, **others: Any) -> Values:
    """What most of transformers' configurations have where config.json has nothing."""
    return {
        "num_key_value_heads": lambda values: values["num_attention_heads"],
        "tie_word_embeddings": tied,
        "attention_dropout": 0.0,
        "head_dim": None,
        "rms_norm_eps": epsilon,
    } | others


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "GPT-2",
        "GPT2LMHeadModel",
        GPT2,
        fields={
            "layers": ("n_layer",),
            "heads": ("n_head",),
            "kv_heads": ("n_head",),
            "hidden_size": ("n_embd",),
            "intermediate_size": ("n_inner",),
            "context_length": ("n_positions",),
            "vocab_size": ("vocab_size",),
            "tie_embeddings": ("tie_word_embeddings",),
            "dropout": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
            "norm_epsilon": ("layer_norm_epsilon",),
        },
        activations=GELU,
        activation="activation_function",
        always={"norm": "LayerNorm", "position": "Learned", "bias": True, "qkv_bias": True},
        defaults={
            "n_inner": lambda values: 4 * values["n_embd"],
            "tie_word_embeddings": True,
            "resid_pdrop": 0.1,
            "layer_norm_epsilon": 1e-5,
        },
        only={
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
    ),
    "llama": Family(
        "Llama",
        "LlamaForCausalLM",
        LLAMA,
        fields=SIZES | HEAD_SIZE | {"bias": ("mlp_bias", "attention_bias"), "qkv_bias": ("attention_bias",)},
        activations=SILU,
        always=ROTARY_RMS,
        defaults=_defaults(tied=False, attention_bias=False, mlp_bias=False),
    ),
    "mistral": Family(
        "Mistral",
        "MistralForCausalLM",
        LLAMA,
        fields=SIZES | HEAD_SIZE | WINDOW,
        activations=SILU,
        always=ROTARY_RMS | NO_BIAS,
        defaults=_defaults(tied=False, sliding_window=4096),
    ),
    "qwen2": Family(
        "Qwen2",
        "Qwen2ForCausalLM",
        LLAMA,
        fields=SIZES,
        activations=SILU,
        always=ROTARY_RMS | {"bias": False, "qkv_bias": True},
        defaults=_defaults(tied=False),
        only={"use_sliding_window": (False,)},
    ),
    "qwen3": Family(
        "Qwen3",
        "Qwen3ForCausalLM",
        LLAMA,
        fields=SIZES | HEAD_SIZE,
        activations=SILU,
        always=ROTARY_RMS | NO_BIAS | {"qk_norm": True},
        defaults=_defaults(tied=False, head_dim=128),
        only={"use_sliding_window": (False,), "attention_bias": (False,)},
    ),
    "phi": Family(
        "Phi",
        "PhiForCausalLM",
        PHI,
        fields=SIZES | DROPOUTS | {"norm_epsilon": ("layer_norm_eps",), "qk_norm": ("qk_layernorm",)},
        activations=GELU,
        always={
            "norm": "LayerNorm",
            "position": "Rotary",
            "bias": True,
            "qkv_bias": True,
            "output_bias": True,
            "parallel_block": True,
        },
        defaults=_defaults(tied=False, layer_norm_eps=1e-5, qk_layernorm=False, resid_pdrop=0.0),
        only={"tie_word_embeddings": (False,)},
        rotary_fraction=0.5,
    ),
    "phi3": Family(
        "Phi-3",
        "Phi3ForCausalLM",
        PHI3,
        fields=SIZES | DROPOUTS | WINDOW,
        activations=SILU,
        always=ROTARY_RMS | NO_BIAS,
        defaults=_defaults(tied=False, epsilon=1e-5, resid_pdrop=0.0, sliding_window=None),
        rotary_fraction=1.0,
        scales=False,
    ),
    "gemma": Family(
        "Gemma",
        "GemmaForCausalLM",
        GEMMA,
        fields=SIZES | HEAD_SIZE,
        activations=GEGLU,
        always=GEMMAS,
        defaults=_defaults(tied=True, head_dim=256),
        only={"attention_bias": (False,)},
    ),
    "gemma2": Family(
        "Gemma 2",
        "Gemma2ForCausalLM",
        GEMMA2,
        fields=SIZES | HEAD_SIZE | WINDOW | SOFTCAP | {"attention_softcap": ("attn_logit_softcapping",)},
        activations=GEGLU,
        activation="hidden_activation",
        always=GEMMAS | {"post_norms": True},
        defaults=_defaults(
            tied=True,
            head_dim=256,
            sliding_window=4096,
            query_pre_attn_scalar=256,
            final_logit_softcapping=30.0,
            attn_logit_softcapping=50.0,
        ),
        only={"attention_bias": (False,), "use_bidirectional_attention": (None, False)},
        global_attention_every=2,
    ),
    "gemma3_text": Family(
        "Gemma 3",
        "Gemma3ForCausalLM",
        GEMMA2,
        fields=SIZES | HEAD_SIZE | WINDOW | SOFTCAP,
        activations=GEGLU,
        activation="hidden_activation",
        always=GEMMAS | {"post_norms": True, "qk_norm": True},
        defaults=_defaults(
            tied=True, head_dim=256, sliding_window=4096, query_pre_attn_scalar=256, final_logit_softcapping=None
        ),
        only={
            "attention_bias": (False,),
            "use_bidirectional_attention": (False,),
            "attn_logit_softcapping": (None,),
        },
        theta=1e6,
        local_theta=1e4,
        global_attention_every=6,
    ),
}


def read_config(values: Values) -> ModelConfig:
    """The configuration that a config.json describes; what it leaves out has transformers' defaults.

    Raises:
        WindlassError: ConfigInvalid, for what the decoder does not do; DataCorrupt, for a size missing or of no sense.
    """
    kind = values.get("model_type")
    if kind not in FAMILIES:
        raise WindlassError("ConfigInvalid", f"config.json: model_type {kind!r} is none of {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    try:
        config = ModelConfig(**_read(family, values))
    except KeyError as missing:
        raise WindlassError("DataCorrupt", f"config.json: {missing} is missing") from missing
    except ValidationError as error:
        wrong = "; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())
        raise WindlassError("DataCorrupt", f"config.json: {wrong}") from error
    return _plain(config)


def family_of(config: ModelConfig) -> tuple[str, ModelConfig]:
    """The model_type that computes what a configuration does, and the configuration with the biases it always has.

    Raises:
        WindlassError: ConfigInvalid, naming the fields that the nearest of transformers' architectures lacks.
    """
    nearest: tuple[str, list[str]] | None = None
    for kind, family in FAMILIES.items():
        biases = {name: True for name in ("bias", "qkv_bias", "output_bias") if family.always.get(name)}
        whole = _plain(config).model_copy(update={"qkv_bias": config.qkv_bias or config.bias, **biases})
        back = read_config(_write(kind, whole))
        wrong = [
            f"spec.model.config.{to_camel(name)}: {getattr(whole, name)}, where {family.name} has {getattr(back, name)}"
            for name in ModelConfig.model_fields
            if getattr(whole, name) != getattr(back, name)
        ]
        if not wrong:
            return kind, whole
        if nearest is None or len(wrong) < len(nearest[1]):
            nearest = kind, wrong
    assert nearest
    raise WindlassError("ConfigInvalid", "No architecture of transformers is like this model: " + "; ".join(nearest[1]))


def write_config(config: ModelConfig, end_token: int) -> Values:
    """What config.json says of a model; errors as of `family_of`."""
    return _write(*family_of(config)) | {"bos_token_id": end_token, "eos_token_id": end_token}


def _read(family: Family, values: Values) -> Values:
    for name, allowed in family.only.items():
        _check_allowed(name, values.get(name, allowed[0]), allowed)
    activation = values.get(family.activation) or values.get("hidden_act") or next(iter(family.activations))
    _check_allowed(family.activation, activation, family.activations)
    found = dict(family.always) | {"activation": family.activations[activation]}
    for ours, theirs in family.fields.items():
        value = _value(family, values, theirs[0])
        for name in theirs[1:] if ours != "dropout" else ():
            _check_allowed(name, _value(family, values, name), (value,))
        if value is not None:
            found[ours] = value
    found |= _read_layer_types(family, values, found["layers"])
    if found["position"] == "Rotary":
        found |= _read_rope(family, values)
    return found


def _value(family: Family, values: Values, name: str) -> Any:
    """What config.json says, or else the default; null is None, unless the default depends on other values."""
    default = family.defaults.get(name)
    if values.get(name) is not None or (name in values and not callable(default)):
        return values[name]
    if name not in family.defaults:
        raise KeyError(name)
    return default(values) if callable(default) else default


def _read_layer_types(family: Family, values: Values, layers: int) -> Values:
    """Which layers attend to the whole context."""
    if family.global_attention_every is None:
        return {}
    every = values.get("sliding_window_pattern") or family.global_attention_every
    types = values.get("layer_types")
    if types is not None:
        whole = [number for number, kind in enumerate(types, 1) if kind == "full_attention"]
        every = whole[0] if whole else max(every, layers + 1)
        _check_allowed("layer_types", types, (_layer_types(every, layers),))
    return {"global_attention_every": every}


def _layer_types(every: int, layers: int) -> list[str]:
    return ["sliding_attention" if number % every else "full_attention" for number in range(1, layers + 1)]


def _read_rope(family: Family, values: Values) -> Values:
    """The rotary positions: transformers 5 has all in rope_parameters, 4 some fields beside rope_scaling."""
    rope = values.get("rope_parameters") or {}
    local = rope.get("sliding_attention") or {}
    rope = (rope.get("full_attention") or rope) | (values.get("rope_scaling") or {})
    fraction = rope.get("partial_rotary_factor") or values.get("partial_rotary_factor") or family.rotary_fraction or 1.0
    if family.rotary_fraction is None:
        _check_allowed("partial_rotary_factor", fraction, (1.0,))
    found = {
        "rope_theta": float(rope.get("rope_theta") or values.get("rope_theta") or family.theta),
        "rotary_fraction": float(fraction),
        "rope_scaling": _read_scaling(rope, SCALINGS if family.scales else {}),
    }
    if family.local_theta is not None:
        found["local_rope_theta"] = float(
            local.get("rope_theta") or values.get("rope_local_base_freq") or family.local_theta
        )
    return found


SCALINGS: dict[str, Literal["Linear", "Llama3", "YaRN"]] = {"linear": "Linear", "llama3": "Llama3", "yarn": "YaRN"}
SCALING_FIELDS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "low_freq_factor": "low_frequency_factor",
        "high_freq_factor": "high_frequency_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
    },
}


def _read_scaling(rope: Values, kinds: Iterable[str]) -> RopeScaling | None:
    kind: str = rope.get("rope_type") or rope.get("type") or "default"
    _check_allowed("rope_type", kind, ("default", *kinds))
    if kind == "default":
        return None
    for name, allowed in {"mscale": (None,), "mscale_all_dim": (None,), "truncate": (None, True)}.items():
        _check_allowed(name, rope.get(name), allowed)
    fields = SCALING_FIELDS[kind]
    given = {ours: rope[theirs] for theirs, ours in fields.items() if rope.get(theirs) is not None}
    return RopeScaling(type=SCALINGS[kind], **given)


def _write(kind: str, config: ModelConfig) -> Values:
    """The config.json of a family that comes nearest to a configuration."""
    family = FAMILIES[kind]
    values: Values = {
        "architectures": [family.architecture],
        "model_type": kind,
        "dtype": "float32",
        "initializer_range": 0.02,
        "pad_token_id": None,  # else transformers takes the family's, which may be outside the vocabulary
    }
    for ours, theirs in family.fields.items():
        values = dict.fromkeys(theirs, _written(config, ours)) | values  # of two of ours in one of theirs the first
    values |= {name: allowed[0] for name, allowed in family.only.items()}
    names = {ours: theirs for theirs, ours in reversed(family.activations.items())}
    values[family.activation] = names.get(config.activation, next(iter(family.activations)))
    if family.global_attention_every:
        every = config.global_attention_every or family.global_attention_every
        values |= {"sliding_window_pattern": every, "layer_types": _layer_types(every, config.layers)}
    return values | (_write_rope(family, config) if family.always["position"] == "Rotary" else {})


def _written(config: ModelConfig, name: str) -> Any:
    value = getattr(config, name)
    if name in ("head_size", "attention_scalar"):
        value = value or config.head_width
        return int(value) if value == int(value) else value
    return value or None if "softcap" in name else value


def _write_rope(family: Family, config: ModelConfig) -> Values:
    scaling = config.rope_scaling if family.scales else None
    rope: Values = {"rope_type": "default"}
    if scaling is not None:
        kind = next(theirs for theirs, ours in SCALINGS.items() if ours == scaling.type)
        given = {theirs: getattr(scaling, ours) for theirs, ours in SCALING_FIELDS[kind].items()}
        rope = {"rope_type": kind} | {theirs: value for theirs, value in given.items() if value is not None}
    rope |= {"rope_theta": config.rope_theta}
    values: Values = {"rope_theta": config.rope_theta}
    if family.rotary_fraction is not None:
        values["partial_rotary_factor"] = rope["partial_rotary_factor"] = config.rotary_fraction
    if scaling is not None:
        values["rope_scaling"] = rope
    if family.local_theta is None:
        return values | {"rope_parameters": rope}
    theta = config.local_rope_theta or config.rope_theta
    local = {"rope_type": "default", "rope_theta": theta}
    both = {"full_attention": rope, "sliding_attention": local}
    return values | {"rope_local_base_freq": theta, "rope_parameters": both}


def _plain(config: ModelConfig) -> ModelConfig:
    """The configuration without what says nothing: a head size or a scalar that is the default."""
    width = config.hidden_size / config.heads
    return config.model_copy(
        update={
            "head_size": None if config.head_size == width else config.head_size,
            "attention_scalar": None if config.attention_scalar == config.head_width else config.attention_scalar,
        }
    )


def _check_allowed(name: str, value: Any, allowed: Iterable[Any]) -> None:
    allowed = tuple(allowed)
    if value not in allowed:
        here = " or ".join(map(str, allowed))
        raise WindlassError("ConfigInvalid", f"config.json: {name} is {value}; the decoder of this model has {here}")
