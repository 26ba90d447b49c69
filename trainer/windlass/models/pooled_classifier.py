"""A classifier of transformers' kind: any body, what it says of a text pooled to one state, and a linear layer.

Windlass puts this file beside an exported classifier's weights, and transformers runs it:
`AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True)`. It needs nothing of Windlass.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class PooledConfig(PreTrainedConfig):
    """The body's config.json, and which of its states are classified: FirstToken, LastToken or Mean."""

    model_type = "pooled_classifier"

    def __init__(self, body: dict[str, Any] | None = None, pooling: str = "FirstToken", **others: Any) -> None:
        self.body = body or {}
        self.pooling = pooling
        super().__init__(**others)


class PooledClassifier(PreTrainedModel):
    """Logits of each label for each text."""

    config_class = PooledConfig

    def __init__(self, config: PooledConfig) -> None:
        super().__init__(config)
        self.body = make_body(config.body)
        self.score = nn.Linear(self.body.config.hidden_size, len(config.id2label or {}))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Scores [batch, labels] of texts [batch, length], of which tokens with mask 0 only pad, on the right."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = self.score(pooled(hidden, mask, self.config.pooling))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def make_body(config: dict[str, Any]) -> Any:
    """The model that a config.json describes, without a head and without a pooler of its own, in float32."""
    body = AutoModel.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(config), dtype=torch.float32)
    if getattr(body, "pooler", None) is not None:
        body.pooler = None  # it would have parameters that nothing is made of
    return body


def pooled(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One state of each text, [batch, hidden], of hidden [batch, length, hidden] where mask [batch, length] is 1."""
    if pooling == "FirstToken":
        return hidden[:, 0]
    if pooling == "LastToken":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
