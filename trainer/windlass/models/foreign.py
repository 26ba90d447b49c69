"""Models that are not the decoder, called as it is, so that the same loop trains them."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from windlass.models.decoder import Decoder, Head, KeyValueCache, output_logits
from windlass.spec.presets import ModelConfig


class Foreign(nn.Module):
    """What the loop, checkpoints and commands ask of a model that others have written.

    Its parameters are on the meta device until they are given memory and weights; its buffers have their values.
    """

    config: ModelConfig
    blocks: nn.ModuleList
    """What sharding, activation checkpointing and compilation act on; empty where none is known."""

    output_name: str | None = None
    """Of the parameter that makes logits, where it is known."""

    @abstractmethod
    def logits(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        """[batch, length, outputs] after each of `tokens` [batch, length], what pads to their right.

        `documents` [batch, length], where they are told, are negative where a token pads.
        """

    @abstractmethod
    def initialise(self, seed: int) -> None:
        """Set every parameter."""

    def forward(
        self,
        tokens: Tensor,
        *,
        documents: Tensor | None = None,
        cache: KeyValueCache | None = None,
        last_only: bool = False,
        head: Head = output_logits,
    ) -> Tensor:
        """Arguments and result as of the decoder; `head` gets logits, and `documents` only tell what pads.

        Raises ValueError: there are more tokens than `contextLength`, or there is a cache.
        """
        if cache is not None:
            raise ValueError("only the decoder has a cache")
        if tokens.shape[1] > self.config.context_length:
            raise ValueError(f"{tokens.shape[1]} tokens are more than the context, {self.config.context_length}")
        logits = self.logits(tokens, documents)
        return head(logits[:, -1:] if last_only else logits, None, None, 0.0)


AnyModel = Decoder | Foreign


def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
    """A hook for the registration of parameters: a model built under it has none of them in memory."""
    if parameter is None or parameter.is_meta:
        return None
    return nn.Parameter(parameter.to("meta"), parameter.requires_grad)


@torch.no_grad()
def to_empty(model: nn.Module, device: torch.device) -> None:
    """Give all parameters memory, without values; buffers keep theirs, and parameters that are one stay one."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers(remove_duplicate=False)}
    first: dict[int, str] = {}
    tied = {
        name: first[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if first.setdefault(id(parameter), name) != name
    }
    model.to_empty(device=device)
    for name, values in buffers.items():
        model.get_buffer(name).copy_(values)
    for name, same in tied.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, model.get_parameter(same))
