"""Weights in and out: folders in Hugging Face layout, which transformers reads and writes; it is not needed here."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.models.classifier import Classifier, require_last_token
from windlass.models.decoder import Decoder, assign
from windlass.models.families import FAMILIES, family_of, read_config, write_config
from windlass.models.layouts import HEAD, Layout, parts
from windlass.models.weight_files import SAFETENSORS, WeightFiles, open_weights
from windlass.spec.presets import ModelConfig

SCORE = "score.weight"
"""A classifier's head; it is not read, since a job names its own labels."""
MISMATCHES_SHOWN = 5
NOT_GENERATION = ("_from_model_config", "transformers_version")


def export_model(
    model: Decoder,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    generation: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
) -> None:
    """Write config.json, generation_config.json, model.safetensors (float32) and the tokenizer's files to `folder`.

    It appears whole or not at all. Biases that the model lacks and its architecture in transformers has are zeros.

    Args:
        generation: the generation_config.json of the model that this one was made from.
        chat_template: in Jinja, in place of the tokenizer's.

    Raises:
        WindlassError: ConfigInvalid, when transformers has no such architecture or `folder` is not empty; StorageFull.
    """
    config = write_config(model.config, tokenizer.end_of_document)
    weights = to_their_weights(model)
    if isinstance(model, Classifier):
        config |= _of_classifier(model, config)
        weights[SCORE] = model.score.weight.detach().to("cpu", torch.float32).contiguous()
    with new_folder(folder, sum(weight.nbytes for weight in weights.values())) as unfinished:
        (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        end, length = tokenizer.end_of_document, model.config.context_length
        usual = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "max_length": length}
        given = {name: value for name, value in (generation or {}).items() if name not in NOT_GENERATION}
        (unfinished / "generation_config.json").write_text(json.dumps(usual | given, indent=2) + "\n")
        save_file(weights, unfinished / SAFETENSORS, metadata={"format": "pt"})
        tokenizer.save(unfinished)
        if chat_template is not None:
            (unfinished / "chat_template.jinja").write_text(chat_template)


@contextmanager
def new_folder(folder: Path, needed: int) -> Iterator[Path]:
    """A folder to write `needed` bytes to, which becomes `folder` at the end, whole or not at all.

    Raises WindlassError: ConfigInvalid where `folder` is not empty; StorageFull.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WindlassError("ConfigInvalid", f"{folder} exists and is not an empty folder; name another, or delete it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder.parent).free < needed:
        raise WindlassError("StorageFull", f"{folder}: {needed:,} bytes are needed and fewer are free; free some space")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _of_classifier(model: Classifier, config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of a classifier besides; transformers' read the last token that does not pad."""
    require_last_token(model)
    names = [name.removesuffix("LMHeadModel").removesuffix("ForCausalLM") for name in config["architectures"]]
    return {
        "architectures": [f"{name}ForSequenceClassification" for name in names],
        "id2label": dict(enumerate(model.labels)),
        "label2id": {label: number for number, label in enumerate(model.labels)},
        "pad_token_id": config["eos_token_id"],
    }


def load_model(folder: Path) -> Decoder:
    """Read a model, in float32 on the CPU and in evaluation mode.

    Raises:
        WindlassError: DataNotFound for a missing file, DataCorrupt for weights that are not what config.json says,
            ConfigInvalid for an architecture that the decoder is not.
    """
    model = _without_weights(load_config(folder))
    load_weights(model, folder)
    return model.eval()


def load_config(folder: Path) -> ModelConfig:
    """The configuration of the model in a folder; errors as of `load_model`."""
    return read_config(_read_json(folder / "config.json"))


def load_weights(model: Decoder, folder: Path) -> None:
    """Fill a model's parameters, each by itself: there are never two copies of more than one of them.

    A parameter on the meta device becomes one on the CPU, in float32; of one that is sharded, each rank keeps its part.

    Raises:
        WindlassError: as `load_model`; DataCorrupt has the names of weights that are missing, too many, or of another
            shape, found before any is read.
    """
    layout = FAMILIES[_read_json(folder / "config.json")["model_type"]].layout
    with open_weights(folder) as files:
        stored = {_full_name(layout, name): name for name in files.shapes}
        _check(model, layout, files.shapes, str(folder))
        for name, parameter in model.named_parameters():
            _fill(model, name, parameter, layout, files, stored)


def check_weights(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], place: str) -> None:
    """Raise DataCorrupt where names and shapes in files are not those that their config.json describes."""
    _check(_without_weights(read_config(dict(config))), FAMILIES[config["model_type"]].layout, shapes, place)


@torch.no_grad()
def _fill(
    model: Decoder, name: str, parameter: Tensor, layout: Layout, files: WeightFiles, stored: dict[str, str]
) -> None:
    in_place = parameter.device.type == "cpu" and not isinstance(parameter, DTensor)
    full = parameter if in_place else torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
    row = 0
    for part in parts(layout, model.config, name, parameter):
        full[row : row + part.rows] = part.of(files.read(stored[part.name]))
        if part.offset:
            full[row : row + part.rows] += part.offset
        row += part.rows
    if parameter.is_meta:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(full))
    elif not in_place:
        assign(parameter, full)


def _check(model: Decoder, layout: Layout, shapes: Mapping[str, tuple[int, ...]], place: str) -> None:
    stored = {_full_name(layout, name): shape for name, shape in shapes.items()}
    problems, known = [], set[str]()
    for name, parameter in model.named_parameters():
        for part in parts(layout, model.config, name, parameter):
            if part.name in known:
                continue
            known.add(part.name)
            if part.name not in stored:
                problems.append(f"{part.name} is missing")
            elif (shape := stored[part.name]) != part.shape:
                problems.append(f"{part.name} has shape {list(shape)} and not {list(part.shape)}")
    ignored = (*layout.computed, SCORE, *([f"{HEAD}weight"] if model.config.tie_embeddings else []))
    problems += [f"{name} is not known" for name in stored if name not in known and not name.endswith(ignored)]
    if problems:
        shown = "; ".join(problems[:MISMATCHES_SHOWN])
        more = f"; and {len(problems) - MISMATCHES_SHOWN} more" if len(problems) > MISMATCHES_SHOWN else ""
        raise WindlassError("DataCorrupt", f"{place}: the weights are not those of its config.json: {shown}{more}")


def to_their_weights(model: Decoder) -> dict[str, Tensor]:
    """Their name -> weight, on the CPU in float32; errors as of `family_of`."""
    kind, whole = family_of(model.config)
    weights: dict[str, Tensor] = {}
    ours = model.state_dict()
    for name, like in _without_weights(whole).named_parameters():
        weight = ours[name].detach().to("cpu", torch.float32) if name in ours else torch.zeros(like.shape)
        row = 0
        for part in parts(FAMILIES[kind].layout, whole, name, like):
            theirs = weights.setdefault(part.name, torch.empty(part.shape))
            part.of(theirs).copy_(weight[row : row + part.rows]).sub_(part.offset)
            row += part.rows
    return weights


def _full_name(layout: Layout, name: str) -> str:
    return name if name.startswith((layout.base, HEAD)) else layout.base + name


def _without_weights(config: ModelConfig) -> Decoder:
    with torch.device("meta"):
        return Decoder(config)


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
