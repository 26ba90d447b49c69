"""Rules of `windlass.spec.checks` in CEL, for the API server, and what may not change once a job has started.

Those that only a cluster has are in `windlass.spec.cluster`.

The API server runs them under a cost limit, so they compare numbers and presence, and leave the rest (regular
expressions, head sizes of rotary positions) to the operator, which runs all checks and reports ConfigInvalid.
"""

from dataclasses import dataclass

from windlass.spec.fields import fields
from windlass.spec.job import JobSpec, ModelOverrides, Workers
from windlass.spec.presets import PRESETS, TOKENIZERS


@dataclass(frozen=True)
class Rule:
    """An entry of x-kubernetes-validations."""

    rule: str
    """A CEL expression that is true of what is allowed."""
    message: str
    """What to say otherwise; names the field, what is allowed, and the remedy."""
    field: str = ""
    """The field to name, below the one that holds the rule, as in .maxSteps."""


def _needs(field: str, condition: str, message: str) -> Rule:
    """A rule for a field that may be given only under a condition."""
    return Rule(f"!has(self{field}) || {condition}", f"{field.rpartition('.')[2]} {message}", field)


def _exactly_one(*names: str) -> Rule:
    listed = ", ".join(f"has(self.{name})" for name in names)
    return Rule(f"[{listed}].filter(given, given).size() == 1", f"give exactly one of {', '.join(names)}")


def _chosen(field: str) -> str:
    """The value of a field of the model's config: the override, or else the preset's."""
    table = ", ".join(f"'{name}': {preset.config.model_dump()[field]}" for name, preset in PRESETS.items())
    return f"(has(self.config.{field}) ? self.config.{field} : {{{table}}}[self.preset])"


def _model_rules() -> list[Rule]:
    overrides = " || ".join(
        f"has(self.config.{info.alias or name})" for name, info in ModelOverrides.model_fields.items()
    )
    with_head_size = [name for name, preset in PRESETS.items() if preset.config.head_size]
    return [
        _exactly_one("preset", "from", "custom"),
        Rule(
            f"has(self.preset) || !({overrides})",
            "config changes a preset's architecture: give preset as well",
            ".config",
        ),
        Rule(
            f"!has(self.preset) || has(self.config.headSize) || self.preset in {with_head_size} "
            f"|| {_chosen('hiddenSize')} % {_chosen('heads')} == 0",
            "config.heads must divide config.hiddenSize; what is left out is the preset's",
            ".config.heads",
        ),
        Rule(
            f"!has(self.preset) || !has(self.config.kvHeads) || {_chosen('heads')} % self.config.kvHeads == 0",
            "config.kvHeads must divide config.heads",
            ".config.kvHeads",
        ),
        Rule(
            f"!has(self.preset) || !has(self.trainable.blocks) || self.trainable.blocks <= {_chosen('layers')}",
            "trainable.blocks is more than the model has layers; lower it",
            ".trainable.blocks",
        ),
        Rule(
            "!has(self.lora) || self.lora.quantize == 'None' || has(self.from)",
            "lora.quantize quantises the weights of model.from: give them, or leave it out",
            ".lora.quantize",
        ),
    ]


def _spec_rules() -> list[Rule]:
    micro = "(type(self.training.microBatchSize) == int ? self.training.microBatchSize : 1)"
    gpus = "(self.workers.?gpusPerWorker.orValue(0) > 0 ? self.workers.gpusPerWorker : 1)"
    per_worker = f"{gpus} * {micro}"
    divides = f"self.training.globalBatchSize % (self.workers.{{}} * {per_worker}) == 0"
    context = _chosen("contextLength").replace("self.", "self.model.")
    return [
        Rule(
            f"!has(self.data.sequenceLength) || !has(self.model.preset) || self.data.sequenceLength <= {context}",
            "data.sequenceLength is longer than the model's context; lower it, or raise model.config.contextLength",
            ".data.sequenceLength",
        ),
        Rule(
            "(self.task == 'Classify') == has(self.model.head)",
            "model.head holds the labels of task Classify: it is needed there, and goes with no other task",
            ".model.head",
        ),
        Rule(
            "(self.task != 'Pretrain') == has(self.data.examples)",
            "data.examples holds what all tasks but Pretrain learn from: it is needed there, and goes with no Pretrain",
            ".data.examples",
        ),
        Rule(
            "!has(self.model.lora) || self.model.lora.quantize == 'None' "
            "|| self.training.parallelism.strategy in ['Auto', 'DDP']",
            "training.parallelism.strategy has to be DDP or Auto with model.lora.quantize: quantised weights are not "
            "sharded",
            ".training.parallelism.strategy",
        ),
        _needs(".data.template", "self.task in ['Instruct', 'Preference']", "goes with tasks Instruct and Preference"),
        _needs(".training.preference", "self.task == 'Preference'", "goes with task Preference only"),
        Rule(
            divides.format("replicas"),
            "globalBatchSize must be a multiple of workers.replicas x workers.gpusPerWorker x microBatchSize",
            ".training.globalBatchSize",
        ),
        *(
            Rule(
                f"!has(self.workers.{bound}) || {divides.format(bound)}",
                f"globalBatchSize must be a multiple of workers.{bound} x workers.gpusPerWorker x microBatchSize",
                f".workers.{bound}",
            )
            for bound in ("minReplicas", "maxReplicas")
        ),
        Rule(
            f"!has(self.tokenizer) || self.tokenizer in {list(TOKENIZERS)} "
            "|| self.tokenizer.contains('/') || self.tokenizer.contains('.')",
            f"tokenizer is none of {', '.join(TOKENIZERS)}, hf://org/name, or a tokenizer.json",
            ".tokenizer",
        ),
    ]


def _workers_rules() -> list[Rule]:
    return [
        _needs(".minReplicas", "self.minReplicas <= self.replicas", "is more than replicas; lower it"),
        _needs(".maxReplicas", "self.maxReplicas >= self.replicas", "is less than replicas; raise it"),
    ]


def _started_rules() -> list[Rule]:
    """What stays as it is from the first start on: all but lifecycle, and workers.replicas within its bounds."""
    fixed = [(f"spec.{name}", info) for name, info in fields(JobSpec).items() if name not in ("workers", "lifecycle")]
    fixed += [(f"spec.workers.{name}", info) for name, info in fields(Workers).items() if name != "replicas"]
    bounded = "has(self.spec.workers.minReplicas) || has(self.spec.workers.maxReplicas)"
    return [
        *(
            Rule(
                _once_started(_unchanged(path, optional=info.default is None)),
                f"{path} cannot change once the job has started; make a new job",
                f".{path}",
            )
            for path, info in fixed
        ),
        Rule(
            _once_started(f"self.spec.workers.replicas == oldSelf.spec.workers.replicas || {bounded}"),
            "spec.workers.replicas can change only within minReplicas and maxReplicas, once the job has started",
            ".spec.workers.replicas",
        ),
    ]


def _unchanged(path: str, *, optional: bool) -> str:
    equal = f"self.{path} == oldSelf.{path}"
    return f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || {equal})" if optional else equal


def _once_started(condition: str) -> str:
    return f"oldSelf.?status.?attempt.orValue(0) == 0 || ({condition})"


def rules() -> dict[str, list[Rule]]:
    """The rules by the path of the object that holds them; the empty path is the whole resource."""
    return {
        "": _started_rules(),
        "spec": _spec_rules(),
        "spec.model": _model_rules(),
        "spec.model.trainable": [
            Rule("(self.scope == 'LastBlocks') == has(self.blocks)", "blocks goes with scope LastBlocks", ".blocks"),
            Rule(
                "(self.scope == 'Matching') == (has(self.patterns) && self.patterns.size() > 0)",
                "patterns goes with scope Matching",
                ".patterns",
            ),
        ],
        "spec.data": [
            Rule(
                "[has(self.prepare) || self.train.size() > 0, has(self.examples)].filter(given, given).size() == 1",
                "give train, or prepare, which makes a corpus, or examples",
            ),
            Rule(
                "!has(self.prepare) || self.train.size() <= 1",
                "train has at most one URI with prepare: where the corpus goes",
                ".train",
            ),
            Rule("!self.documentMask || self.packing", "documentMask needs packing: true", ".documentMask"),
            Rule("!has(self.stride) || self.packing", "stride needs packing: true", ".stride"),
        ],
        "spec.training": [
            _exactly_one("maxSteps", "maxTokens", "epochs"),
            Rule(
                "!has(self.maxSteps) || self.schedule.warmupSteps <= self.maxSteps",
                "schedule.warmupSteps is more than maxSteps; lower it, or train longer",
                ".schedule.warmupSteps",
            ),
            Rule(
                "self.microBatchSize == 'Auto' || (type(self.microBatchSize) == int && self.microBatchSize >= 1)",
                "microBatchSize must be a number of sequences, at least 1, or Auto",
                ".microBatchSize",
            ),
        ],
        "spec.workers": _workers_rules(),
        "spec.lifecycle.restarts": [
            Rule(
                "self.maxBackoffSeconds >= self.backoffSeconds",
                "maxBackoffSeconds is less than backoffSeconds; raise it",
                ".maxBackoffSeconds",
            )
        ],
    }
