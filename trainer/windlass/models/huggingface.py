"""Weights in and out: folders in Hugging Face layout, which transformers reads and writes; it is not needed here."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.models.decoder import Decoder
from windlass.models.layouts import HEAD, layout_of, read_config, their_names, write_config
from windlass.spec.presets import ModelConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MISMATCHES_SHOWN = 5


def export_model(model: Decoder, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors (float32) and the tokenizer's files to `folder`.

    It appears whole or not at all. Biases that the model lacks and its architecture in transformers has are zeros.

    Raises:
        WindlassError: ConfigInvalid, when transformers has no such architecture or `folder` is not empty; StorageFull.
    """
    config = write_config(model.config, tokenizer.end_of_document)
    weights = to_their_weights(model, read_config(config))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WindlassError("ConfigInvalid", f"{folder} exists and is not an empty folder; name another, or delete it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(weight.nbytes for weight in weights.values())
    if shutil.disk_usage(folder.parent).free < needed:
        raise WindlassError("StorageFull", f"{folder}: {needed:,} bytes are needed and fewer are free; free some space")

    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        ends = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
        (unfinished / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n")
        save_file(weights, unfinished / WEIGHTS, metadata={"format": "pt"})
        tokenizer.save(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_model(folder: Path) -> Decoder:
    """Read a model, in float32 on the CPU and in evaluation mode, from config.json and safetensors in one file or more.

    Raises:
        WindlassError: DataNotFound for a missing file, DataCorrupt for weights that are not what config.json says,
            ConfigInvalid for an architecture that the decoder is not.
    """
    model = _without_weights(read_config(_read_json(folder / "config.json")))
    model.load_state_dict(from_their_weights(_read_weights(folder), model, folder), assign=True)
    return model.eval()


def to_their_weights(model: Decoder, config: ModelConfig) -> dict[str, Tensor]:
    """Their name -> weight, on the CPU in float32. `config` is the model's as transformers can have it, with biases."""
    weights, ours = {}, model.state_dict()
    for name, like in _without_weights(config).named_parameters():
        weight = ours[name].detach().to("cpu", torch.float32) if name in ours else torch.zeros(like.shape)
        turned, sizes = _stored(config, name, like)
        for their_name, part in zip(sizes, weight.split(list(sizes.values())), strict=True):
            weights[their_name] = (part.T if turned else part).contiguous()
    return weights


def from_their_weights(theirs: dict[str, Tensor], model: Decoder, folder: Path) -> dict[str, Tensor]:
    """Our name -> weight, in float32, for each parameter of `model`; `folder` is for messages.

    Raises:
        WindlassError: DataCorrupt, with the names of weights that are missing, too many, or of another shape.
    """
    config, layout = model.config, layout_of(model.config)
    theirs = {name if name.startswith((layout.base, HEAD)) else layout.base + name: theirs[name] for name in theirs}
    ours, problems, known = {}, [], set[str]()
    for name, parameter in model.named_parameters():
        turned, sizes = _stored(config, name, parameter)
        known |= sizes.keys()
        for their_name, rows in sizes.items():
            shape = [rows, *parameter.shape[1:]][:: -1 if turned else 1]
            if their_name not in theirs:
                problems.append(f"{their_name} is missing")
            elif list(theirs[their_name].shape) != shape:
                problems.append(f"{their_name} has shape {list(theirs[their_name].shape)} and not {shape}")
        if not problems:
            parts = [theirs[their_name].to(torch.float32) for their_name in sizes]
            ours[name] = torch.cat([part.T if turned else part for part in parts])  # a copy: no tie to the file
    ignored = (*layout.computed, HEAD) if config.tie_embeddings else layout.computed
    problems += [f"{name} is not known" for name in theirs if name not in known and not name.endswith(ignored)]
    if problems:
        shown = "; ".join(problems[:MISMATCHES_SHOWN])
        more = f"; and {len(problems) - MISMATCHES_SHOWN} more" if len(problems) > MISMATCHES_SHOWN else ""
        raise WindlassError("DataCorrupt", f"{folder}: the weights are not those of its config.json: {shown}{more}")
    return ours


def _stored(config: ModelConfig, name: str, weight: Tensor) -> tuple[bool, dict[str, int]]:
    """How their files hold our weight: whether transposed, and the rows of ours under each of their names."""
    layout, head_size = layout_of(config), config.hidden_size // config.heads
    names = their_names(layout, name)
    qkv = [config.heads * head_size, config.kv_heads * head_size, config.kv_heads * head_size]
    turned = layout.transposed and name.startswith("blocks.") and weight.ndim == 2
    return turned, dict(zip(names, qkv if len(names) == 3 else [len(weight)], strict=True))


def _without_weights(config: ModelConfig) -> Decoder:
    with torch.device("meta"):
        return Decoder(config)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    names = [WEIGHTS]
    if (folder / INDEX).exists():
        names = sorted(set(_read_json(folder / INDEX)["weight_map"].values()))
    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            weights |= load_file(folder / name)
        except FileNotFoundError as error:
            raise WindlassError(
                "DataNotFound", f"{folder / name} is not there; weights are read from safetensors"
            ) from error
        except SafetensorError as error:
            raise WindlassError("DataCorrupt", f"{folder / name} is damaged: {error}; copy it again") from error
    return weights


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise WindlassError(
            "DataNotFound", f"{path} is not there; {path.parent} is no model in Hugging Face layout"
        ) from error
    except ValueError as error:
        raise WindlassError("DataCorrupt", f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WindlassError("DataCorrupt", f"{path} is not a JSON object")
    return content
