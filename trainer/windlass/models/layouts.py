"""How Hugging Face's files name weights: for each of our modules theirs, and how one is cut out of the other.

A family of architectures names its layout in `windlass.models.families`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from windlass.spec.presets import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Names of weights: our module's, without the block's prefix -> theirs; several where ours is theirs stacked."""

    base: str
    """Prefix of all but the head; files of a model without head lack it."""
    block: str
    """Prefix of a block, after `base`."""
    names: dict[str, tuple[str, ...]]
    transposed: bool = False
    """Matrices of the blocks are stored [in, out] (GPT-2's Conv1D)."""
    unit_norms: bool = False
    """Norms are stored less 1 (Gemma multiplies by 1 + weight)."""
    computed: tuple[str, ...] = (".rotary_emb.inv_freq",)
    """Endings of entries in older files that are no weights."""


@dataclass(frozen=True)
class Part:
    """Where their files hold some rows of a weight of ours."""

    name: str
    rows: int
    """Rows of ours that it holds; ours are its parts, one after the other."""
    first: int
    """The first of those, in theirs."""
    shape: tuple[int, ...]
    """Theirs, as stored."""
    transposed: bool
    offset: float
    """What ours is more than theirs."""

    def of(self, stored: "Tensor") -> "Tensor":
        """This part of their tensor, a view with the orientation of ours."""
        return (stored.T if self.transposed else stored)[self.first : self.first + self.rows]


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
_LLAMA = {
    "token_embedding": ("embed_tokens",),
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.query_norm": ("self_attn.q_norm",),
    "attention.key_norm": ("self_attn.k_norm",),
    "attention.output": ("self_attn.o_proj",),
    "feed_forward_norm": ("post_attention_layernorm",),
    "feed_forward.gate": ("mlp.gate_proj",),
    "feed_forward.up": ("mlp.up_proj",),
    "feed_forward.down": ("mlp.down_proj",),
    "norm": ("norm",),
}
LLAMA = Layout(base="model.", block="layers.", names=_LLAMA)
PHI = Layout(
    base="model.",
    block="layers.",
    names=_LLAMA
    | {
        "attention.query_norm": ("self_attn.q_layernorm",),
        "attention.key_norm": ("self_attn.k_layernorm",),
        "attention.output": ("self_attn.dense",),
        "feed_forward.up": ("mlp.fc1",),
        "feed_forward.down": ("mlp.fc2",),
        "norm": ("final_layernorm",),
    },
)
PHI3 = Layout(
    base="model.",
    block="layers.",
    names=_LLAMA
    | {
        "attention.qkv": ("self_attn.qkv_proj",),
        "feed_forward.gate": ("mlp.gate_up_proj",),
        "feed_forward.up": ("mlp.gate_up_proj",),
    },
)
GEMMA = Layout(base="model.", block="layers.", names=_LLAMA, unit_norms=True)
GEMMA2 = Layout(
    base="model.",
    block="layers.",
    names=_LLAMA
    | {
        "attention_post_norm": ("post_attention_layernorm",),
        "feed_forward_norm": ("pre_feedforward_layernorm",),
        "feed_forward_post_norm": ("post_feedforward_layernorm",),
    },
    unit_norms=True,
)
HEAD = "lm_head."


def parts(layout: Layout, config: ModelConfig, name: str, weight: "Tensor") -> Iterator[Part]:
    """Where the files of a configuration hold our `weight`, in the order of our rows."""
    module, _, kind = name.rpartition(".")
    if module == "output":
        yield Part(HEAD + kind, len(weight), 0, tuple(weight.shape), transposed=False, offset=0.0)
        return
    prefix, transposed = layout.base, False
    if module.startswith("blocks."):
        _, layer, module = module.split(".", 2)
        prefix += f"{layout.block}{layer}."
        transposed = layout.transposed and weight.ndim == 2
    offset = 1.0 if layout.unit_norms and module.endswith("norm") else 0.0
    names = layout.names[module]
    pair = config.kv_heads * config.head_width
    counts = [len(weight) - 2 * pair, pair, pair] if len(names) == 3 else [len(weight)]
    stacked = [ours for ours, theirs in layout.names.items() if theirs == names]  # several of ours in one of theirs
    for their_name, count in zip(names, counts, strict=True):
        shape = (len(stacked) * count, *weight.shape[1:])
        first = stacked.index(module) * count
        stored = shape[::-1] if transposed else shape
        yield Part(f"{prefix}{their_name}.{kind}", count, first, stored, transposed, offset)
