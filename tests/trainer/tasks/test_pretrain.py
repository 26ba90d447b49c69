import pytest
import torch
from torch.nn import functional as F

from windlass.tasks.pretrain import token_loss


def test_the_loss_is_the_sum_over_labels_that_count() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 11, generator=generator)
    labels = torch.randint(11, (2, 5), generator=generator)
    labels[0, 1] = labels[1, 4] = -100
    expected = sum(
        -F.log_softmax(logits[row, column], dim=0)[labels[row, column]]
        for row in range(2)
        for column in range(5)
        if labels[row, column] >= 0
    )
    torch.testing.assert_close(token_loss(logits, labels), expected)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(4, 5, 11, generator=generator), torch.randint(11, (4, 5), generator=generator)
    parts = token_loss(logits[:1], labels[:1]) + token_loss(logits[1:], labels[1:])
    torch.testing.assert_close(parts, token_loss(logits, labels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_float32_whatever_the_logits_are(dtype: torch.dtype) -> None:
    logits, labels = torch.zeros(1, 4096, 3, dtype=dtype), torch.zeros(1, 4096, dtype=torch.long)
    loss = token_loss(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(3.0).log() * 4096)


def test_a_batch_without_a_label_that_counts_has_no_loss() -> None:
    assert token_loss(torch.zeros(1, 2, 3), torch.full((1, 2), -100)).item() == 0
