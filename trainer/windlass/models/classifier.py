"""The decoder with a head for labels in place of the one for tokens."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from windlass.errors import WindlassError
from windlass.models.decoder import Decoder, Head, output_logits
from windlass.spec.presets import ModelConfig


class Classifier(Decoder):
    """Scores of each label at each position, made of what the decoder has read up to there.

    Which position counts is where the batch has its label: the first token, or the last one of the text. So what pads
    a text on its right changes nothing, and the loss is that of tokens. As transformers' classifiers, it has no bias.
    """

    def __init__(
        self, config: ModelConfig, labels: Sequence[str], pooling: Literal["LastToken", "FirstToken", "Mean"]
    ) -> None:
        # Tied, the decoder has no output for tokens.
        super().__init__(config.model_copy(update={"tie_embeddings": True, "output_bias": False}))
        self.labels = list(labels)
        self.pooling = pooling
        self.score = nn.Linear(config.hidden_size, len(labels), bias=False)

    def forward(self, tokens: Tensor, *, documents: Tensor | None = None, head: Head = output_logits) -> Tensor:  # type: ignore[override]
        """Scores [batch, length, labels] after each of `tokens` [batch, length]; `head` as of the decoder."""
        return super().forward(tokens, documents=documents, head=partial(self._scores, head=head))

    def _scores(self, hidden: Tensor, *_: object, head: Head) -> Tensor:
        if self.pooling == "Mean":  # of the tokens up to each
            counts = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
            hidden = (hidden.float().cumsum(1) / counts[:, None]).type_as(hidden)
        return head(hidden, self.score.weight, None, 0.0)


def require_last_token(model: Classifier) -> None:
    """Raise ConfigInvalid for a classifier that transformers would read otherwise."""
    if model.pooling != "LastToken":
        raise WindlassError(
            "ConfigInvalid", f"transformers' classifiers have no pooling but LastToken; this one has {model.pooling}"
        )
