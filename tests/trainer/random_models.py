"""Models that tests make at random."""

import torch

from windlass.models.decoder import Decoder
from windlass.spec.presets import ModelConfig


def random_model(config: ModelConfig) -> Decoder:
    """Every parameter at random, biases and norms as well: none can be mistaken for another, and no two logits tie."""
    model, generator = Decoder(config).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm.weight" in name else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + mean)
    return model
