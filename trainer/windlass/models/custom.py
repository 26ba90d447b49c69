"""The user's own model: a function in their code that makes a torch.nn.Module."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from windlass.errors import WindlassError
from windlass.models.decoder import assign
from windlass.models.foreign import Foreign, to_empty
from windlass.spec.presets import ModelConfig

FIELD = "spec.model.custom"


class CustomModel(Foreign):
    """A module of the user's that makes logits [batch, length, outputs] of tokens [batch, length].

    Outputs are the tokenizer's vocabulary, or the labels of a classifier: what its pooling names, the first token or
    the last one that does not pad, is where a text is scored.
    """

    def __init__(self, config: ModelConfig, labels: Sequence[str] | None = None, pooling: str = "LastToken") -> None:
        super().__init__()
        self.config = config
        self.labels = list(labels or [])
        self.pooling = pooling
        self.blocks = nn.ModuleList()
        self.body = self._make(0)
        metas: dict[nn.Parameter, nn.Parameter] = {}  # tied parameters stay one
        for module in self.body.modules():
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                like = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
                setattr(module, name, metas.setdefault(parameter, like))

    def _make(self, seed: int) -> nn.Module:
        assert self.config.custom is not None
        return make(self.config.custom, self.config, self.labels, seed)

    def logits(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        outputs = len(self.labels) or self.config.vocab_size
        wanted = (*tokens.shape, outputs)
        found = self.body(tokens)
        if not isinstance(found, Tensor) or found.shape != wanted or not found.is_floating_point():
            got = f"{list(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise WindlassError(
                "ConfigInvalid",
                f"{FIELD}: the model of {self.config.custom} gave {got} for {list(tokens.shape)} tokens; it has to "
                f"give logits {list(wanted)}: batch, length, {'labels' if self.labels else 'vocabulary'}",
            )
        return found

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """What the user's function makes after torch.manual_seed(seed), on the CPU."""
        made = self._make(seed)
        weights = dict(made.named_parameters())
        for name, parameter in self.body.named_parameters():
            if name in weights:  # adapters are not
                assign(parameter, weights[name])
        for name, buffer in made.named_buffers():
            self.body.get_buffer(name).copy_(buffer)


@torch.no_grad()
def try_out(config: ModelConfig, labels: Sequence[str] | None) -> None:
    """Make the model and ask it once, on the CPU. Raises ConfigInvalid, and what the user's code raises."""
    model = CustomModel(config, labels)
    to_empty(model, torch.device("cpu"))
    model.initialise(0)
    model.eval()(torch.zeros((1, 2), dtype=torch.long))


def make(name: str, config: ModelConfig, labels: Sequence[str], seed: int) -> nn.Module:
    """Call the user's function, with random numbers of its own. Raises ConfigInvalid."""
    function = find(name)
    arguments: dict[str, Any] = {"vocab_size": config.vocab_size, "context_length": config.context_length}
    if labels:
        arguments["labels"] = list(labels)
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        called = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise WindlassError(
            "ConfigInvalid", f"{FIELD}: {name}{inspect.signature(function)} is called with {called}: {error}"
        ) from error
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        made = function(**arguments)
    if not isinstance(made, nn.Module):
        raise WindlassError(
            "ConfigInvalid", f"{FIELD}: {name} returned {type(made).__name__}; it has to return a torch.nn.Module"
        )
    return made


def find(name: str) -> Callable[..., Any]:
    """The function package.module:function, of what is installed, on PYTHONPATH or in the working folder.

    Raises WindlassError: ConfigInvalid.
    """
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # it is there, and imports what is not
        raise WindlassError(
            "ConfigInvalid",
            f"{FIELD}: there is no module {error.name}; install it, put its folder on PYTHONPATH, or start the command "
            "in the folder that it is in",
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            there = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise WindlassError(
                "ConfigInvalid", f"{FIELD}: {module_name} has no {path}; it has {', '.join(there) or 'no function'}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise WindlassError("ConfigInvalid", f"{FIELD}: {name} is a {type(found).__name__}, and no function")
    function: Callable[..., Any] = found
    return function
