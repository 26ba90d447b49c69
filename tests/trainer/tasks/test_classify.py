"""What a classifier's example, loss and metrics are, by their definitions."""

import math

import pytest
import torch

from windlass.data.buckets import padded_batch
from windlass.data.tokenizers import load_tokenizer
from windlass.intervals import wilson
from windlass.models.build import build_model
from windlass.spec.job import Model
from windlass.spec.presets import model_config
from windlass.tasks.classify import balanced_weights, encode, label_loss, measure


@pytest.mark.parametrize("pooling", ["LastToken", "FirstToken", "Mean"])
def test_what_pads_a_text_changes_nothing_of_its_scores(pooling: str) -> None:
    spec = Model.model_validate({"preset": "llama-tiny", "head": {"labels": ["a", "b"], "pooling": pooling}})
    model = build_model(model_config(spec, 257), spec).eval()
    model.initialise(1)
    short, _ = encode(load_tokenizer("bytes"), "short", 1, 32, pooling)
    long, _ = encode(load_tokenizer("bytes"), "a longer text", 0, 32, pooling)
    alone, both = padded_batch([short], 256), padded_batch([short, long], 256, multiple=8)
    scores = [model(torch.from_numpy(batch.inputs))[0][batch.labels[0] >= 0] for batch in (alone, both)]
    torch.testing.assert_close(*scores)


def test_a_text_that_is_too_long_is_cut_and_no_text_is_one_token() -> None:
    (inputs, labels, *_), cut = encode(load_tokenizer("bytes"), "abcdef", 1, 4, "LastToken")
    assert (inputs.tolist(), labels.tolist(), cut) == ([97, 98, 99, 100], [-100, -100, -100, 1], True)
    (inputs, labels, *_), cut = encode(load_tokenizer("bytes"), "", 1, 4, "LastToken")
    assert (inputs.tolist(), labels.tolist(), cut) == ([256], [1], False)


def test_balanced_weights_let_labels_weigh_the_same_and_an_example_one_in_the_mean() -> None:
    counts = [90, 10]
    weights = balanced_weights(counts)
    assert weights[0] * counts[0] == pytest.approx(weights[1] * counts[1])
    assert sum(weight * count for weight, count in zip(weights, counts, strict=True)) == pytest.approx(100)
    hidden, weight = torch.eye(2)[None], torch.eye(2)
    plain = [label_loss(hidden, weight, labels=torch.tensor([[0, -100]])).item() for _ in range(2)]
    heavy = label_loss(hidden, weight, labels=torch.tensor([[0, -100]]), class_weights=torch.tensor([3.0, 1.0]))
    assert plain[0] == pytest.approx(math.log(1 + math.exp(-1)))
    assert heavy.item() == pytest.approx(3 * plain[0])


def test_metrics_are_those_of_their_definitions() -> None:
    found = measure([0, 0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]], ["ham", "spam"])
    assert found["accuracy"] == 0.75
    assert found["confusion"] == [[2, 1], [0, 1]]
    assert found["labels"]["ham"] == {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": 0.8, "texts": 3}
    assert found["labels"]["spam"]["f1"] == pytest.approx(2 / 3)
    assert found["majority"] == 0.75
    # Bins of 0.7 (wrong), 0.8 (two right) and 0.9 (right).
    assert found["calibration_error"] == pytest.approx((0.7 + 2 * 0.2 + 0.1) / 4)
    assert wilson(8, 10) == pytest.approx([0.4902, 0.9433], abs=1e-4)
