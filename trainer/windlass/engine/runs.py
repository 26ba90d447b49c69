"""Models out of runs: the newest checkpoint's weights and tokenizer, as plain PyTorch, and text from them."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from windlass.data.tokenizers import BUILT_IN, Tokenizer, load_tokenizer
from windlass.engine.bases import Base, read_base
from windlass.engine.prompts import prompt_encoder, template_of, warn_of_length
from windlass.engine.run_folder import RunFolder
from windlass.engine.weights import give_weights
from windlass.errors import WindlassError
from windlass.models.build import build_model
from windlass.models.custom import CustomModel
from windlass.models.foreign import AnyModel, Foreign, to_empty
from windlass.models.generation import generate
from windlass.models.huggingface import export_model
from windlass.models.lora import export_adapter, merge_adapters
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import load_job, load_job_text
from windlass.spec.presets import ModelConfig, tokenizer_name
from windlass.spec.problems import did_you_mean
from windlass.storage import Storage, shown
from windlass.tasks.classify import encode, probabilities
from windlass.training.checkpoint import load_model_state
from windlass.training.commits import Commit, CommitLog

logger = logging.getLogger(__name__)

_MODEL = "model's "
"""Before the name of each of the architecture's fields, in a checkpoint's inputs."""


@dataclass(frozen=True)
class TrainedRun:
    """A run whose model is wanted: in a run folder, or in object storage, where runs on a cluster leave theirs."""

    job: LLMTrainingJob
    place: str
    """Path or URI."""
    checkpoints: str
    tokenizer: str
    """What `load_tokenizer` takes: its name, or the copy that the run keeps."""
    base: Base | None
    """What it started from, for the weights that it did not train."""


def load_run(run: Path | str, checkpoint: str | None = None, *, merge: bool = True) -> tuple[AnyModel, Tokenizer]:
    """A run's model, with the newest checkpoint's weights, on the CPU in evaluation mode, and its tokenizer.

    `run` is the run's folder, its name under runs/, or the URI of its checkpoints. A damaged checkpoint is passed over
    for the one before, unless `checkpoint` asks for one, by its folder. Adapters are merged, unless that is not wanted.
    Raises WindlassError: DataNotFound where there is no such run or no checkpoint yet.
    """
    return load_checkpoint(find_run(run), checkpoint, merge=merge)[:2]


def load_checkpoint(
    found: TrainedRun, checkpoint: str | None = None, *, merge: bool = True
) -> tuple[AnyModel, Tokenizer, Commit]:
    """As `load_run`, and which checkpoint it is."""
    tokenizer = load_tokenizer(found.tokenizer)
    log = CommitLog(Storage(found.checkpoints))
    for commit in log.valid_commits():
        if checkpoint not in (None, commit.folder):
            continue
        model = build_model(config_of(commit), found.job.spec.model)
        if isinstance(model, Foreign):
            to_empty(model, torch.device("cpu"))
        give_weights(model, found.base, found.job.spec.training.seed, trained=False)
        try:
            load_model_state(log, commit, model)
        except WindlassError as error:
            if error.reason != "CheckpointCorrupt" or checkpoint is not None:
                raise
            logger.warning("Taking the checkpoint before step %d: %s", commit.step, error)
        else:
            if merge:
                merge_adapters(model)
            return model.eval(), tokenizer, commit
    raise WindlassError("DataNotFound", f"{found.place} has no checkpoint yet. Let the run save one first.")


def describe_model(config: ModelConfig) -> dict[str, Any]:
    """An architecture as the inputs of a run, by which a checkpoint of another one is refused."""
    return {f"{_MODEL}{name}": value for name, value in config.model_dump(mode="json").items()}


def config_of(commit: Commit) -> ModelConfig:
    """The architecture that a checkpoint's weights are for."""
    inputs = commit.state["inputs"]
    values = {name.removeprefix(_MODEL): value for name, value in inputs.items() if name.startswith(_MODEL)}
    return ModelConfig.model_validate_json(json.dumps(values))


def find_run(run: Path | str) -> TrainedRun:
    """A run, given by its folder, its name under runs/, or its URI. Raises DataNotFound."""
    if "://" in str(run):
        return _stored_run(str(run).rstrip("/"))
    for path in (Path(run), Path("runs") / run):
        if (path / "job.yaml").exists():
            folder = RunFolder(path.absolute())
            job = load_job(folder.job)
            checkpoints = folder.checkpoints_uri(job)
            return TrainedRun(
                job, str(path), checkpoints, _tokenizer(job, str(folder.tokenizer)), _base(job, str(path))
            )
    raise WindlassError("DataNotFound", _no_run(Path(run)))


def _no_run(asked: Path) -> str:
    """What is missing of a run, and which one may have been meant."""
    if asked.is_absolute():
        return f"There is no run {asked.name}: {asked}/job.yaml does not exist{_near(asked)}"
    missing = f"neither {asked}/job.yaml nor runs/{asked}/job.yaml exists"
    return f"There is no run {asked}: {missing}{_near(asked) or _near(Path('runs') / asked)}"


def _near(asked: Path) -> str:
    """The nearest name among the runs beside it."""
    return did_you_mean(asked.name, sorted(job.parent.name for job in asked.parent.glob("*/job.yaml")))


def _stored_run(uri: str) -> TrainedRun:
    try:
        text = Storage(uri).read("job.yaml").decode()
    except FileNotFoundError as error:
        raise WindlassError(
            "DataNotFound",
            f"There is no run in {shown(uri)}: it has no job.yaml. Give the spec.checkpoints.uri of a job.",
        ) from error
    job = load_job_text(text, f"{shown(uri)}/job.yaml")
    return TrainedRun(job, shown(uri), uri, _tokenizer(job, f"{uri}/tokenizer"), _base(job, uri))


def _base(job: LLMTrainingJob, place: str) -> Base | None:
    return None if job.spec.model.from_ is None else read_base(Storage(place))


def _tokenizer(job: LLMTrainingJob, kept: str) -> str:
    name = tokenizer_name(job.spec)
    return name if name in BUILT_IN and job.spec.model.from_ is None else kept


def generate_text(
    run: Path | str,
    prompt: str,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[str]:
    """Yield pieces of text that continue the prompt, each as soon as its characters are whole.

    Arguments and errors as of `windlass.models.generation.generate` and `load_run`.
    """
    found = find_run(run)
    model, tokenizer, _ = load_checkpoint(found)
    if found.job.spec.model.head is not None:
        raise WindlassError("ConfigInvalid", f"{run} is a classifier, which writes no text; use `windlass classify`")
    asked = prompt_encoder(found.job.spec, tokenizer)(prompt)
    warn_of_length(asked, model.config.context_length)
    tokens = generate(
        model,
        asked,
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        end_token=tokenizer.end_of_document,
        vocab_size=tokenizer.vocab_size,
    )
    held: list[int] = []
    for token in tokens:
        held.append(token)
        text = tokenizer.decode(held)
        if not text.endswith("\N{REPLACEMENT CHARACTER}") or len(held) >= 4:  # UTF-8: at most 4 bytes a character
            yield text
            held = []
    if held:
        yield tokenizer.decode(held)


def export_run(run: Path | str, folder: Path) -> None:
    """Write a run's model and tokenizer in Hugging Face layout; errors as of `load_run` and `export_model`."""
    found = find_run(run)
    model, tokenizer, _ = load_checkpoint(found)
    template = template_of(found.job.spec, tokenizer)
    if isinstance(model, CustomModel):
        raise WindlassError("ConfigInvalid", f"{run}: transformers cannot load {model.config.custom}, a model of yours")
    if isinstance(model, Foreign):
        from windlass.models.automodel import AutoModelOf, export

        assert isinstance(model, AutoModelOf)
        export(model, tokenizer, folder, chat_template=template.source if template else None)
        return
    export_model(
        model,
        tokenizer,
        folder,
        generation=found.base.generation if found.base else None,
        chat_template=template.source if template else None,
    )


def export_run_adapter(run: Path | str, folder: Path) -> None:
    """Write a run's adapters alone, as peft reads them. Raises ConfigInvalid where it trained none."""
    found = find_run(run)
    model = found.job.spec.model
    if model.lora is None:
        raise WindlassError("ConfigInvalid", f"{found.place} trained no adapters: its job has no spec.model.lora")
    export_adapter(load_checkpoint(found, merge=False)[0], model.lora, model.from_ or "", folder)


def classify_texts(run: Path | str, texts: Sequence[str]) -> list[dict[str, float]]:
    """The probability of each label, for each text; errors as of `load_run`, and ConfigInvalid for no classifier."""
    trained = find_run(run)
    model, tokenizer, _ = load_checkpoint(trained)
    if (head := trained.job.spec.model.head) is None:
        raise WindlassError("ConfigInvalid", f"{run} is no classifier; its job's task is not Classify")
    found, is_encoder = [], model.config.theirs is not None
    for text in texts:
        example, _ = encode(tokenizer, text, 0, model.config.context_length, head.pooling, encoder=is_encoder)
        with torch.no_grad():
            scores = model(torch.from_numpy(example.inputs)[None])
        _, [likely] = probabilities(scores, torch.from_numpy(example.labels)[None])
        found.append(dict(zip(head.labels, likely, strict=True)))
    return found
