"""Direct preference optimisation (Rafailov et al. 2023): the loss of pairs of answers, and their rewards."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from windlass.data.stream import IGNORED
from windlass.models.decoder import output_logits

METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
"""Of pairs, by the names that TRL has for them: mean rewards in nats, the share of pairs whose chosen answer has the
higher one, and log-probabilities."""


def log_probabilities(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None = None, softcap: float = 0.0, *, labels: Tensor
) -> Tensor:
    """Log-probability, in nats, of each row's labels together, [batch]; arguments as of `output_loss`."""
    logits = output_logits(hidden, weight, bias, softcap).float()
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view(labels.shape).sum(1)


def preference_loss(
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    softcap: float = 0.0,
    *,
    labels: Tensor,
    reference: Tensor,
    beta: float,
) -> Tensor:
    """Summed loss of the pairs (Rafailov et al. 2023, equation 7), and after it the sums of `METRICS`, [1 + metrics].

    Rows are a chosen answer and the rejected one after it, in turns; `reference` [batch] is the log-probability of each
    by the reference model.
    """
    policy = log_probabilities(hidden, weight, bias, softcap, labels=labels)
    loss, *metrics = (values.sum() for values in _of_pairs(policy, reference, beta))
    return torch.stack([loss, *(total.detach() for total in metrics)])


def measure(policy: Tensor, reference: Tensor, beta: float) -> dict[str, Any]:
    """Mean loss and `METRICS` over pairs, and how many these are.

    Args:
        policy: log-probabilities by the model, [2 pairs], chosen and rejected in turns.
        reference: the same by the reference model.
    """
    means = [values.mean().item() for values in _of_pairs(policy, reference, beta)]
    return {**dict(zip(("loss", *METRICS), means, strict=True)), "pairs": len(policy) // 2}


def _of_pairs(policy: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, ...]:
    """The loss of each pair, [pairs], and each of `METRICS`."""
    ratios = policy - reference
    rewards = beta * ratios
    chosen, rejected = rewards[0::2], rewards[1::2]
    return (
        -F.logsigmoid(beta * (ratios[0::2] - ratios[1::2])),
        chosen,
        rejected,
        (chosen > rejected).float(),
        chosen - rejected,
        policy[0::2],
        policy[1::2],
    )
