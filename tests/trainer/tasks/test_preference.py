"""The loss of pairs and its metrics, against the formulas of TRL's DPOTrainer."""

import pytest
import torch
from torch.nn import functional as F

from windlass.data.stream import IGNORED
from windlass.tasks.preference import METRICS, log_probabilities, measure, preference_loss

BETA = 0.25


def pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [6, 5, 4], an output [9, 4], labels [6, 5] of which some do not count, and references [6]."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 9, (6, 5), generator=generator)
    labels[:, :2] = IGNORED
    labels[1, 4:] = IGNORED
    hidden, weight = (torch.randn(*shape, generator=generator) for shape in ((6, 5, 4), (9, 4)))
    return hidden, weight, labels, -10 * torch.rand(6, generator=generator)


def expected() -> dict[str, torch.Tensor]:
    """As `DPOTrainer` has them: log-probabilities of completions by rows, then sigmoid loss and rewards."""
    hidden, weight, labels, reference = pairs()
    log_softmax = (hidden @ weight.T).log_softmax(-1)
    per_token = log_softmax.gather(2, labels.clamp(min=0)[..., None])[..., 0]
    logps = (per_token * (labels != IGNORED)).sum(1)
    chosen_logps, rejected_logps, ref_chosen, ref_rejected = logps[::2], logps[1::2], reference[::2], reference[1::2]
    logits = (chosen_logps - rejected_logps) - (ref_chosen - ref_rejected)
    chosen_rewards, rejected_rewards = BETA * (chosen_logps - ref_chosen), BETA * (rejected_logps - ref_rejected)
    return {
        "loss": -F.logsigmoid(BETA * logits),
        "rewards/chosen": chosen_rewards,
        "rewards/rejected": rejected_rewards,
        "rewards/accuracies": (chosen_rewards > rejected_rewards).float(),
        "rewards/margins": chosen_rewards - rejected_rewards,
        "logps/chosen": chosen_logps,
        "logps/rejected": rejected_logps,
    }


def test_the_loss_and_the_metrics_are_those_of_trl() -> None:
    hidden, weight, labels, reference = pairs()
    weight.requires_grad_()
    sums = preference_loss(hidden, weight, labels=labels, reference=reference, beta=BETA)
    assert ["loss", *METRICS] == list(expected())
    torch.testing.assert_close(sums.detach(), torch.stack([values.sum() for values in expected().values()]))
    [gradient] = torch.autograd.grad(sums[1:].sum(), weight)
    assert not gradient.any(), "metrics are not learned from"
    weight.requires_grad_(False)
    found = measure(log_probabilities(hidden, weight, labels=labels), reference, BETA)
    assert found == {name: pytest.approx(values.mean().item(), rel=1e-5) for name, values in expected().items()} | {
        "pairs": 3
    }
    assert 0 < found["rewards/accuracies"] < 1


def test_the_gradient_makes_chosen_answers_likelier_than_rejected_ones() -> None:
    hidden, weight, labels, reference = pairs()
    weight.requires_grad_()
    margins = []
    for _ in range(2):
        loss, *_ = preference_loss(hidden, weight, labels=labels, reference=reference, beta=BETA)
        [gradient] = torch.autograd.grad(loss, weight)
        margins.append(measure(log_probabilities(hidden, weight, labels=labels), reference, BETA)["rewards/margins"])
        weight = (weight - 0.1 * gradient).detach().requires_grad_()
    assert margins[1] > margins[0]
