"""Classification: a text as an example, the loss of its label, and how well labels are told apart."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from windlass.data.buckets import Example
from windlass.data.stream import IGNORED
from windlass.data.tokenizers import Tokenizer
from windlass.intervals import wilson
from windlass.models.decoder import output_logits

BINS = 10
"""Of confidence, for calibration."""


def encode(
    tokenizer: Tokenizer, text: str, label: int, context_length: int, pooling: str, *, encoder: bool = False
) -> tuple[Example, bool]:
    """The text's first tokens with the label at the one that counts, and whether it was cut. No text is one token.

    For an `encoder`, with what its tokenizer puts around a text, and as a document that what pads is not of.
    """
    if encoder:
        tokens, is_cut = tokenizer.encode_alone(text, context_length)
    else:
        tokens = tokenizer.encode(text)
        tokens, is_cut = tokens[:context_length], len(tokens) > context_length
    inputs = tokens.astype(np.int64) if len(tokens) else np.array([tokenizer.end_of_document], np.int64)
    labels = np.full(len(inputs), IGNORED, np.int64)
    labels[0 if pooling == "FirstToken" else -1] = label
    return Example(inputs, labels, np.zeros_like(inputs) if encoder else None), is_cut


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Weight of each label such that all weigh the same in sum, and an example weighs 1 in the mean."""
    return [sum(counts) / (len(counts) * count) for count in counts]


def label_loss(
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    softcap: float = 0.0,
    *,
    labels: Tensor,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Summed cross entropy, in nats, of the labels [batch, length]; arguments as of `output_loss`."""
    scores = output_logits(hidden, weight, bias, softcap).flatten(0, 1).float()
    return F.cross_entropy(scores, labels.flatten(), class_weights, ignore_index=IGNORED, reduction="sum")


def probabilities(scores: Tensor, labels: Tensor) -> tuple[list[int], list[list[float]]]:
    """The labels that count, [texts], and the probabilities of all labels there, [texts, labels]."""
    chosen = labels != IGNORED
    return labels[chosen].tolist(), torch.softmax(scores[chosen].float(), -1).tolist()


def measure(truth: Sequence[int], found: Sequence[Sequence[float]], names: Sequence[str]) -> dict[str, Any]:
    """Accuracy with its 95 % interval, scores of each label, the confusion matrix and calibration.

    Args:
        truth: label of each text.
        found: probability of each label, for each text.
        names: of the labels.
    """
    right = np.array(truth)
    probability = np.array(found).reshape(-1, len(names))
    chosen = probability.argmax(1)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (right, chosen), 1)
    labels = {name: _of_label(confusion, index) for index, name in enumerate(names)}
    correct = chosen == right
    return {
        "texts": len(right),
        "accuracy": float(correct.mean()),
        "interval": wilson(int(correct.sum()), len(right)),
        "majority": max(Counter(truth).values()) / len(right),
        "f1": float(np.mean([label["f1"] for label in labels.values()])),
        "labels": labels,
        "confusion": confusion.tolist(),
        **_calibration(probability.max(1), correct),
    }


def _of_label(confusion: NDArray[np.int64], index: int) -> dict[str, float]:
    hits, found, there = int(confusion[index, index]), int(confusion[:, index].sum()), int(confusion[index].sum())
    return {
        "precision": hits / found if found else 0.0,
        "recall": hits / there if there else 0.0,
        "f1": 2 * hits / (found + there) if found + there else 0.0,
        "texts": there,
    }


def _calibration(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, Any]:
    """Expected calibration error, and accuracy beside confidence by bins of it (Guo et al. 2017, section 2)."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = [
        {
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(correct[bins == number].mean()),
            "texts": int((bins == number).sum()),
        }
        for number in np.unique(bins)
    ]
    error = sum(row["texts"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / len(confidence)
    return {"calibration_error": float(error), "calibration": rows}
