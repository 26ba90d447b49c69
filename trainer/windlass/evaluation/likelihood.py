"""How likely a model finds tokens after others, many texts at once."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from windlass.models.decoder import output_logits
from windlass.models.foreign import AnyModel
from windlass.models.generation import uncompiled

Pair = tuple[Sequence[int], Sequence[int]]
"""Context and continuation: tokens, of which only the second ones are scored."""
POSITIONS = 512
"""Positions whose logits are there at once: with 50,000 tokens, 100 MB in float32."""


@torch.no_grad()
def score(model: AnyModel, pairs: Sequence[Pair], batch_size: int) -> list[tuple[float, bool]]:
    """Of each pair, log P(continuation | context) in nats, and whether greedy decoding gives the continuation.

    A context that is too long loses its start; a continuation that is too long for the model's context is scored in
    `pieces`. Pairs that differ in their last token alone, such as the answers A to D, share a pass.

    Raises ValueError: a context or a continuation is empty.
    """
    if not all(context and continuation for context, continuation in pairs):
        raise ValueError("a context or a continuation is empty; begin a text with the token that ends documents")
    length = model.config.context_length
    split = [(owner, piece) for owner, pair in enumerate(pairs) for piece in pieces(*pair, length)]
    readers: dict[tuple[int, ...], list[tuple[int, Sequence[int]]]] = {}
    for owner, (context, continuation) in split:
        readers.setdefault((*context, *continuation[:-1]), []).append((owner, continuation))
    totals, greedy = [0.0] * len(pairs), [True] * len(pairs)
    longest_first = sorted(readers, key=len, reverse=True)  # little padding, and what needs most memory comes first
    for start in range(0, len(longest_first), batch_size):
        batch = longest_first[start : start + batch_size]
        asked = [(row, *reader) for row, inputs in enumerate(batch) for reader in readers[inputs]]
        found = _batch(model, batch, [(row, continuation) for row, _, continuation in asked])
        for (_, owner, _), (total, is_greedy) in zip(asked, found, strict=True):
            totals[owner] += total
            greedy[owner] &= is_greedy
    return list(zip(totals, greedy, strict=True))


def pieces(context: Sequence[int], continuation: Sequence[int], length: int) -> Iterator[Pair]:
    """The continuation in parts of at most `length` tokens, each after as many of the tokens before as a model that
    reads `length` tokens can see: as lm_eval's rolling windows with one token of context.
    """
    whole = [*context, *continuation]
    for start in range(len(context), len(whole), length):
        part = whole[start : start + length]
        yield whole[max(0, start + len(part) - length - 1) : start], part


def _batch(
    model: AnyModel, inputs: Sequence[Sequence[int]], asked: Sequence[tuple[int, Sequence[int]]]
) -> list[tuple[float, bool]]:
    """Of each (row, continuation) in `asked`, its sum of log-probabilities at the end of that row of inputs."""
    device = next(model.parameters()).device
    tokens = torch.zeros(len(inputs), len(inputs[0]), dtype=torch.long)  # padding is to the right: nothing sees it
    for row, line in enumerate(inputs):
        tokens[row, : len(line)] = torch.tensor(line)
    rows = torch.tensor([row for row, continuation in asked for _ in continuation])
    ends = [(len(inputs[row]), len(continuation)) for row, continuation in asked]
    columns = torch.tensor([column for end, count in ends for column in range(end - count, end)])
    labels = torch.tensor([token for _, continuation in asked for token in continuation])
    with uncompiled():
        head = partial(_log_probabilities, rows=rows.to(device), columns=columns.to(device), labels=labels.to(device))
        found = model(tokens.to(device), head=head).cpu()
    parts = found.split([count for _, count in ends])
    return [(float(part[:, 0].sum()), bool(part[:, 1].all())) for part in parts]


def _log_probabilities(
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    softcap: float,
    *,
    rows: Tensor,
    columns: Tensor,
    labels: Tensor,
) -> Tensor:
    """Log-probability of each label, and 1 where it is the likeliest token: [labels, 2], float32."""
    found = []
    for part in torch.arange(len(labels), device=labels.device).split(POSITIONS):
        logits = output_logits(hidden[rows[part], columns[part]], weight, bias, softcap).float()
        chosen = labels[part, None]
        likelihood = torch.log_softmax(logits, dim=-1).gather(1, chosen)
        found.append(torch.cat((likelihood, logits.argmax(dim=-1, keepdim=True) == chosen), dim=1))
    return torch.cat(found)
