"""Windlass trains language models: the same job file on a laptop and on a Kubernetes cluster.

import windlass

handle = windlass.run("job.yaml")        # or a windlass.LLMTrainingJob
result = handle.wait()
model, tokenizer = windlass.load("NAME")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windlass.engine.local import RunHandle as RunHandle
    from windlass.engine.local import start_run as run
    from windlass.engine.runs import load_run as load
    from windlass.errors import WindlassError as WindlassError
    from windlass.spec.job import LLMTrainingJob as LLMTrainingJob

__version__ = "0.1.0"
__all__ = ["LLMTrainingJob", "RunHandle", "WindlassError", "load", "run"]

_PLACES = {
    "LLMTrainingJob": ("windlass.spec.job", "LLMTrainingJob"),
    "RunHandle": ("windlass.engine.local", "RunHandle"),
    "WindlassError": ("windlass.errors", "WindlassError"),
    "load": ("windlass.engine.runs", "load_run"),
    "run": ("windlass.engine.local", "start_run"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used, so that `import windlass` is quick."""
    if name not in _PLACES:
        raise AttributeError(f"module 'windlass' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
