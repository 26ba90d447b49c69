"""Which architectures have a name: the table of presets, and how a job's model becomes one concrete configuration.

To add a preset, add a row to `PRESETS`. Sizes are the published ones; `source` says where.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict

from windlass.errors import WindlassError
from windlass.spec.job import JobSpec, Model, SpecModel


class ModelConfig(SpecModel):
    """An architecture with every choice made: what `windlass.models` builds from. Fields as in `ModelOverrides`."""

    model_config = ConfigDict(frozen=True)

    layers: int
    heads: int
    kv_heads: int
    hidden_size: int
    intermediate_size: int
    context_length: int
    vocab_size: int
    norm: Literal["LayerNorm", "RMSNorm"]
    norm_epsilon: float = 1e-5
    position: Literal["Learned", "Rotary"]
    rope_theta: float = 10000.0
    activation: Literal["GELU", "GELUTanh", "SwiGLU"]
    bias: bool
    qkv_bias: bool
    tie_embeddings: bool
    dropout: float = 0.0
    sliding_window: int | None = None


@dataclass(frozen=True)
class Preset:
    """A named architecture with its published vocabulary, the tokenizer a job gets by default, and the source."""

    config: ModelConfig
    tokenizer: str
    source: str


TOKENIZERS = {"bytes": 257, "gpt2": 50257, "r50k_base": 50257, "cl100k_base": 100277, "o200k_base": 200019}
"""Tokenizers with a name of their own, and their vocabulary; bytes has 256 and the end of a document."""

GPT2_PAPER = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, table 2"
LLAMA2_PAPER = "Touvron et al. 2023, Llama 2, arXiv:2307.09288"
LLAMA3_PAPER = "Grattafiori et al. 2024, The Llama 3 Herd of Models, arXiv:2407.21783, table 3"
LLAMA32_CARD = "Llama 3.2 model card, Meta 2024; before its context was extended by scaled rotary frequencies"
OWN_SIZE = "a size for CPUs, Windlass's own"


def _gpt2(layers: int, heads: int, hidden_size: int, **changes: Any) -> ModelConfig:
    """GPT-2; without dropout, which pretraining in one pass over the data does better without."""
    fields: dict[str, Any] = {
        "context_length": 1024,
        "vocab_size": 50257,
        "activation": "GELUTanh",
        "bias": True,
    } | changes
    return ModelConfig(
        layers=layers,
        heads=heads,
        kv_heads=heads,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        norm="LayerNorm",
        position="Learned",
        qkv_bias=fields["bias"],
        tie_embeddings=True,
        **fields,
    )


def _llama(
    layers: int,
    heads: int,
    kv_heads: int,
    hidden_size: int,
    intermediate_size: int,
    *,
    tied: bool = False,
    **fields: Any,
) -> ModelConfig:
    return ModelConfig(
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        norm="RMSNorm",
        position="Rotary",
        activation="SwiGLU",
        bias=False,
        qkv_bias=False,
        tie_embeddings=tied,
        **fields,
    )


_LLAMA2: dict[str, Any] = {"context_length": 4096, "vocab_size": 32000}
_LLAMA3: dict[str, Any] = {"context_length": 8192, "vocab_size": 128256, "rope_theta": 500000.0}
_BYTES: dict[str, Any] = {"context_length": 256, "vocab_size": TOKENIZERS["bytes"]}

# Llama's own tokenizers are gated. Llama 3's extends cl100k_base (section 3.2 of its paper), which is the default here.
PRESETS: dict[str, Preset] = {
    "gpt2-small": Preset(_gpt2(12, 12, 768), "gpt2", GPT2_PAPER),
    "gpt2-medium": Preset(_gpt2(24, 16, 1024), "gpt2", GPT2_PAPER),
    "gpt2-large": Preset(_gpt2(36, 20, 1280), "gpt2", GPT2_PAPER),
    "gpt2-xl": Preset(_gpt2(48, 25, 1600), "gpt2", GPT2_PAPER),
    "gpt2-tiny": Preset(_gpt2(4, 4, 128, **_BYTES), "bytes", OWN_SIZE),
    "gpt2-nano": Preset(
        _gpt2(4, 4, 128, context_length=64, vocab_size=TOKENIZERS["bytes"], activation="GELU", bias=False),
        "bytes",
        "nanoGPT's README, the setting for CPUs: github.com/karpathy/nanoGPT",
    ),
    "llama-tiny": Preset(_llama(4, 4, 2, 128, 384, tied=True, **_BYTES), "bytes", OWN_SIZE),
    "llama-1b": Preset(_llama(16, 32, 8, 2048, 8192, tied=True, **_LLAMA3), "cl100k_base", LLAMA32_CARD),
    "llama-3b": Preset(_llama(28, 24, 8, 3072, 8192, tied=True, **_LLAMA3), "cl100k_base", LLAMA32_CARD),
    "llama-7b": Preset(_llama(32, 32, 32, 4096, 11008, **_LLAMA2), "cl100k_base", LLAMA2_PAPER),
    "llama-8b": Preset(_llama(32, 32, 8, 4096, 14336, **_LLAMA3), "cl100k_base", LLAMA3_PAPER),
    "llama-13b": Preset(_llama(40, 40, 40, 5120, 13824, **_LLAMA2), "cl100k_base", LLAMA2_PAPER),
    "llama-70b": Preset(_llama(80, 64, 8, 8192, 28672, **_LLAMA3), "cl100k_base", LLAMA3_PAPER),
}


def model_config(model: Model, vocab_size: int) -> ModelConfig:
    """The architecture of `model`, a preset with its overrides, for a tokenizer of `vocab_size` entries.

    What hangs together stays so: without an override of its own, intermediateSize keeps the preset's ratio to
    hiddenSize, kvHeads its ratio to heads, and qkvBias goes with bias.

    Raises:
        WindlassError: ConfigInvalid, when the model names no known preset, or its vocabSize is below the tokenizer's.
    """
    if model.preset not in PRESETS:
        raise WindlassError("ConfigInvalid", f"spec.model.preset: {model.preset!r} is none of {', '.join(PRESETS)}")
    base = PRESETS[model.preset].config
    chosen = model.config.model_dump(by_alias=False, exclude_none=True)
    heads = chosen.get("heads", base.heads)
    hidden_size = chosen.get("hidden_size", base.hidden_size)
    following = {
        "vocab_size": vocab_size,
        "kv_heads": max(1, heads * base.kv_heads // base.heads),
        "intermediate_size": max(1, hidden_size * base.intermediate_size // base.hidden_size),
        "qkv_bias": chosen.get("bias", base.qkv_bias),
    }
    config = ModelConfig(**(base.model_dump(by_alias=False) | following | chosen))
    if config.vocab_size < vocab_size:
        raise WindlassError(
            "ConfigInvalid",
            f"spec.model.config.vocabSize: {config.vocab_size} is below the tokenizer's vocabulary, {vocab_size}",
        )
    return config


def tokenizer_name(spec: JobSpec) -> str:
    """The tokenizer a job asks for, or else its preset's; bytes where there is no preset."""
    preset = PRESETS.get(spec.model.preset or "")
    return spec.tokenizer or (preset.tokenizer if preset else "bytes")
