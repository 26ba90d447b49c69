"""Will it fit: an estimate of the memory that a rank needs while it trains."""

import math
from dataclasses import dataclass
from typing import Literal

from windlass.planning.choices import Device, Precision
from windlass.planning.compute import block_parameters, count_parameters, root_parameters
from windlass.spec.presets import ModelConfig

LOGITS_BYTES = 12
"""Bytes a logit takes at the loss: itself, its log-probability and its gradient, the last two always in float32."""
SCORE_BYTES = 13
"""Bytes that a CPU keeps of each attention score when there is dropout, which its fused attention does not have."""
CAPPED_SCORE_BYTES = 8
"""Bytes kept of each score that is capped, which no fused attention does: the capped one and its share, in float32."""

NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes a number takes in NF4: its 4 bits, 8 for a block of 64, and 32 for 256 blocks (Dettmers et al. 2023, QLoRA)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the peak of a step, without the framework's own."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate_memory(
    config: ModelConfig,
    *,
    device: Device,
    shards: int,
    precision: Precision,
    micro_batch_size: int,
    sequence_length: int,
    checkpointing: Literal["None", "Selective", "Full"] = "None",
    parameters: int | None = None,
    trained: int | None = None,
    quantised: int = 0,
) -> Memory:
    """Memory of a rank that holds one of `shards` parts of the state (1: all of it) and a micro-batch's activations.

    `parameters` are the architecture's, where a model does not say its own. Of those that are not `trained` (default:
    all are), neither gradients nor moments are kept; their activations count all the same, as if the gradient went
    through every block. Those that are `quantised` are kept in NF4, on every rank.
    """
    parameters = count_parameters(config) if parameters is None else parameters
    trained = parameters if trained is None else trained
    element = 4 if precision == "FP32" else 2
    unfused = config.attention_softcap or (device == "cpu" and config.dropout)
    scores = sequence_length if unfused else 0
    per_token = activation_bytes_per_token(config, element, checkpointing, scores)
    activations = micro_batch_size * sequence_length * per_token
    if shards == 1:
        whole = parameters - quantised
        copies = 0 if element == 4 else element * whole  # autocast keeps the converted weights for the pass
        return Memory(4 * whole + math.ceil(NF4_BYTES * quantised) + copies, 4 * trained, 8 * trained, activations)
    shard, root, block = parameters // shards, root_parameters(config), block_parameters(config)
    gathered = element * (root + 2 * block)  # the block at work and the one fetched ahead
    reduced = min(element * max(root, block), element * trained)
    return Memory(4 * shard + gathered, 4 * trained // shards + reduced, 8 * trained // shards, activations)


def activation_bytes_per_token(
    config: ModelConfig,
    element: int,
    checkpointing: Literal["None", "Selective", "Full"] = "None",
    scores: int = 0,
) -> int:
    """Bytes kept for the backward pass for one token, with fused norms.

    Counted like Korthikanti et al. 2022, section 4.1 (34 s b h a layer for GPT-3, and the scores), for any ratio of
    widths, and with the residual stream in float32 as under autocast. A recomputed block keeps its input only; one such
    block is whole at a time.

    Args:
        element: bytes of a multiplied number.
        scores: attention scores kept, of each head; fused attention keeps none.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    attended, pair = config.heads * config.head_width, config.kv_heads * config.head_width
    norms = 4 * hidden * ((1 if config.parallel_block else 2) + 2 * config.post_norms)
    # What rotation alone makes of queries and keys is kept in place of them; norms need them as they were, too.
    rotated = (attended + pair) * config.qk_norm * (1 + (config.position == "Rotary"))
    score = CAPPED_SCORE_BYTES if config.attention_softcap else SCORE_BYTES
    attention = element * (hidden + (attended + 2 * pair) + rotated + attended) + score * config.heads * scores
    feed_forward = element * (hidden * (not config.parallel_block) + (4 if config.gated else 2) * inner)
    masks = 2 * hidden if config.dropout else 0
    block = norms + attention + feed_forward + masks
    recomputed = {"None": 0, "Selective": (config.layers + 1) // 2, "Full": config.layers}[checkpointing]
    blocks = (config.layers - recomputed) * block + recomputed * 4 * hidden + min(recomputed, 1) * block
    return blocks + 2 * 4 * hidden + LOGITS_BYTES * config.vocab_size
