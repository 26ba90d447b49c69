"""Pretraining's loss: the cross entropy of every next token."""

from torch import Tensor
from torch.nn import functional as F

from windlass.data.stream import IGNORED
from windlass.models.decoder import output_logits


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the cross entropies, in nats and float32, of logits [batch, length, vocabulary] at labels [batch, length].

    A sum, not a mean: whoever adds up micro-batches and ranks divides once, by the number of tokens that counted, so
    that each token weighs the same. Labels of IGNORED do not count.
    """
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def output_loss(
    hidden: Tensor, weight: Tensor | None, bias: Tensor | None = None, softcap: float = 0.0, *, labels: Tensor
) -> Tensor:
    """`token_loss` of `windlass.models.decoder.output_logits`.

    Compiled as one, it holds the logits and their gradient in the precision they are multiplied in: with a vocabulary
    of 50,257, the float32 copies that it saves are most of a small model's memory.
    """
    return token_loss(output_logits(hidden, weight, bias, softcap), labels)
