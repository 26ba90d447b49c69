"""What `spec.model.from` names: weights that are found once, when a run starts, and are the same when it continues."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import xxhash

from windlass.data.tokenizers import FILES, Tokenizer, load_tokenizer
from windlass.engine.run_folder import RunFolder, read_json, write_json
from windlass.errors import WindlassError
from windlass.models.families import read_config
from windlass.spec.checks import packed_documents, unexported_pooling
from windlass.spec.job import RUN, JobSpec
from windlass.spec.presets import ModelConfig
from windlass.storage import Storage, shown
from windlass.training.commits import Commit, CommitLog

if TYPE_CHECKING:
    from torch import Tensor

    from windlass.models.foreign import AnyModel

HUB = "hf://"
CONFIG = "config.json"
GENERATION = "generation_config.json"
_MODEL_FILES = (CONFIG, "model.safetensors.index.json", "pytorch_model.bin.index.json", *FILES)
_PART = 64 << 20  # bytes read at a time, to hash them


@dataclass(frozen=True)
class Base:
    """Weights to start from, and the architecture and tokenizer that they are for."""

    uri: str
    """As the job names it."""
    place: str
    """Where every rank finds it: folder or URI of a run, or of a model in Hugging Face layout."""
    checkpoint: str | None
    """Of a run: the folder of its checkpoint, under its checkpoints' URI."""
    identity: str
    """Hash of the weights; a run that started from others is not continued."""
    config: ModelConfig
    tokenizer: str | None
    """What `load_tokenizer` takes; None where only weights are there."""
    generation: dict[str, Any] = field(default_factory=dict)
    """How it generates, for exports of what is made from it: its generation_config.json."""

    @property
    def description(self) -> str:
        """For people: name, checkpoint and the start of the hash."""
        at = f", {self.checkpoint}" if self.checkpoint else ""
        return f"{shown(self.uri)}{at}, weights {self.identity[:12]}"


def pinned_checkpoint(run: RunFolder, uri: str) -> str | None:
    """Which checkpoint of its base a run began from, when it continues."""
    before = read_json(run.base) or {}
    return before.get("checkpoint") if before.get("uri") == uri else None


def write_base(base: Base, run: RunFolder) -> None:
    """Write down what a run starts from."""
    write_json(run.base, asdict(base) | {"config": base.config.model_dump(mode="json")})


def read_base(run: Storage) -> Base | None:
    """What a run has started from, or None where it has not got so far."""
    try:
        values = json.loads(run.read("base.json"))
    except FileNotFoundError:
        return None
    return Base(**(values | {"config": ModelConfig.model_validate_json(json.dumps(values["config"]))}))


def find_base(uri: str, runs: Path, pinned: str | None = None) -> Base:
    """What `spec.model.from` names: of a run among `runs`, its newest checkpoint, or the one that is `pinned`.

    Raises WindlassError: DataNotFound where there is none, ConfigInvalid for an architecture the decoder is not.
    """
    if uri.startswith(HUB):
        return _hugging_face(uri, *_from_hub(uri))
    if uri.startswith(RUN):
        return _of_run(uri, str(runs / uri.removeprefix(RUN).strip("/")), pinned)
    storage = Storage(uri)
    place = storage.path if storage.is_local else uri.rstrip("/")
    if storage.exists("job.yaml"):
        return _of_run(uri, place, pinned)
    if storage.exists(CONFIG):
        return _hugging_face(uri, place, storage)
    raise WindlassError(
        "DataNotFound",
        f"spec.model.from: {shown(uri)} has neither config.json, as a model in Hugging Face layout, nor job.yaml, as "
        "a run; it is run://NAME, hf://org/name, or a folder or URI of either",
    )


def _of_run(uri: str, place: str, pinned: str | None) -> Base:
    from windlass.engine.runs import config_of, find_run

    try:
        found = find_run(place)
    except WindlassError as error:
        raise WindlassError(error.reason, f"spec.model.from: {shown(uri)}: {error}") from error
    commits = CommitLog(Storage(found.checkpoints)).valid_commits()
    chosen = [commit for commit in commits if pinned in (None, commit.folder)]
    if not chosen:
        missing = (
            f"its checkpoint {pinned}, which this run began from, is gone" if pinned else "it has no checkpoint yet"
        )
        raise WindlassError("DataNotFound", f"spec.model.from: {shown(uri)}: {missing}")
    commit = chosen[0]
    generation = found.base.generation if found.base else {}
    return Base(uri, place, commit.folder, _identity_of(commit), config_of(commit), found.tokenizer, generation)


def _identity_of(commit: Commit) -> str:
    """Hash of a checkpoint's tensors and of what they were trained from, which may hold the frozen ones."""
    files = {name: record.xxh3 for name, record in commit.files.items() if name.endswith(".distcp")}
    content = {"files": files, "inputs": commit.state["inputs"]}
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hugging_face(uri: str, place: str, storage: Storage) -> Base:
    names = _files(storage)
    digest = xxhash.xxh3_128()
    for name in names:
        if name not in FILES:
            for part in _parts(storage, name, names[name]):
                digest.update(part)
    values = _read_json(storage, uri, CONFIG)
    generation = _read_json(storage, uri, GENERATION) if storage.exists(GENERATION) else {}
    try:
        config = _read_config(values)
    except WindlassError as error:
        raise WindlassError(error.reason, f"spec.model.from: {shown(uri)}: {error}") from error
    tokenizer = place.partition("@")[0] if "tokenizer.json" in names else None
    return Base(uri, place, None, digest.hexdigest(), config, tokenizer, generation)


def require_weights(base: Base) -> None:
    """Raise DataNotFound or DataCorrupt where a model's files cannot be its weights, before ranks wait for them.

    Names and shapes alone are read, not those in .bin files elsewhere than on this machine. What transformers' own
    models need, their ranks find out.
    """
    if base.checkpoint is not None:
        return
    from windlass.models.huggingface import check_weights
    from windlass.models.weight_files import open_weights, shapes_in

    storage = _storage(base.place)
    try:
        if storage.is_local:
            with open_weights(Path(storage.path)) as files:
                shapes = files.shapes
        else:
            names = [name for name in _files(storage) if name.endswith(".safetensors")]
            shapes = {key: shape for name in names for key, shape in shapes_in(storage, name).items()}
        if shapes and base.config.theirs is None:
            check_weights(_read_json(storage, base.uri, CONFIG), shapes, shown(base.uri))
    except WindlassError as error:
        raise WindlassError(error.reason, f"spec.model.from: {error}") from error


def _storage(place: str) -> Storage:
    """Where the files of a model in Hugging Face layout are."""
    return _from_hub(place)[1] if place.startswith(HUB) else Storage(place)


def _read_json(storage: Storage, uri: str, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(storage.read(name)))
    except ValueError as error:
        raise WindlassError("DataCorrupt", f"{shown(uri)}: {name} is not JSON: {error}") from error


def _read_config(values: dict[str, Any]) -> ModelConfig:
    """The decoder's configuration, or what transformers makes of one that the decoder cannot be."""
    try:
        return read_config(values)
    except WindlassError as error:
        if error.reason != "ConfigInvalid":
            raise
        try:
            from windlass.models import automodel
        except ModuleNotFoundError as missing:
            hint = "transformers may have it: pip install 'windlass[transformers]'"
            raise WindlassError("ConfigInvalid", f"{error}; {hint}") from missing
        try:
            return automodel.read_config(values)
        except WindlassError as other:
            raise WindlassError(other.reason, f"{error}; {other}") from other


def _files(storage: Storage) -> dict[str, int]:
    """A model's files and their sizes, those of its tokenizer too."""
    listed = storage.list()
    return {name: size for name, size in listed.items() if name in _MODEL_FILES or _is_weights(name)}


def _is_weights(name: str) -> bool:
    return "/" not in name and (name.endswith(".safetensors") or fnmatch(name, "pytorch_model*.bin"))


def _parts(storage: Storage, name: str, size: int) -> Iterator[bytes]:
    for start in range(0, size, _PART):
        yield storage.read(name, start, min(start + _PART, size))


def _from_hub(uri: str) -> tuple[str, Storage]:
    """A repository of the Hugging Face hub, downloaded or in its cache: the name with its commit, and the files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, _, revision = uri.removeprefix(HUB).partition("@")
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=["*.safetensors", "pytorch_model*.bin", GENERATION, *_MODEL_FILES],
        )
    except (OSError, HFValidationError) as error:  # those of its own and of the network are OSErrors
        reason = str(error).strip().splitlines()[0]
        raise WindlassError(
            "DataNotFound",
            f"spec.model.from: {uri} cannot be downloaded and is not in HF_HOME; check name, token and network: "
            f"{reason}",
        ) from error
    if not (Path(folder) / CONFIG).exists():
        raise WindlassError("DataNotFound", f"spec.model.from: {uri} has no {CONFIG}")
    return f"{HUB}{name}@{Path(folder).name}", Storage(folder)


def base_weights(base: Base, *, causal: bool = True) -> "dict[str, Tensor]":
    """Our name -> weight, in float32 on the CPU, of a language model or, not `causal`, of what a classifier is made of.

    Raises DataNotFound, DataCorrupt.
    """
    if base.checkpoint is None and base.config.theirs is not None:
        from windlass.models import automodel

        with _local(base.place) as folder:
            return automodel.base_weights(folder, causal=causal)
    return base_model(base).state_dict()


def base_model(base: Base) -> "AnyModel":
    """In float32 on the CPU, in evaluation mode. Raises DataNotFound, DataCorrupt; ConfigInvalid as `model_in`."""
    from windlass.engine.runs import load_run

    if base.checkpoint is not None:
        return load_run(base.place, base.checkpoint)[0]
    with _local(base.place) as folder:
        return model_in(folder)


def model_in(folder: Path) -> "AnyModel":
    """A language model in Hugging Face layout: the decoder, or what transformers makes of what the decoder cannot be.

    Raises WindlassError: ConfigInvalid for a classifier and what predicts no next token; DataNotFound, DataCorrupt.
    """
    from windlass.models.huggingface import load_model

    values = _read_json(Storage(str(folder)), str(folder), CONFIG)
    if any("Classif" in name for name in values.get("architectures") or []):
        raise WindlassError(
            "ConfigInvalid",
            f"{folder} is a classifier and writes no text; the accuracy of one that a run trained is in its "
            "result.json, and `windlass classify RUN` asks it for labels",
        )
    config = _read_config(values)
    if config.theirs is None:
        return load_model(folder)
    from windlass.models import automodel

    return automodel.load(folder, config)


@contextmanager
def _local(place: str) -> Iterator[Path]:
    """A model's files as a local folder; those of a storage are copied for as long as they are needed."""
    storage = _storage(place)
    if storage.is_local:
        yield Path(storage.path)
        return
    with TemporaryDirectory(prefix="windlass-") as folder:
        for name, size in _files(storage).items():
            with open(Path(folder) / name, "wb") as file:
                file.writelines(_parts(storage, name, size))
        yield Path(folder)


def tokenizer_of(base: Base, asked: str | None) -> Tokenizer:
    """The base's tokenizer, which the job may name again. Raises ConfigInvalid where it names another one."""
    if base.tokenizer is None:
        if asked is None:
            raise WindlassError(
                "ConfigInvalid",
                f"spec.tokenizer: missing, and {shown(base.uri)} has no tokenizer.json; name the one of its training",
            )
        tokenizer = load_tokenizer(asked)
    else:
        tokenizer = load_tokenizer(base.tokenizer)
        if asked is not None and not alike(load_tokenizer(asked), tokenizer):
            raise WindlassError(
                "ConfigInvalid",
                f"spec.tokenizer: {asked} is not the tokenizer of {shown(base.uri)}, {tokenizer.name} "
                f"({tokenizer.vocab_size:,} tokens); leave it out",
            )
    if tokenizer.vocab_size > base.config.vocab_size:
        raise WindlassError(
            "ConfigInvalid",
            f"spec.tokenizer: {tokenizer.name} has {tokenizer.vocab_size:,} tokens, and {shown(base.uri)} embeds "
            f"{base.config.vocab_size:,}; name the one it was trained with",
        )
    return tokenizer


def alike(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether both have the same tokens: files of one tokenizer differ, ours from those published for instance."""
    if one.fingerprint == other.fingerprint:
        return True
    return (one.vocab_size, one.end_of_document) == (other.vocab_size, other.end_of_document) and all(
        one.decode([token]) == other.decode([token]) for token in range(one.vocab_size)
    )


def require_tasks_of(base: Base, spec: JobSpec) -> None:
    """Raise ConfigInvalid for what the decoder can do and this base cannot, or the other way round."""
    is_decoder = base.config.theirs is None and base.config.custom is None
    rule, what = (unexported_pooling, "the decoder") if is_decoder else (packed_documents, "not the decoder")
    if problem := next(rule(spec), None):
        raise WindlassError("ConfigInvalid", f"{problem.path}: {shown(base.uri)} is {what}; {problem.message}")


def require_context(base: Base, sequence_length: int | None) -> None:
    """Raise ConfigInvalid where the job's sequences are longer than the base's context."""
    if sequence_length is not None and sequence_length > base.config.context_length:
        raise WindlassError(
            "ConfigInvalid",
            f"spec.data.sequenceLength: {sequence_length} is longer than the context of {shown(base.uri)}, "
            f"{base.config.context_length}; lower it",
        )
