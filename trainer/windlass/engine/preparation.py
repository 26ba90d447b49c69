"""From a job to what its ranks need: the corpora, the plan and the baseline."""

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from windlass.data.corpus import Corpus
from windlass.data.preparation.processes import processors
from windlass.data.prepare import ensure_prepared
from windlass.data.samples import Windows
from windlass.data.stream import validation_batches
from windlass.data.tokenizers import BUILT_IN, Tokenizer, load_tokenizer
from windlass.engine.bases import (
    Base,
    find_base,
    pinned_checkpoint,
    require_context,
    require_tasks_of,
    require_weights,
    tokenizer_of,
    write_base,
)
from windlass.engine.examples import prepare_examples
from windlass.engine.machine import Machine, environment, threads_of_rank
from windlass.engine.prompts import prompt_encoder
from windlass.engine.rank_settings import RankSettings
from windlass.engine.run_folder import RunFolder, read_json, write_json
from windlass.engine.suites import open_suites
from windlass.errors import WindlassError
from windlass.evaluation.bigram import Bigram
from windlass.planning.batching import total_steps
from windlass.planning.compute import count_parameters
from windlass.planning.plan import Plan, make_plan
from windlass.spec.job import Data, LLMTrainingJob, Model
from windlass.spec.presets import ModelConfig, custom_config, model_config, tokenizer_name
from windlass.storage import Storage

Progress = Callable[[str], None]
WeightedCorpora = list[tuple[Corpus, float]]


@dataclass(frozen=True)
class Prepared:
    """What of a run depends on no machine."""

    job: LLMTrainingJob
    config: ModelConfig
    base: Base | None
    tokenizer: Tokenizer
    train: WeightedCorpora
    validation: WeightedCorpora
    examples: str | None = None
    """Hash of the examples, in place of corpora."""
    train_examples: int = 0

    @property
    def train_tokens(self) -> int | None:
        """None for examples, which are as long as they are."""
        return None if self.examples else sum(corpus.split("train").tokens for corpus, _ in self.train)

    def steps(self, sequence_length: int) -> int:
        """Optimizer steps of the whole run."""
        data = self.job.spec.data
        if self.examples is not None:
            return total_steps(self.job.spec.training, sequence_length, self.train_examples)
        windows = Windows(sequence_length, data.stride, data.packing)
        samples = sum(windows.order(corpus, seed=0).samples for corpus, _ in self.train)
        return total_steps(self.job.spec.training, sequence_length, samples)


def prepare_run(job: LLMTrainingJob, run: RunFolder, machine: Machine, ranks: int, progress: Progress) -> RankSettings:
    """Prepare the corpus if it isn't, measure the baseline, plan. `progress` is told what happens, and may raise."""
    settings = settings_for(prepare_data(job, run, progress), run, machine, ranks)
    tell_plan(settings, run, machine)
    return settings


def prepare_data(job: LLMTrainingJob, run: RunFolder, progress: Progress) -> Prepared:
    """Prepare the corpus if it isn't, and measure the baseline. `progress` is told what happens, and may raise."""
    base, config, tokenizer = find_model(job, run.path.parent, pinned_checkpoint(run, job.spec.model.from_ or ""))
    _require_prompts(job, config, tokenizer)
    with open_suites(job.spec.evaluation):
        pass  # what is missing is said now; each rank opens its own
    if base is not None:
        require_weights(base)
        write_base(base, run)
    if tokenizer.name not in BUILT_IN or base is not None:
        tokenizer.save(run.tokenizer)
    if job.spec.data.examples is not None:
        examples, number = prepare_examples(job, config, tokenizer, Storage(run.checkpoints_uri(job)), progress)
        return Prepared(job, config, base, tokenizer, [], [], examples, number)
    corpora = open_corpora(job, corpora_folder(run.path.parent), tokenizer, progress)
    prepared = Prepared(job, config, base, tokenizer, *corpora)
    if job.spec.evaluation.baseline == "Bigram":
        measure_baseline(prepared, run)
    return prepared


def _require_prompts(job: LLMTrainingJob, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raise ConfigInvalid for a prompt of which a model would read the end only."""
    encode = prompt_encoder(job.spec, tokenizer)
    for number, prompt in enumerate(job.spec.evaluation.prompts):
        if (length := len(encode(prompt))) > config.context_length:
            raise WindlassError(
                "ConfigInvalid",
                f"spec.evaluation.prompts[{number}]: it has {length:,} tokens, and the model's context "
                f"{config.context_length:,}; shorten it",
            )


def find_model(
    job: LLMTrainingJob, runs: Path, pinned: str | None = None
) -> tuple[Base | None, ModelConfig, Tokenizer]:
    """What the job's model starts from, its architecture, and its tokenizer.

    Arguments as of `find_base`. Raises WindlassError: ConfigInvalid, DataNotFound, DataCorrupt.
    """
    model = job.spec.model
    if model.from_ is None:
        tokenizer = load_tokenizer(tokenizer_name(job.spec))
        if model.custom is not None:
            from windlass.models.custom import try_out

            assert job.spec.data.sequence_length is not None
            config = custom_config(model, tokenizer.vocab_size, job.spec.data.sequence_length)
            try_out(config, model.head.labels if model.head else None)
            return None, config, tokenizer
        return None, model_config(model, tokenizer.vocab_size), tokenizer
    base = find_base(model.from_, runs, pinned)
    require_context(base, job.spec.data.sequence_length)
    require_tasks_of(base, job.spec)
    if base.config.theirs is not None or model.lora is not None:
        from windlass.models.build import count_trained

        count_trained(base.config, model)  # what cannot be built or trained is refused before data are prepared
    return base, base.config, tokenizer_of(base, job.spec.tokenizer)


def settings_for(prepared: Prepared, run: RunFolder, machine: Machine, ranks: int) -> RankSettings:
    """What `ranks` ranks need on a machine."""
    job = prepared.job
    plan = plan_on(machine, job, ranks, prepared.config, prepared.train_tokens)
    steps = prepared.steps(plan.sequence_length)
    if prepared.examples is not None:
        plan = replace(plan, steps=steps, epochs=steps * job.spec.training.global_batch_size / prepared.train_examples)
    return RankSettings(
        job=job,
        folder=run.path,
        config=prepared.config,
        base=prepared.base,
        plan=plan,
        total_steps=steps,
        tokenizer=_place_of_tokenizer(prepared),
        train=[(corpus.uri, weight) for corpus, weight in prepared.train],
        validation=[(corpus.uri, weight) for corpus, weight in prepared.validation],
        examples=prepared.examples,
        threads=machine.threads or threads_of_rank(ranks),
    )


def tell_plan(settings: RankSettings, run: RunFolder, machine: Machine) -> None:
    """Write down what will be trained, and on what."""
    write_json(run.plan, asdict(settings.plan) | {"steps": settings.total_steps})
    write_json(run.environment, environment(machine))
    for line in plan_lines(settings.plan, settings.base):
        run.tell("plan", line)


def plan_lines(plan: Plan, base: Base | None) -> list[str]:
    """The plan for people, with what the model starts from."""
    return [*plan.lines(), *([f"{'Base':<12} {base.description}"] if base else [])]


def _place_of_tokenizer(prepared: Prepared) -> str:
    """What every rank can load it by."""
    if prepared.base is None or prepared.base.tokenizer is None:
        return tokenizer_name(prepared.job.spec)
    return prepared.tokenizer.name if prepared.tokenizer.name in BUILT_IN else prepared.base.tokenizer


def plan_on(machine: Machine, job: LLMTrainingJob, ranks: int, config: ModelConfig, train_tokens: int | None) -> Plan:
    """The plan of a job for `ranks` ranks on this machine; arguments and errors as of `make_plan`, `build_model`."""
    return make_plan(
        job,
        config,
        world_size=ranks,
        device=machine.device,
        device_memory=machine.memory_of_rank(ranks),
        train_tokens=train_tokens,
        compute_capability=machine.compute_capability,
        counts=_count_trained(config, job.spec.model),
    )


def _count_trained(config: ModelConfig, model: Model) -> tuple[int, int, int]:
    """As `windlass.models.build.count_trained`, without importing torch for a decoder that is trained whole."""
    if model.trainable.scope == "All" and not (model.head or model.lora or config.custom or config.theirs):
        return count_parameters(config), count_parameters(config), 0
    from windlass.models.build import count_trained

    return count_trained(config, model)


def corpora_folder(runs: Path) -> Path:
    """Where corpora go that have no URI of their own: corpora/ beside the runs."""
    return runs.absolute().parent / "corpora"


def open_corpora(
    job: LLMTrainingJob,
    prepared: Path,
    tokenizer: Tokenizer,
    progress: Progress,
    workers: int | None = None,
    executor: Executor | None = None,
) -> tuple[WeightedCorpora, WeightedCorpora]:
    """The corpora to train and to validate on. A corpus that the job prepares goes to `prepared` if it names no URI.

    `workers` and `executor` as of `ensure_prepared`; by default a process for each processor of this machine.
    Raises WindlassError: DataNotFound, or ConfigInvalid where a corpus was made with another tokenizer.
    """
    data = job.spec.data
    if data.prepare is not None:
        [(uri, _)] = places_of_corpora(data, prepared, tokenizer)
        size = workers or processors()
        corpus, _ = ensure_prepared(data.prepare, tokenizer, uri, progress, workers=size, executor=executor)
        train = [(corpus, 1.0)]
    else:
        train = [(Corpus.open(uri), weight) for uri, weight in places_of_corpora(data, prepared, tokenizer)]
    validation = [(Corpus.open(source.uri), source.weight) for source in data.validation] or train
    for corpus, _ in train + validation:
        corpus.require_tokenizer(tokenizer)
    return train, validation


def places_of_corpora(data: Data, prepared: Path, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """URIs and weights of the corpora to train on; arguments as of `open_corpora`."""
    if data.prepare is None or data.train:
        return [(source.uri, source.weight) for source in data.train]
    return [(str(prepared / corpus_name(data, tokenizer)), 1.0)]


def corpus_name(data: Data, tokenizer: Tokenizer) -> str:
    """Folder name of a corpus that has no URI of its own: readable, and the same for all jobs that prepare it alike."""
    assert data.prepare is not None
    words = re.sub(r"[^a-z0-9]+", "-", data.prepare.sources[0].uri.lower()).strip("-")[-40:].strip("-")
    what = data.prepare.model_dump_json() + tokenizer.fingerprint
    return f"{words}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"


def measure_baseline(prepared: Prepared, run: RunFolder) -> None:
    """Fit a bigram model and write its loss on the windows that the model is validated on; once for the same inputs."""
    spec = prepared.job.spec
    vocab_size = prepared.tokenizer.vocab_size
    sequence_length = spec.data.sequence_length or prepared.config.context_length
    inputs = {
        "corpora": [
            [[corpus.id, weight] for corpus, weight in corpora] for corpora in (prepared.train, prepared.validation)
        ],
        "windows": [spec.data.packing, spec.data.document_mask],
        "sequence_length": sequence_length,
        "max_tokens": spec.evaluation.max_tokens,
    }
    if (read_json(run.baseline) or {}).get("of") == inputs:
        return
    bigram = Bigram.fit([(corpus.split("train"), weight) for corpus, weight in prepared.train], vocab_size)
    windows = validation_batches(
        prepared.validation,
        sequence_length=sequence_length,
        batch_size=32,
        max_tokens=spec.evaluation.max_tokens,
        rank=0,
        world_size=1,
        packing=spec.data.packing,
        document_mask=spec.data.document_mask,
    )
    loss = bigram.loss(windows)
    write_json(run.baseline, {"name": "bigram", "validation_loss": loss, "of": inputs})
    run.tell("info", f"Bigram baseline: validation loss {loss:.4f}")
