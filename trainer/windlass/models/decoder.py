"""The decoder: one Transformer that is GPT-2, Llama, Phi, Qwen, Gemma or what lies between, by its configuration.

Pre-norm blocks as in Radford et al. 2019 (GPT-2) and Touvron et al. 2023 (Llama); what others changed is named with
them in `windlass.spec.job.ModelOverrides`. Shapes are [batch, length, ...] at
the boundaries of modules and [batch, heads, length, head size] inside attention. No module holds a buffer, so a
decoder built on the meta device is whole after `to_empty` and `initialise`, or after its weights are loaded.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F

from windlass.models.functions import RMSNorm, turn
from windlass.models.rope_scaling import scaled
from windlass.spec.job import RopeScaling
from windlass.spec.presets import ModelConfig

INITIAL_STD = 0.02
"""Standard deviation of initial weights (GPT-2's initializer_range, and Llama's in transformers)."""

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of each position's angles: float32 [length, pairs], or [batch, 1, length, pairs]; a head has at most
head size / 2 pairs."""
GATES: dict[str, Callable[[Tensor], Tensor]] = {"SwiGLU": F.silu, "GeGLU": partial(F.gelu, approximate="tanh")}


class Head(Protocol):
    """What is made of the last hidden states: `output_logits`, or what can be compiled together with them.

    Without a weight, they are logits already.
    """

    def __call__(self, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, softcap: float) -> Tensor: ...


def output_logits(hidden: Tensor, weight: Tensor | None, bias: Tensor | None = None, softcap: float = 0.0) -> Tensor:
    """Logits [batch, length, vocabulary] of hidden [batch, length, hidden] by weight [vocabulary, hidden]."""
    logits = hidden if weight is None else F.linear(hidden, weight, bias)
    return capped(logits, softcap) if softcap else logits


class KeyValueCache:
    """Keys and values of the tokens seen so far, for generation; a layer's memory is taken once, for `capacity` tokens.

    `Decoder.forward` appends to it; `length` is the number of tokens held.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.memory: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values [batch, kv heads, length, head size]; returns all of them so far."""
        if layer not in self.memory:
            batch, heads, _, size = keys.shape  # its dtype is only known here: autocast and FSDP choose it
            self.memory[layer] = (
                keys.new_empty(batch, heads, self.capacity, size),
                values.new_empty(batch, heads, self.capacity, size),
            )
        all_keys, all_values = self.memory[layer]
        end = self.length + keys.shape[2]
        all_keys[:, :, self.length : end] = keys
        all_values[:, :, self.length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]


class Attention(nn.Module):
    """Causal self-attention, multi-head or grouped-query (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.kv_heads = layer, config.heads, config.kv_heads
        self.head_size = config.head_width
        self.dropout = config.dropout
        self.scale = None if config.attention_scalar is None else config.attention_scalar**-0.5
        self.softcap = config.attention_softcap
        projected = (config.heads + 2 * config.kv_heads) * self.head_size
        self.qkv = nn.Linear(config.hidden_size, projected, bias=config.qkv_bias)
        self.output = nn.Linear(config.heads * self.head_size, config.hidden_size, bias=config.bias)
        if config.qk_norm:
            self.query_norm = normalisation(config, self.head_size)
            self.key_norm = normalisation(config, self.head_size)
        self.qk_norm = config.qk_norm

    def forward(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """What each position of x [batch, length, hidden] gathers from those it may see, same shape."""
        batch, length, _ = x.shape
        heads = self.qkv(x).view(batch, length, -1, self.head_size)
        # Split first and transposed then, the gradient is put together in one copy.
        parts = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        if self.qk_norm:
            q, k = self.query_norm(q).type_as(v), self.key_norm(k).type_as(v)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
            if not self.qk_norm:  # whose backward pass needs q and k as they were
                v = v.contiguous()  # as a view it would keep them, too
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        dropout = self.dropout if self.training else 0.0
        causal = mask is None and length > 1  # one token alone sees all that is cached
        if self.softcap:
            mixed = capped_attention(q, k, v, mask, causal, dropout, self.scale, self.softcap)
        else:
            mixed = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=causal,
                scale=self.scale,
                enable_gqa=self.kv_heads != self.heads,
            )
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, -1))
        return output


class FeedForward(nn.Module):
    """Two linear layers around GELU, or the gated units SwiGLU and GeGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        if config.gated:
            self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Each position of x [batch, length, hidden] by itself, same shape."""
        if self.activation in GATES:
            inner = GATES[self.activation](self.gate(x)) * self.up(x)
        else:
            inner = F.gelu(self.up(x), approximate="tanh" if self.activation == "GELUTanh" else "none")
        output: Tensor = self.down(inner)
        return output


class Block(nn.Module):
    """Attention, then the feed-forward layer; each normalised before and added to the residual stream after.

    Parallel, both read what is normalised once (Wang and Komatsuzaki 2021, GPT-J). With post-norms, what they give is
    normalised as well (Gemma Team 2024, Gemma 2, section 2).
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = normalisation(config)
        self.attention = Attention(config, layer)
        if not config.parallel_block:
            self.feed_forward_norm = normalisation(config)
        self.feed_forward = FeedForward(config)
        self.attention_post_norm = normalisation(config) if config.post_norms else nn.Identity()
        self.feed_forward_post_norm = normalisation(config) if config.post_norms else nn.Identity()
        self.parallel = config.parallel_block
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The residual stream [batch, length, hidden] after this block."""
        inner = self.attention_norm(x)
        x = x + self.dropout(self.attention_post_norm(self.attention(inner, rotation, mask, cache)))
        inner = inner if self.parallel else self.feed_forward_norm(x)
        outcome: Tensor = x + self.dropout(self.feed_forward_post_norm(self.feed_forward(inner)))
        return outcome


class Decoder(nn.Module):
    """A causal language model. `blocks` is what sharding, activation checkpointing and compilation act on."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.position == "Learned":
            self.position_embedding = nn.Embedding(config.context_length, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = normalisation(config)
        if not config.tie_embeddings:
            self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=config.output_bias)

    def forward(
        self,
        tokens: Tensor,
        *,
        documents: Tensor | None = None,
        cache: KeyValueCache | None = None,
        last_only: bool = False,
        head: Head = output_logits,
    ) -> Tensor:
        """Logits [batch, length, vocabulary] of the token after each of `tokens` [batch, length].

        Args:
            documents: [batch, cached + length] numbers that differ between neighbouring documents of a sequence.
                Attention then stays within a document and positions start again at each, as if each had been a
                sequence of its own.
            cache: holds the tokens before these; gets these appended.
            last_only: logits of the last position only, [batch, 1, vocabulary].
            head: what to return in place of logits, such as their loss, which can be compiled together with them.

        Raises:
            ValueError: there are more tokens than `contextLength`.
        """
        past = 0 if cache is None else cache.length
        length = tokens.shape[1]
        if past + length > self.config.context_length:
            raise ValueError(f"{past + length} tokens are more than contextLength, {self.config.context_length}")
        positions = torch.arange(past, past + length, device=tokens.device)
        if documents is not None:
            positions = positions_in_documents(documents)[:, past:]
        windows = [self.config.window(layer) for layer in range(self.config.layers)]
        masks = {
            window: attention_mask(length, past, window, documents, tokens.device) for window in dict.fromkeys(windows)
        }
        rotations = {window: self._rotation(positions, window) for window in masks}

        x = self.token_embedding(tokens)
        if self.config.scale_embeddings:
            x = x * math.sqrt(self.config.hidden_size)
        if self.config.position == "Learned":
            x = x + self.position_embedding(positions)
        x = self.dropout(x)
        for block, window in zip(self.blocks, windows, strict=True):
            x = block(x, rotations[window], masks[window], cache)
        if cache is not None:
            cache.length += length
        x = self.norm(x[:, -1:] if last_only else x)
        # A tied output is not a module of its own: `to_empty` and safetensors would take it for a second tensor.
        if self.config.tie_embeddings:
            return head(x, self.token_embedding.weight, None, self.config.logit_softcap)
        return head(x, self.output.weight, self.output.bias, self.config.logit_softcap)

    def _rotation(self, positions: Tensor, window: int | None) -> Rotation | None:
        """The angles in layers that attend to `window`."""
        config = self.config
        if config.position != "Rotary":
            return None
        if window is not None and config.local_rope_theta is not None:
            return rotary_angles(positions, config.rotary_size, config.local_rope_theta)
        return rotary_angles(positions, config.rotary_size, config.rope_theta, config.rope_scaling)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Set every weight: N(0, 0.02), biases 0, norms 1; the layers that write to the residual stream are scaled by
        1 / sqrt(2 * layers) (Radford et al. 2019, section 2.3).

        Drawn on the CPU from a generator of its own, so that any device and any sharding gets the same weights.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            full = torch.zeros(parameter.shape)
            if parameter.ndim > 1:
                writes_residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
                scale = 1 / math.sqrt(2 * self.config.layers) if writes_residual else 1.0
                full.normal_(0.0, INITIAL_STD * scale, generator=generator)
            elif name.endswith("weight"):
                full.fill_(1.0)
            assign(parameter, full)


@torch.no_grad()
def assign_all(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Copy whole weights, by name, into parameters that may be sharded."""
    for name, parameter in parameters.items():
        assign(parameter, weights[name])


def assign(parameter: Tensor, full: Tensor) -> None:
    """Copy a whole tensor into a parameter, of which this rank may hold only a shard."""
    if isinstance(parameter, DTensor):
        moved = full.to(parameter.device, parameter.dtype)
        full = distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.copy_(full)


def normalisation(config: ModelConfig, size: int | None = None) -> nn.Module:
    """LayerNorm, or RMSNorm (Zhang and Sennrich 2019), of the residual stream or of what has another size."""
    size = size or config.hidden_size
    if config.norm == "RMSNorm":
        return RMSNorm(size, config.norm_epsilon)
    return nn.LayerNorm(size, config.norm_epsilon, bias=config.bias)


def capped(x: Tensor, cap: float) -> Tensor:
    """x, smoothly kept within -cap and cap (Gemma Team 2024, Gemma 2, section 2)."""
    return cap * torch.tanh(x / cap)


def capped_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    scale: float | None,
    cap: float,
) -> Tensor:
    """Attention whose scores are capped, which no fused kernel does; arguments as of scaled_dot_product_attention."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = capped(q @ k.transpose(2, 3) * (scale or q.shape[-1] ** -0.5), cap)
    if causal:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).type_as(v)
    return F.dropout(weights, dropout) @ v


def attention_mask(
    length: int, past: int, window: int | None, documents: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which of past + length keys each of `length` queries may see, bool [1 or batch, 1, length, past + length].

    None where causality alone decides, which attention kernels do without a mask. A sliding window of n sees the token
    itself and the n - 1 before it (Jiang et al. 2023, Mistral 7B, section 2).
    """
    total = past + length
    narrow = window is not None and total > window
    if documents is None and not narrow and (past == 0 or length == 1):
        return None
    keys = torch.arange(total, device=device)
    distance = keys[past:, None] - keys
    mask = (distance >= 0)[None, None]
    if window is not None:
        mask = mask & (distance < window)
    if documents is not None:
        mask = mask & (documents[:, None, past:, None] == documents[:, None, None, :])
    return mask


def positions_in_documents(documents: Tensor) -> Tensor:
    """Each token's distance from the start of its document, [batch, length]."""
    index = torch.arange(documents.shape[1], device=documents.device)
    is_start = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return index - torch.where(is_start, index, 0).cummax(dim=1).values


def rotary_angles(positions: Tensor, size: int, theta: float, scaling: RopeScaling | None = None) -> Rotation:
    """Angles of rotary positions (Su et al. 2021, section 3.2.2) for positions [length] or [batch, length].

    `size` is how much of a head's width is rotated.
    """
    exponents = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size
    frequencies = 1.0 / theta**exponents
    amplitude = 1.0
    if scaling is not None:
        frequencies, amplitude = scaled(frequencies, theta, scaling)
    angles = positions[..., None].float() * frequencies
    if angles.ndim == 3:
        angles = angles[:, None]  # broadcasts over heads
    cosine, sine = angles.cos(), angles.sin()
    return (cosine, sine) if amplitude == 1.0 else (cosine * amplitude, sine * amplitude)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the pairs (i, i + pairs) of x [batch, heads, length, head size], in float32 at least, as in Llama's code.

    Where fewer than head size / 2 pairs have angles, the rest of x stays as it is.
    """
    return turn(x, *rotation)
