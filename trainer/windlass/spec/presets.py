"""Which architectures have a name: the table of presets, and how a job's model becomes one concrete configuration.

To add a preset, add a row to `PRESETS`. Sizes are the published ones; `source` says where.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict

from windlass.errors import WindlassError
from windlass.spec.job import JobSpec, Model, RopeScaling, SpecModel


class ModelConfig(SpecModel):
    """An architecture with every choice made: what `windlass.models` builds from. Fields as in `ModelOverrides`."""

    model_config = ConfigDict(frozen=True)

    layers: int
    heads: int
    kv_heads: int
    hidden_size: int
    head_size: int | None = None
    intermediate_size: int
    context_length: int
    vocab_size: int
    norm: Literal["LayerNorm", "RMSNorm"]
    norm_epsilon: float = 1e-5
    position: Literal["Learned", "Rotary"]
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rotary_fraction: float = 1.0
    activation: Literal["GELU", "GELUTanh", "SwiGLU", "GeGLU"]
    bias: bool
    qkv_bias: bool
    output_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    parallel_block: bool = False
    scale_embeddings: bool = False
    tie_embeddings: bool
    dropout: float = 0.0
    sliding_window: int | None = None
    global_attention_every: int | None = None
    local_rope_theta: float | None = None
    attention_scalar: float | None = None
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    theirs: dict[str, Any] | None = None
    """config.json of an architecture that transformers has and the decoder is not; the rest is its sizes."""
    custom: str | None = None
    """The user's function that makes the model, whose sizes nobody knows."""

    @property
    def head_width(self) -> int:
        """Width of a head, given or not."""
        return self.head_size or self.hidden_size // self.heads

    @property
    def rotary_size(self) -> int:
        """How much of a head's width is rotated."""
        return int(self.head_width * self.rotary_fraction)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a third matrix, that of its gate."""
        return self.activation in ("SwiGLU", "GeGLU")

    def window(self, layer: int) -> int | None:
        """How many tokens a layer attends to; None: all."""
        every = self.global_attention_every
        return None if every and (layer + 1) % every == 0 else self.sliding_window


@dataclass(frozen=True)
class Preset:
    """A named architecture with its published vocabulary, the tokenizer a job gets by default, and the source."""

    config: ModelConfig
    tokenizer: str
    source: str


TOKENIZERS = {"bytes": 257, "gpt2": 50257, "r50k_base": 50257, "cl100k_base": 100277, "o200k_base": 200019}
"""Tokenizers with a name of their own, and their vocabulary; bytes has 256 and the end of a document."""

GPT2_PAPER = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, table 2"
GPT3_PAPER = "Brown et al. 2020, arXiv:2005.14165, table 2.1; with dense attention in every layer"
GPT3_XL = f"{GPT3_PAPER}; 16 heads, since the table's 24 of 128 are not its width"
GPT3_13B = f"{GPT3_PAPER}; 5120 wide, since the table's 5140 is not 40 heads of 128"
LLAMA1_PAPER = "Touvron et al. 2023, LLaMA, arXiv:2302.13971, table 2"
LLAMA2_PAPER = "Touvron et al. 2023, Llama 2, arXiv:2307.09288"
LLAMA3_PAPER = "Grattafiori et al. 2024, The Llama 3 Herd of Models, arXiv:2407.21783, table 3"
LLAMA31_CARD = "Llama 3.1 model card, Meta 2024; arXiv:2407.21783, table 3"
LLAMA32_CARD = "Llama 3.2 model card, Meta 2024; before its context was extended by scaled rotary frequencies"
LLAMA32_LONG = "Llama 3.2 model card, Meta 2024"
MISTRAL_PAPER = "Jiang et al. 2023, Mistral 7B, arXiv:2310.06825, table 1"
NEMO_CARD = "Mistral NeMo model card, Mistral AI 2024"
PHI1_PAPER = "Gunasekar et al. 2023, Textbooks Are All You Need, arXiv:2306.11644, section 2.3"
PHI15_PAPER = "Li et al. 2023, Textbooks Are All You Need II, arXiv:2309.05463, section 2.1"
PHI2_CARD = "Phi-2 model card, Microsoft 2023"
PHI3_PAPER = "Abdin et al. 2024, Phi-3, arXiv:2404.14219, section 2; the context of 4K"
PHI4_PAPER = "Abdin et al. 2024, Phi-4, arXiv:2412.08905, section 3"
QWEN25_PAPER = "Qwen Team 2024, Qwen2.5, arXiv:2412.15115, table 1, and its model cards"
QWEN3_PAPER = "Qwen Team 2025, Qwen3, arXiv:2505.09388, table 1, and its model cards"
GEMMA_PAPER = "Gemma Team 2024, Gemma, arXiv:2403.08295, table 1"
GEMMA2_PAPER = "Gemma Team 2024, Gemma 2, arXiv:2408.00118, table 1"
GEMMA3_PAPER = "Gemma Team 2025, Gemma 3, arXiv:2503.19786, table 1, and its model cards; the text decoder"
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
    chosen: dict[str, Any] = {"activation": "SwiGLU", "qkv_bias": False} | fields
    return ModelConfig(
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        norm="RMSNorm",
        position="Rotary",
        bias=False,
        tie_embeddings=tied,
        **chosen,
    )


def _gpt3(layers: int, heads: int, hidden_size: int) -> ModelConfig:
    return _gpt2(layers, heads, hidden_size, context_length=2048)


def _phi(layers: int, hidden_size: int, rotary_fraction: float) -> ModelConfig:
    """Phi-1 to Phi-2: 32 heads, and attention beside the feed-forward layer."""
    return ModelConfig(
        layers=layers,
        heads=32,
        kv_heads=32,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        context_length=2048,
        vocab_size=51200,
        norm="LayerNorm",
        position="Rotary",
        rotary_fraction=rotary_fraction,
        activation="GELUTanh",
        bias=True,
        qkv_bias=True,
        output_bias=True,
        parallel_block=True,
        tie_embeddings=False,
    )


def _qwen2(*sizes: int, **fields: Any) -> ModelConfig:
    """Llama with biases at queries, keys and values."""
    return _llama(*sizes, **({"vocab_size": 152064, "context_length": 131072} | _QWEN | {"qkv_bias": True} | fields))


def _qwen3(*sizes: int, **fields: Any) -> ModelConfig:
    """Llama with normalised queries and keys, and heads of 128."""
    layers, heads, kv_heads, hidden_size, intermediate_size = sizes
    own = None if heads * 128 == hidden_size else 128
    chosen = {"vocab_size": 151936, "context_length": 40960, "head_size": own, "qk_norm": True} | _QWEN | fields
    return _llama(layers, heads, kv_heads, hidden_size, intermediate_size, **chosen)


def _gemma(*sizes: int, head_size: int = 256, **fields: Any) -> ModelConfig:
    """Llama with GeGLU, scaled and tied embeddings, and heads of their own width."""
    layers, heads, kv_heads, hidden_size, intermediate_size = sizes
    chosen = {"vocab_size": 256000, "context_length": 8192, "norm_epsilon": 1e-6} | fields
    own = None if heads * head_size == hidden_size else head_size
    chosen |= {"head_size": own, "activation": "GeGLU", "scale_embeddings": True}
    return _llama(layers, heads, kv_heads, hidden_size, intermediate_size, tied=True, **chosen)


def _gemma2(*sizes: int, **fields: Any) -> ModelConfig:
    """Gemma with norms after the sub-layers too, capped scores and logits, and a window in every second layer."""
    chosen = {"post_norms": True, "sliding_window": 4096, "global_attention_every": 2}
    return _gemma(*sizes, **chosen, attention_softcap=50.0, logit_softcap=30.0, **fields)


def _gemma3(*sizes: int, window: int, **fields: Any) -> ModelConfig:
    """Gemma 2 with normalised queries and keys in place of caps, and five layers with a window for one without."""
    chosen: dict[str, Any] = {"vocab_size": 262208, "context_length": 131072, "rope_scaling": _GEMMA3_ROPE} | fields
    chosen |= {"post_norms": True, "qk_norm": True, "sliding_window": window, "global_attention_every": 6}
    return _gemma(*sizes, rope_theta=1e6, local_rope_theta=1e4, **chosen)


def _llama31(factor: float) -> RopeScaling:
    return RopeScaling(type="Llama3", factor=factor, original_context_length=8192)


_LLAMA1: dict[str, Any] = {"context_length": 2048, "vocab_size": 32000, "norm_epsilon": 1e-6}
_LLAMA2: dict[str, Any] = {"context_length": 4096, "vocab_size": 32000}
_LLAMA3: dict[str, Any] = {"context_length": 8192, "vocab_size": 128256, "rope_theta": 500000.0}
_LLAMA31: dict[str, Any] = _LLAMA3 | {"context_length": 131072, "rope_scaling": _llama31(8.0)}
_LLAMA32: dict[str, Any] = _LLAMA31 | {"rope_scaling": _llama31(32.0)}
_MISTRAL: dict[str, Any] = {"context_length": 32768, "vocab_size": 32000, "sliding_window": 4096}
_NEMO: dict[str, Any] = {"context_length": 131072, "vocab_size": 131072, "rope_theta": 1e6, "head_size": 128}
_PHI3: dict[str, Any] = {"context_length": 4096, "vocab_size": 32064, "sliding_window": 2047}
_PHI4: dict[str, Any] = {"context_length": 16384, "vocab_size": 100352, "rope_theta": 250000.0}
_QWEN: dict[str, Any] = {"rope_theta": 1e6, "norm_epsilon": 1e-6}
_QWEN_SMALL: dict[str, Any] = {"tied": True, "vocab_size": 151936, "context_length": 32768}
_GEMMA3_ROPE = RopeScaling(type="Linear", factor=8.0)
_GEMMA3_SMALL: dict[str, Any] = {"vocab_size": 262144, "context_length": 32768, "window": 512, "rope_scaling": None}
_BYTES: dict[str, Any] = {"context_length": 256, "vocab_size": TOKENIZERS["bytes"]}

# Tokenizers of these families are files of the hub. The default is the nearest of those that need no account: that of
# GPT-2, which Phi's extends; cl100k_base, which those of Llama 3, Qwen and Phi-4 are made of; for Gemma, the largest.
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
    "gpt3-125m": Preset(_gpt3(12, 12, 768), "gpt2", GPT3_PAPER),
    "gpt3-350m": Preset(_gpt3(24, 16, 1024), "gpt2", GPT3_PAPER),
    "gpt3-760m": Preset(_gpt3(24, 16, 1536), "gpt2", GPT3_PAPER),
    "gpt3-1.3b": Preset(_gpt3(24, 16, 2048), "gpt2", GPT3_XL),
    "gpt3-2.7b": Preset(_gpt3(32, 32, 2560), "gpt2", GPT3_PAPER),
    "gpt3-6.7b": Preset(_gpt3(32, 32, 4096), "gpt2", GPT3_PAPER),
    "gpt3-13b": Preset(_gpt3(40, 40, 5120), "gpt2", GPT3_13B),
    "gpt3-175b": Preset(_gpt3(96, 96, 12288), "gpt2", GPT3_PAPER),
    "llama-tiny": Preset(_llama(4, 4, 2, 128, 384, tied=True, **_BYTES), "bytes", OWN_SIZE),
    "llama-1b": Preset(_llama(16, 32, 8, 2048, 8192, tied=True, **_LLAMA3), "cl100k_base", LLAMA32_CARD),
    "llama-3b": Preset(_llama(28, 24, 8, 3072, 8192, tied=True, **_LLAMA3), "cl100k_base", LLAMA32_CARD),
    "llama-7b": Preset(_llama(32, 32, 32, 4096, 11008, **_LLAMA2), "cl100k_base", LLAMA2_PAPER),
    "llama-8b": Preset(_llama(32, 32, 8, 4096, 14336, **_LLAMA3), "cl100k_base", LLAMA3_PAPER),
    "llama-13b": Preset(_llama(40, 40, 40, 5120, 13824, **_LLAMA2), "cl100k_base", LLAMA2_PAPER),
    "llama-70b": Preset(_llama(80, 64, 8, 8192, 28672, **_LLAMA3), "cl100k_base", LLAMA3_PAPER),
    "llama1-7b": Preset(_llama(32, 32, 32, 4096, 11008, **_LLAMA1), "cl100k_base", LLAMA1_PAPER),
    "llama1-13b": Preset(_llama(40, 40, 40, 5120, 13824, **_LLAMA1), "cl100k_base", LLAMA1_PAPER),
    "llama1-33b": Preset(_llama(60, 52, 52, 6656, 17920, **_LLAMA1), "cl100k_base", LLAMA1_PAPER),
    "llama1-65b": Preset(_llama(80, 64, 64, 8192, 22016, **_LLAMA1), "cl100k_base", LLAMA1_PAPER),
    "llama2-70b": Preset(_llama(80, 64, 8, 8192, 28672, **_LLAMA2), "cl100k_base", LLAMA2_PAPER),
    "llama3.1-8b": Preset(_llama(32, 32, 8, 4096, 14336, **_LLAMA31), "cl100k_base", LLAMA31_CARD),
    "llama3.1-70b": Preset(_llama(80, 64, 8, 8192, 28672, **_LLAMA31), "cl100k_base", LLAMA31_CARD),
    "llama3.1-405b": Preset(_llama(126, 128, 8, 16384, 53248, **_LLAMA31), "cl100k_base", LLAMA31_CARD),
    "llama3.2-1b": Preset(_llama(16, 32, 8, 2048, 8192, tied=True, **_LLAMA32), "cl100k_base", LLAMA32_LONG),
    "llama3.2-3b": Preset(_llama(28, 24, 8, 3072, 8192, tied=True, **_LLAMA32), "cl100k_base", LLAMA32_LONG),
    "mistral-7b": Preset(_llama(32, 32, 8, 4096, 14336, **_MISTRAL), "cl100k_base", MISTRAL_PAPER),
    "mistral-nemo-12b": Preset(_llama(40, 32, 8, 5120, 14336, **_NEMO), "cl100k_base", NEMO_CARD),
    "phi-1": Preset(_phi(24, 2048, 0.5), "gpt2", PHI1_PAPER),
    "phi-1.5": Preset(_phi(24, 2048, 0.5), "gpt2", PHI15_PAPER),
    "phi-2": Preset(_phi(32, 2560, 0.4), "gpt2", PHI2_CARD),
    "phi-3-mini": Preset(_llama(32, 32, 32, 3072, 8192, **_PHI3), "cl100k_base", PHI3_PAPER),
    "phi-4": Preset(_llama(40, 40, 10, 5120, 17920, **_PHI4), "cl100k_base", PHI4_PAPER),
    "qwen2.5-0.5b": Preset(_qwen2(24, 14, 2, 896, 4864, **_QWEN_SMALL), "cl100k_base", QWEN25_PAPER),
    "qwen2.5-1.5b": Preset(_qwen2(28, 12, 2, 1536, 8960, **_QWEN_SMALL), "cl100k_base", QWEN25_PAPER),
    "qwen2.5-3b": Preset(_qwen2(36, 16, 2, 2048, 11008, **_QWEN_SMALL), "cl100k_base", QWEN25_PAPER),
    "qwen2.5-7b": Preset(_qwen2(28, 28, 4, 3584, 18944), "cl100k_base", QWEN25_PAPER),
    "qwen2.5-14b": Preset(_qwen2(48, 40, 8, 5120, 13824), "cl100k_base", QWEN25_PAPER),
    "qwen2.5-32b": Preset(_qwen2(64, 40, 8, 5120, 27648), "cl100k_base", QWEN25_PAPER),
    "qwen2.5-72b": Preset(_qwen2(80, 64, 8, 8192, 29568), "cl100k_base", QWEN25_PAPER),
    "qwen3-0.6b": Preset(_qwen3(28, 16, 8, 1024, 3072, tied=True), "cl100k_base", QWEN3_PAPER),
    "qwen3-1.7b": Preset(_qwen3(28, 16, 8, 2048, 6144, tied=True), "cl100k_base", QWEN3_PAPER),
    "qwen3-4b": Preset(_qwen3(36, 32, 8, 2560, 9728, tied=True), "cl100k_base", QWEN3_PAPER),
    "qwen3-8b": Preset(_qwen3(36, 32, 8, 4096, 12288), "cl100k_base", QWEN3_PAPER),
    "qwen3-14b": Preset(_qwen3(40, 40, 8, 5120, 17408), "cl100k_base", QWEN3_PAPER),
    "qwen3-32b": Preset(_qwen3(64, 64, 8, 5120, 25600), "cl100k_base", QWEN3_PAPER),
    "gemma-2b": Preset(_gemma(18, 8, 1, 2048, 16384), "o200k_base", GEMMA_PAPER),
    "gemma-7b": Preset(_gemma(28, 16, 16, 3072, 24576), "o200k_base", GEMMA_PAPER),
    "gemma2-2b": Preset(_gemma2(26, 8, 4, 2304, 9216), "o200k_base", GEMMA2_PAPER),
    "gemma2-9b": Preset(_gemma2(42, 16, 8, 3584, 14336), "o200k_base", GEMMA2_PAPER),
    "gemma2-27b": Preset(
        _gemma2(46, 32, 16, 4608, 36864, head_size=128, attention_scalar=144.0), "o200k_base", GEMMA2_PAPER
    ),
    "gemma3-270m": Preset(_gemma3(18, 4, 1, 640, 2048, **_GEMMA3_SMALL), "o200k_base", GEMMA3_PAPER),
    "gemma3-1b": Preset(_gemma3(26, 4, 1, 1152, 6912, **_GEMMA3_SMALL), "o200k_base", GEMMA3_PAPER),
    "gemma3-4b": Preset(_gemma3(34, 8, 4, 2560, 10240, window=1024), "o200k_base", GEMMA3_PAPER),
    "gemma3-12b": Preset(_gemma3(48, 16, 8, 3840, 15360, window=1024), "o200k_base", GEMMA3_PAPER),
    "gemma3-27b": Preset(
        _gemma3(62, 32, 16, 5376, 21504, window=1024, head_size=128, attention_scalar=168.0),
        "o200k_base",
        GEMMA3_PAPER,
    ),
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


def custom_config(model: Model, vocab_size: int, context_length: int) -> ModelConfig:
    """What is known of the user's own model."""
    return ModelConfig(
        layers=0,
        heads=1,
        kv_heads=1,
        hidden_size=0,
        intermediate_size=0,
        context_length=context_length,
        vocab_size=vocab_size,
        norm="LayerNorm",
        position="Learned",
        activation="GELU",
        bias=True,
        qkv_bias=True,
        tie_embeddings=True,
        custom=model.custom,
    )


def tokenizer_name(spec: JobSpec) -> str:
    """The tokenizer a job asks for, or else its preset's; bytes where there is no preset."""
    preset = PRESETS.get(spec.model.preset or "")
    return spec.tokenizer or (preset.tokenizer if preset else "bytes")
