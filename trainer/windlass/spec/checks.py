"""Rules between fields: what makes a job impossible, what is odd about it, and what this version can't run yet.

A rule is a function of the spec that yields problems. The CRD repeats those that CEL can say (`windlass.spec.crd`).
"""

import math
import re
from collections.abc import Iterable, Iterator

from windlass.errors import WindlassError
from windlass.spec.cluster import cluster_problems
from windlass.spec.job import TEMPLATES, JobSpec, LLMTrainingJob, Lora
from windlass.spec.presets import PRESETS, TOKENIZERS, ModelConfig, model_config, tokenizer_name
from windlass.spec.problems import Problem, did_you_mean

CONFIG = "spec.model.config"
TRAINING = "spec.training"
DURATIONS = ("spec.training.maxSteps", "spec.training.maxTokens", "spec.training.epochs")
EXAMPLES = {"Classify": "labelled texts", "Instruct": "conversations", "Preference": "pairs of answers"}
"""Tasks that learn from data.examples, and what these are."""
ORIGINS = ("spec.model.preset", "spec.model.from", "spec.model.custom")


def check(job: LLMTrainingJob, *, cluster: bool = False) -> list[Problem]:
    """All rules between fields that the job breaks, with `cluster` those of clusters too; empty for a good one."""
    rules = (*_RULES, cluster_problems) if cluster else _RULES
    return [problem for rule in rules for problem in rule(job.spec)]


def warnings(job: LLMTrainingJob) -> list[str]:
    """What is allowed, but probably not what was meant."""
    spec = job.spec
    strategy = spec.training.parallelism.strategy
    found = []
    if strategy != "Auto" and ranks(spec) == 1:
        found.append(
            f"spec.training.parallelism.strategy: {strategy} has nothing to share with one rank; Auto would do"
        )
    if spec.checkpoints.every_steps is None and spec.checkpoints.every_minutes is None:
        found.append("spec.checkpoints: neither everySteps nor everyMinutes; only the last step is saved")
    return found


def ranks(spec: JobSpec) -> int:
    """Processes that train: one for each GPU, or one for each worker without."""
    return spec.workers.replicas * (spec.workers.gpus_per_worker or 1)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [candidate for candidate in range(1, math.isqrt(number) + 1) if number % candidate == 0]
    return sorted({*small, *(number // candidate for candidate in small)})


def _near(wanted: int, fitting: Iterable[int]) -> str:
    """The eight numbers that are closest to the one that does not fit, ascending."""
    closest = sorted(fitting, key=lambda number: abs(number - wanted))[:8]
    return ", ".join(str(number) for number in sorted(closest))


def _exactly_one(paths: tuple[str, ...], values: list[object], holder: str) -> Iterator[Problem]:
    names = [path.rpartition(".")[2] for path in paths]
    given = [path for path, value in zip(paths, values, strict=True) if value is not None]
    if not given:
        yield Problem(holder, f"needs one of {', '.join(names)}", about=paths)
    if len(given) > 1:
        chosen = " and ".join(path.rpartition(".")[2] for path in given)
        yield Problem(given[-1], f"give exactly one of {', '.join(names)}; here are {chosen}", about=paths)


def _model_origin(spec: JobSpec) -> Iterator[Problem]:
    model = spec.model
    yield from _exactly_one(ORIGINS, [model.preset, model.from_, model.custom], "spec.model")
    if model.preset is not None and model.preset not in PRESETS:
        hint = did_you_mean(model.preset, PRESETS)
        yield Problem("spec.model.preset", f"no preset {model.preset!r}; there are {', '.join(PRESETS)}{hint}")
    if model.preset is None and (model.from_ or model.custom) and model.config.model_fields_set:
        yield Problem(CONFIG, "changes a preset's architecture, and there is no preset", about=ORIGINS)


def _custom(spec: JobSpec) -> Iterator[Problem]:
    """What nobody knows of the user's own model, and has to be said."""
    if spec.model.custom is None:
        return
    about = ORIGINS[2:]
    if spec.data.sequence_length is None:
        yield Problem("spec.data.sequenceLength", "a model of your own needs it: the model's context", about=about)
    if spec.training.micro_batch_size == "Auto":
        yield Problem(
            "spec.training.microBatchSize", "a model of your own needs a number: its memory is not known", about=about
        )
    if spec.model.trainable.scope in ("Head", "LastBlocks"):
        message = f"{spec.model.trainable.scope} is not known of a model of your own; use Matching"
        yield Problem("spec.model.trainable.scope", message, about=about)
    if spec.model.head is not None and spec.model.head.pooling == "Mean":
        message = "a model of your own gives scores after each token: LastToken or FirstToken names which one counts"
        yield Problem("spec.model.head.pooling", message, about=about)
    if spec.checkpoints.export == "HuggingFace":
        yield Problem("spec.checkpoints.export", "transformers cannot load a model of your own", about=about)
    yield from packed_documents(spec)


def packed_documents(spec: JobSpec) -> Iterator[Problem]:
    """What asks for documents of a sequence to be kept apart."""
    if spec.data.document_mask:
        yield Problem("spec.data.documentMask", "only the decoder keeps documents apart; leave it out")
    if spec.task == "Instruct" and spec.data.packing:
        yield Problem("spec.data.packing", "only the decoder keeps packed conversations apart; give packing: false")


def _tokenizer(spec: JobSpec) -> Iterator[Problem]:
    name = spec.tokenizer
    if name is not None and name not in TOKENIZERS and not re.search(r"[/.]", name):
        allowed = f"{', '.join(TOKENIZERS)}, hf://org/name, or a tokenizer.json"
        yield Problem("spec.tokenizer", f"no tokenizer {name!r}; there are {allowed}{did_you_mean(name, TOKENIZERS)}")


def _architecture(spec: JobSpec) -> Iterator[Problem]:
    if spec.model.preset not in PRESETS:
        return
    try:
        config = model_config(spec.model, TOKENIZERS.get(tokenizer_name(spec), 1))
    except WindlassError as error:
        path, _, message = error.message.partition(": ")
        yield Problem(path, message, about=("spec.tokenizer",))
        config = model_config(spec.model, 1)
    yield from _attention(config)
    yield from _choices(config)
    length = spec.data.sequence_length
    if length is not None and length > config.context_length:
        yield Problem(
            "spec.data.sequenceLength",
            f"{length} is longer than the model's context, {config.context_length}; "
            "lower it, or raise spec.model.config.contextLength",
            about=(f"{CONFIG}.contextLength", "spec.model.preset"),
        )
    trained = spec.model.trainable.blocks
    if trained is not None and trained > config.layers:
        about = (f"{CONFIG}.layers", "spec.model.preset")
        yield Problem("spec.model.trainable.blocks", f"{trained} of {config.layers} layers", about=about)


def _attention(config: ModelConfig) -> Iterator[Problem]:
    heads, width, kv_heads = config.heads, config.hidden_size, config.kv_heads
    sizes = (f"{CONFIG}.heads", f"{CONFIG}.hiddenSize", "spec.model.preset")
    if config.head_size is None and width % heads:
        fitting = _near(heads, divisors(width))
        yield Problem(sizes[0], f"{heads} does not divide hiddenSize {width}; these do: {fitting}", about=sizes[1:])
    elif config.position == "Rotary" and (config.head_size or config.rotary_fraction < 1) and config.rotary_size % 2:
        yield Problem(
            f"{CONFIG}.rotaryFraction" if config.rotary_fraction < 1 else f"{CONFIG}.headSize",
            f"{config.rotary_size} of a head's {config.head_width} would be rotated; it must be an even number",
            about=(*sizes, f"{CONFIG}.headSize", f"{CONFIG}.position"),
        )
    elif config.position == "Rotary" and config.head_width % 2:
        fitting = _near(heads, (count for count in divisors(width) if width // count % 2 == 0))
        yield Problem(
            sizes[0],
            f"rotary positions need an even head size, and hiddenSize {width} / heads {heads} is {width // heads}"
            + (f"; heads that fit: {fitting}" if fitting else "; choose an even hiddenSize"),
            about=(*sizes[1:], f"{CONFIG}.position"),
        )
    if heads % kv_heads:
        fitting = _near(kv_heads, divisors(heads))
        path = f"{CONFIG}.kvHeads"
        yield Problem(
            path, f"{kv_heads} does not divide heads {heads}; these do: {fitting}", about=(sizes[0], sizes[2])
        )


def _choices(config: ModelConfig) -> Iterator[Problem]:
    """Choices that need another one."""
    rotary, scaling, every = config.position == "Rotary", config.rope_scaling, config.global_attention_every
    needed = [
        ("ropeScaling", scaling and not rotary, "needs position: Rotary"),
        ("rotaryFraction", config.rotary_fraction < 1 and not rotary, "needs position: Rotary"),
        ("globalAttentionEvery", every and not config.sliding_window, "needs slidingWindow, that of the other layers"),
        ("localRopeTheta", config.local_rope_theta and not (rotary and every), "needs Rotary and globalAttentionEvery"),
        ("outputBias", config.output_bias and config.tie_embeddings, "needs tieEmbeddings: false"),
    ]
    if scaling and scaling.type != "Linear" and scaling.original_context_length is None:
        needed.append(("ropeScaling.originalContextLength", True, f"{scaling.type} needs it: that of pretraining"))
    if scaling and scaling.high_frequency_factor <= scaling.low_frequency_factor:
        message = f"{scaling.high_frequency_factor:g} is not above lowFrequencyFactor, {scaling.low_frequency_factor:g}"
        needed.append(("ropeScaling.highFrequencyFactor", True, message))
    for field, is_wrong, message in needed:
        if is_wrong:
            yield Problem(f"{CONFIG}.{field}", message, about=(CONFIG, "spec.model.preset"))


def _trainable(spec: JobSpec) -> Iterator[Problem]:
    trainable = spec.model.trainable
    path = "spec.model.trainable"
    scope = (f"{path}.scope",)
    if (trainable.scope == "LastBlocks") != (trainable.blocks is not None):
        message = "LastBlocks needs it: how many" if trainable.blocks is None else "only with scope: LastBlocks"
        yield Problem(f"{path}.blocks", message, about=scope)
    if (trainable.scope == "Matching") != bool(trainable.patterns):
        message = (
            "only with scope: Matching" if trainable.patterns else "Matching needs it: a list of regular expressions"
        )
        yield Problem(f"{path}.patterns", message, about=scope)
    yield from _expressions(f"{path}.patterns", trainable.patterns or [])
    if spec.model.lora is not None and trainable.scope != "All":
        yield Problem(f"{path}.scope", "lora trains its adapters and nothing else; leave one of the two out")
    if spec.model.lora is not None:
        yield from _expressions("spec.model.lora.targets", spec.model.lora.targets)
        yield from _quantised(spec, spec.model.lora)


def _quantised(spec: JobSpec, lora: Lora) -> Iterator[Problem]:
    """What a base in 4 bits rules out."""
    path, strategy = "spec.model.lora.quantize", spec.training.parallelism.strategy
    if lora.quantize == "None":
        return
    if spec.model.from_ is None:
        yield Problem(path, "quantises the weights of model.from, and there are none", about=ORIGINS)
    if strategy in ("FSDP", "HSDP"):
        where = "spec.training.parallelism.strategy"
        yield Problem(where, f"{strategy} does not shard quantised weights; use DDP or Auto", about=(path,))


def _expressions(path: str, patterns: list[str]) -> Iterator[Problem]:
    for index, pattern in enumerate(patterns):
        try:
            re.compile(pattern)
        except re.error as error:
            yield Problem(f"{path}[{index}]", f"{pattern!r} is no regular expression: {error}")


def _task(spec: JobSpec) -> Iterator[Problem]:
    about = ("spec.task",)
    if spec.task == "Classify" and spec.model.head is None:
        yield Problem("spec.model.head", "task Classify needs it: the labels", about=about)
    if spec.task != "Classify" and spec.model.head is not None:
        yield Problem("spec.model.head", f"only with task Classify; this is {spec.task}", about=about)
    if spec.task not in ("Instruct", "Preference") and spec.data.template is not None:
        yield Problem("spec.data.template", f"only with task Instruct or Preference; this is {spec.task}", about=about)
    if spec.task != "Preference" and spec.training.preference is not None:
        yield Problem("spec.training.preference", f"only with task Preference; this is {spec.task}", about=about)
    if (spec.task in EXAMPLES) != (spec.data.examples is not None):
        needs = f"task {spec.task} needs it: {EXAMPLES.get(spec.task)}"
        message = needs if spec.task in EXAMPLES else f"not with task {spec.task}"
        yield Problem("spec.data.examples", message, about=about)
    if (template := spec.data.template) and "{" not in template and template not in (*TEMPLATES, "Tokenizer"):
        hint = did_you_mean(template, (*TEMPLATES, "Tokenizer"))
        message = f"{template!r} is none of {', '.join(TEMPLATES)}, Tokenizer, and no Jinja string{hint}"
        yield Problem("spec.data.template", message)
    if spec.task == "Classify" and spec.evaluation.prompts:
        yield Problem("spec.evaluation.prompts", "a classifier writes no text; leave them out", about=about)
    if spec.task == "Classify" and spec.evaluation.suites:
        yield Problem("spec.evaluation.suites", "a classifier answers no questions; leave them out", about=about)
    if spec.model.preset is not None:
        yield from unexported_pooling(spec)
    if spec.data.examples and spec.task != "Classify":
        given = {"testFraction": spec.data.examples.test_fraction, "balance": spec.data.examples.balance}
        for field in (field for field, value in given.items() if value):
            yield Problem(f"spec.data.examples.{field}", f"only with task Classify; this is {spec.task}", about=about)
    if spec.data.examples and spec.data.examples.validation_fraction + spec.data.examples.test_fraction >= 1:
        path = "spec.data.examples"
        yield Problem(f"{path}.testFraction", "with validationFraction it leaves nothing to train on", about=(path,))
    labels = spec.model.head.labels if spec.model.head else []
    if len(set(labels)) < len(labels):
        yield Problem("spec.model.head.labels", "a label is given twice")


def unexported_pooling(spec: JobSpec) -> Iterator[Problem]:
    """An export of the decoder that its pooling rules out."""
    if spec.model.head and spec.model.head.pooling != "LastToken" and spec.checkpoints.export == "HuggingFace":
        message = "HuggingFace needs pooling LastToken: transformers' classifiers have no other"
        yield Problem("spec.checkpoints.export", message, about=("spec.model.head.pooling",))


def _data(spec: JobSpec) -> Iterator[Problem]:
    data = spec.data
    about = ("spec.data.prepare", "spec.data.train")
    if data.prepare is None and not data.train and data.examples is None and spec.task not in EXAMPLES:
        yield Problem("spec.data", "needs train, the prepared corpora, or prepare, which makes one", about=about)
    if spec.task in EXAMPLES and data.examples is not None and (data.prepare is not None or data.train):
        yield Problem("spec.data.examples", "takes the place of train and prepare; leave these out", about=about)
    if data.prepare is not None and len(data.train) > 1:
        message = f"with prepare, at most one URI, where the corpus goes; here are {len(data.train)}"
        yield Problem("spec.data.train", message, about=about[:1])
    if data.document_mask and not data.packing:
        yield Problem("spec.data.documentMask", "needs packing: true", about=("spec.data.packing",))
    if data.stride is not None and not data.packing:
        yield Problem("spec.data.stride", "needs packing: true", about=("spec.data.packing",))


def _duration(spec: JobSpec) -> Iterator[Problem]:
    training = spec.training
    yield from _exactly_one(DURATIONS, [training.max_steps, training.max_tokens, training.epochs], TRAINING)
    warmup = training.schedule.warmup_steps
    if training.max_steps is not None and warmup > training.max_steps:
        message = f"{warmup} is more than maxSteps, {training.max_steps}; the peak learning rate would never be reached"
        yield Problem("spec.training.schedule.warmupSteps", message, about=DURATIONS[:1])


def _batch(spec: JobSpec) -> Iterator[Problem]:
    workers, training = spec.workers, spec.training
    total = training.global_batch_size
    gpus = workers.gpus_per_worker or 1
    micro = 1 if training.micro_batch_size == "Auto" else training.micro_batch_size
    counts = {"replicas": workers.replicas, "minReplicas": workers.min_replicas, "maxReplicas": workers.max_replicas}
    for name, count in counts.items():
        share = (count or 1) * gpus * micro
        if count is None or total % share == 0:
            continue
        factors = {name: count, "gpusPerWorker": gpus, "microBatchSize": micro}
        product = " x ".join(f"{factor} {number}" for factor, number in factors.items() if number > 1)
        around = [str(number) for number in (total // share * share, (total // share + 1) * share) if number]
        fitting = [f"globalBatchSize {' or '.join(around)}"]
        if total % (gpus * micro) == 0:
            fitting.append(f"{name} {_near(count, divisors(total // (gpus * micro)))}")
        if micro > 1 and total % (count * gpus) == 0:
            fitting.append(f"microBatchSize {_near(micro, divisors(total // (count * gpus)))}")
        yield Problem(
            "spec.training.globalBatchSize",
            f"{total} is not a multiple of {product}; these fit: {'; '.join(fitting)}",
            about=(f"spec.workers.{name}", "spec.workers.gpusPerWorker", "spec.training.microBatchSize"),
        )


def _workers(spec: JobSpec) -> Iterator[Problem]:
    workers = spec.workers
    about = ("spec.workers.replicas", "spec.workers.maxReplicas")
    low, high = workers.min_replicas or workers.replicas, workers.max_replicas or workers.replicas
    if low > workers.replicas:
        yield Problem("spec.workers.minReplicas", f"{low} is more than replicas, {workers.replicas}", about=about[:1])
    if high < workers.replicas:
        yield Problem("spec.workers.maxReplicas", f"{high} is less than replicas, {workers.replicas}", about=about[:1])


def _restarts(spec: JobSpec) -> Iterator[Problem]:
    restarts = spec.lifecycle.restarts
    path = "spec.lifecycle.restarts"
    if restarts.max_backoff_seconds < restarts.backoff_seconds:
        message = f"{restarts.max_backoff_seconds:g} is less than backoffSeconds, {restarts.backoff_seconds:g}"
        yield Problem(f"{path}.maxBackoffSeconds", message, about=(f"{path}.backoffSeconds",))


_RULES = (
    _model_origin,
    _custom,
    _tokenizer,
    _architecture,
    _trainable,
    _task,
    _data,
    _duration,
    _batch,
    _workers,
    _restarts,
)
