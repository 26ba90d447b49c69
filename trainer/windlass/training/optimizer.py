"""AdamW with decay on matrices only."""

import torch
from torch import nn

from windlass.spec.job import Optimizer


def build_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.AdamW:
    """AdamW over the model's trainable parameters, fused where the device has it.

    Parameters with two or more dimensions (embeddings and linear weights) decay; norms and biases do not, as in GPT-2
    and GPT-3's training (Brown et al. 2020, appendix B) and nanoGPT.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in {"cpu", "cuda", "mps"} for parameter in parameters)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=spec.learning_rate,
        betas=(spec.betas[0], spec.betas[1]),
        eps=spec.epsilon,
        fused=fused,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` for all parameters from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
