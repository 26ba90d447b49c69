"""Weights in a folder in Hugging Face layout: names and shapes first, then one tensor at a time."""

import json
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from windlass.errors import WindlassError
from windlass.storage import Storage, shown

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
LONGEST_HEADER = 100_000_000
"""Bytes that safetensors allows a file's header."""


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a model, in one file or more."""

    shapes: dict[str, tuple[int, ...]]
    files: dict[str, Any]
    """Name -> what is open."""

    def read(self, name: str) -> Tensor:
        """A tensor, in the file's precision; it is read now, or when it is used."""
        file = self.files[name]
        tensor: Tensor = file[name] if isinstance(file, dict) else file.get_tensor(name)
        return tensor


@contextmanager
def open_weights(folder: Path) -> Iterator[WeightFiles]:
    """The weights of safetensors or of PyTorch's .bin files, of which only tensors are read, in one file or in shards.

    Raises:
        WindlassError: DataNotFound, DataCorrupt, with the file's name.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Any] = {}
    with ExitStack() as stack:
        for path in _paths(folder):
            opened = _tensors(path) if path.suffix == ".bin" else stack.enter_context(_safetensors(path))
            for name in opened.keys():  # noqa: SIM118  # safe_open is no mapping
                held = opened[name].shape if isinstance(opened, dict) else opened.get_slice(name).get_shape()
                shapes[name], files[name] = tuple(held), opened
        yield WeightFiles(shapes, files)


def shapes_in(storage: Storage, name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file anywhere, of which only the header is read. Raises DataCorrupt."""
    try:
        end = 8 + int.from_bytes(storage.read(name, 0, 8), "little")
        if end > LONGEST_HEADER:
            raise ValueError(f"its header would have {end - 8:,} bytes")
        header = json.loads(storage.read(name, 8, end))
        return {key: tuple(of["shape"]) for key, of in header.items() if key != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(f"{shown(storage.uri)}/{name}", error) from error


def _paths(folder: Path) -> list[Path]:
    """The files of the first kind that is there; safetensors are preferred."""
    for name in (SAFETENSORS, PICKLED):
        index = folder / f"{name}.index.json"
        if index.exists():
            try:
                names = set(json.loads(index.read_text())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise WindlassError("DataCorrupt", f"{index} is no index of weights: {error!r}") from error
            return [_inside(folder, name) for name in sorted(names)]
        if (folder / name).exists():
            return [folder / name]
    raise WindlassError(
        "DataNotFound", f"{folder / SAFETENSORS} is not there; weights are read from it, its shards, or {PICKLED}"
    )


def _inside(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise WindlassError("DataCorrupt", f"{folder}: the index of weights names {name!r}, which is no file beside it")
    if not (folder / name).exists():
        raise WindlassError("DataNotFound", f"{folder / name} is not there, and the index names it; copy it as well")
    return folder / name


def _safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    """What a .bin file holds; pages of it are read when a tensor is used, except in files of PyTorch before 1.6."""
    for mapped in (True, False):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
        except pickle.UnpicklingError as error:
            raise WindlassError(
                "DataCorrupt", f"{path} holds something else than tensors, which could run code; it is not read"
            ) from error
        except (RuntimeError, EOFError, ValueError, AttributeError) as error:
            if not mapped:
                raise _damaged(path, error) from error
    raise AssertionError


def _damaged(path: Path | str, error: Exception) -> WindlassError:
    return WindlassError("DataCorrupt", f"{path} is damaged: {error}; copy it again")
