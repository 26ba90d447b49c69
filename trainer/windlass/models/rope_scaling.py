"""Rotary frequencies for contexts longer than those of pretraining."""

import math

import torch
from torch import Tensor

from windlass.spec.job import RopeScaling


def scaled(frequencies: Tensor, theta: float, scaling: RopeScaling) -> tuple[Tensor, float]:
    """The changed frequencies [pairs], and what cosines and sines are multiplied by.

    `frequencies` are theta^(-i / pairs), in radians a token.
    """
    slow = frequencies / scaling.factor
    if scaling.type == "Linear":  # Chen et al. 2023, Extending Context Window via Positional Interpolation
        return slow, 1.0
    assert scaling.original_context_length is not None  # checked in windlass.spec.checks
    turns = scaling.original_context_length * frequencies / (2 * math.pi)  # within the context of pretraining
    if scaling.type == "Llama3":  # Grattafiori et al. 2024, and Meta's llama-models, apply_scaling
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - kept) * slow + kept * frequencies, 1.0
    # Peng et al. 2023, YaRN, section 3.2 and 3.4, with its ramp over whole pairs as in the authors' code.
    first, last = (
        len(frequencies) * math.log(scaling.original_context_length / (2 * math.pi * beta)) / math.log(theta)
        for beta in (scaling.beta_fast, scaling.beta_slow)
    )
    first, last = max(math.floor(first), 0), min(math.ceil(last), 2 * len(frequencies) - 1)
    pairs = torch.arange(len(frequencies), device=frequencies.device, dtype=torch.float32)
    kept = 1 - ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)
    return (1 - kept) * slow + kept * frequencies, scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1
