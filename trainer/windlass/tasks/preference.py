"""Direct preference optimisation (Rafailov et al. 2023): the loss of pairs of answers, and their rewards."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from windlass.data.stream import IGNORED
from windlass.models.decoder import output_logits


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
    """Summed loss of the pairs (Rafailov et al. 2023, equation 7): rows are a chosen answer and the rejected one after
    it, in turns; `reference` [batch] is the log-probability of each by the reference model."""
    policy = log_probabilities(hidden, weight, bias, softcap, labels=labels)
    return _losses(policy, reference, beta).sum()


def measure(policy: Tensor, reference: Tensor, beta: float) -> dict[str, Any]:
    """Metrics over pairs, by the names that TRL has for them: mean rewards in nats, the share of pairs whose chosen
    answer has the higher one, and log-probabilities.

    Args:
        policy: log-probabilities by the model, [2 pairs], chosen and rejected in turns.
        reference: the same by the reference model.
    """
    rewards = beta * (policy - reference)
    chosen, rejected = rewards[0::2], rewards[1::2]
    return {
        "loss": _losses(policy, reference, beta).mean().item(),
        "rewards/chosen": chosen.mean().item(),
        "rewards/rejected": rejected.mean().item(),
        "rewards/accuracies": (chosen > rejected).float().mean().item(),
        "rewards/margins": (chosen - rejected).mean().item(),
        "logps/chosen": policy[0::2].mean().item(),
        "logps/rejected": policy[1::2].mean().item(),
        "pairs": len(chosen),
    }


def _losses(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """[pairs]"""
    ratios = policy - reference
    return -F.logsigmoid(beta * (ratios[0::2] - ratios[1::2]))
