"""How much a model computes: its parameters, and the floating-point operations that a token costs."""

from windlass.spec.presets import ModelConfig


def count_parameters(config: ModelConfig) -> int:
    """Trainable numbers of a `windlass.models.decoder.Decoder` of this configuration; shared ones count once."""
    return root_parameters(config) + config.layers * block_parameters(config)


def root_parameters(config: ModelConfig) -> int:
    """Parameters outside the blocks: embeddings, the last norm, an output projection that is not tied."""
    tables = 1 if config.tie_embeddings else 2
    positions = config.context_length if config.position == "Learned" else 0
    bias = config.vocab_size if config.output_bias else 0
    return (tables * config.vocab_size + positions) * config.hidden_size + bias + norm_parameters(config)


def block_parameters(config: ModelConfig) -> int:
    """Parameters of one block: the attention's two projections, the feed-forward layers, the norms."""
    hidden, inner, attended = config.hidden_size, config.intermediate_size, config.heads * config.head_width
    qkv = attended + 2 * config.kv_heads * config.head_width
    ins = 2 if config.gated else 1
    weights = hidden * qkv + attended * hidden + (ins + 1) * hidden * inner
    biases = qkv * config.qkv_bias + (2 * hidden + ins * inner) * config.bias
    norms = (1 if config.parallel_block else 2) + 2 * config.post_norms
    qk_norms = 2 * norm_parameters(config, config.head_width) if config.qk_norm else 0
    return weights + biases + norms * norm_parameters(config) + qk_norms


def norm_parameters(config: ModelConfig, size: int | None = None) -> int:
    """Parameters of one norm, of the residual stream or of another size: a scale, and LayerNorm's bias."""
    return (size or config.hidden_size) * (2 if config.norm == "LayerNorm" and config.bias else 1)


def flops_per_token(config: ModelConfig, sequence_length: int, parameters: int | None = None) -> float:
    """Floating-point operations of one token's forward and backward pass, without recomputation.

    6N + 12 L H Q T (Chowdhery et al. 2022, PaLM, appendix B) with N the parameters that are multiplied: embeddings
    that are only looked up do not count, a tied output projection does. T is a layer's window where that is shorter.
    `parameters` are the architecture's, where a model does not say its own.
    """
    looked_up = config.context_length if config.position == "Learned" else 0
    looked_up += 0 if config.tie_embeddings else config.vocab_size
    multiplied = (count_parameters(config) if parameters is None else parameters) - looked_up * config.hidden_size
    windows = (config.window(layer) for layer in range(config.layers))
    reach = sum(min(sequence_length, window or sequence_length) for window in windows)
    return float(6 * multiplied + 12 * config.heads * config.head_width * reach)
