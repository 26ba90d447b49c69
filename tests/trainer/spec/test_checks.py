import pytest

from windlass.spec.checks import check, warnings
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import InvalidJob, load_job_text

GOOD = """\
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {name: shakespeare}
spec: {model: {preset: gpt2-tiny}, data: {train: [{uri: corpora/plays}]}, training: {maxSteps: 100}}
"""


CLASSIFY = ("task=Classify", "model.head.labels=[a, b]", "data={examples: {sources: [{uri: a}]}}")
INSTRUCT = ("task=Instruct", "data={examples: {sources: [{uri: a}]}}")


def job(*overrides: str) -> LLMTrainingJob:
    return load_job_text(GOOD, overrides=overrides)


def problems(*overrides: str) -> list[str]:
    with pytest.raises(InvalidJob) as caught:
        job(*overrides)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_a_good_job_breaks_no_rule() -> None:
    assert check(job()) == []
    assert warnings(job()) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model={}"], "spec.model: needs one of preset, from, custom"),
        (
            ["model={preset: gpt2-tiny, from: run://a}"],
            "spec.model.from: give exactly one of preset, from, custom; here are preset and from",
        ),
        (
            ["model={from: run://a, config: {layers: 2}}"],
            "spec.model.config: changes a preset's architecture, and there is no preset",
        ),
        (["training={}"], "spec.training: needs one of maxSteps, maxTokens, epochs"),
        (
            ["training.epochs=2", "training.maxTokens=5"],
            "spec.training.epochs: give exactly one of maxSteps, maxTokens, epochs; "
            "here are maxSteps and maxTokens and epochs",
        ),
        (
            ["data.sequenceLength=512"],
            "spec.data.sequenceLength: 512 is longer than the model's context, 256; "
            "lower it, or raise spec.model.config.contextLength",
        ),
        (
            ["model.config.heads=5"],
            "spec.model.config.heads: 5 does not divide hiddenSize 128; these do: 1, 2, 4, 8, 16, 32, 64, 128",
        ),
        (
            ["model={preset: llama-tiny, config: {heads: 8, kvHeads: 3}}"],
            "spec.model.config.kvHeads: 3 does not divide heads 8; these do: 1, 2, 4, 8",
        ),
        (
            ["model={preset: llama-tiny, config: {heads: 4, hiddenSize: 180}}"],
            "spec.model.config.heads: rotary positions need an even head size, and hiddenSize 180 / heads 4 is 45; "
            "heads that fit: 1, 2, 3, 5, 6, 9, 10, 15",
        ),
        (
            ["model={preset: llama-tiny, config: {heads: 1, kvHeads: 1, hiddenSize: 45}}"],
            "spec.model.config.heads: rotary positions need an even head size, and hiddenSize 45 / heads 1 is 45; "
            "choose an even hiddenSize",
        ),
        (
            ["model={preset: llama-tiny, config: {headSize: 15}}"],
            "spec.model.config.headSize: 15 of a head's 15 would be rotated; it must be an even number",
        ),
        (
            ["model={preset: llama-tiny, config: {rotaryFraction: 0.1}}"],
            "spec.model.config.rotaryFraction: 3 of a head's 32 would be rotated; it must be an even number",
        ),
        (["model.config.rotaryFraction=0.5"], "spec.model.config.rotaryFraction: needs position: Rotary"),
        (
            ["model.config.ropeScaling={type: Linear, factor: 2.0}"],
            "spec.model.config.ropeScaling: needs position: Rotary",
        ),
        (
            ["model={preset: llama-tiny, config: {ropeScaling: {type: Llama3, factor: 2.0}}}"],
            "spec.model.config.ropeScaling.originalContextLength: Llama3 needs it: that of pretraining",
        ),
        (
            [
                "model.preset=llama-tiny",
                "model.config.ropeScaling={type: Linear, factor: 2.0, highFrequencyFactor: 1.0}",
            ],
            "spec.model.config.ropeScaling.highFrequencyFactor: 1 is not above lowFrequencyFactor, 1",
        ),
        (
            ["model={preset: llama-tiny, config: {globalAttentionEvery: 2}}"],
            "spec.model.config.globalAttentionEvery: needs slidingWindow, that of the other layers",
        ),
        (
            ["model={preset: llama-tiny, config: {localRopeTheta: 100.0}}"],
            "spec.model.config.localRopeTheta: needs Rotary and globalAttentionEvery",
        ),
        (["model.config.outputBias=true"], "spec.model.config.outputBias: needs tieEmbeddings: false"),
        (["model.config.vocabSize=100"], "spec.model.config.vocabSize: 100 is below the tokenizer's vocabulary, 257"),
        (
            ["tokenizer=gpt-2"],
            "spec.tokenizer: no tokenizer 'gpt-2'; there are bytes, gpt2, r50k_base, cl100k_base, o200k_base, "
            "hf://org/name, or a tokenizer.json; did you mean gpt2?",
        ),
        (
            ["training.schedule.warmupSteps=101"],
            "spec.training.schedule.warmupSteps: 101 is more than maxSteps, 100; the peak learning rate would never be "
            "reached",
        ),
        (
            ["training.globalBatchSize=30", "training.microBatchSize=5", "workers.replicas=4"],
            "spec.training.globalBatchSize: 30 is not a multiple of replicas 4 x microBatchSize 5; "
            "these fit: globalBatchSize 20 or 40; replicas 1, 2, 3, 6",
        ),
        (
            ["training.globalBatchSize=48", "training.microBatchSize=9", "workers={replicas: 2, gpusPerWorker: 2}"],
            "spec.training.globalBatchSize: 48 is not a multiple of replicas 2 x gpusPerWorker 2 x microBatchSize 9; "
            "these fit: globalBatchSize 36 or 72; microBatchSize 1, 2, 3, 4, 6, 12",
        ),
        (
            ["workers={replicas: 4, minReplicas: 3}"],
            "spec.training.globalBatchSize: 32 is not a multiple of minReplicas 3; "
            "these fit: globalBatchSize 30 or 33; minReplicas 1, 2, 4, 8, 16, 32",
        ),
        (["workers={replicas: 2, minReplicas: 4}"], "spec.workers.minReplicas: 4 is more than replicas, 2"),
        (["workers={replicas: 4, maxReplicas: 2}"], "spec.workers.maxReplicas: 2 is less than replicas, 4"),
        (["model.trainable.scope=LastBlocks"], "spec.model.trainable.blocks: LastBlocks needs it: how many"),
        (["model.trainable.blocks=2"], "spec.model.trainable.blocks: only with scope: LastBlocks"),
        (["model.trainable={scope: LastBlocks, blocks: 5}"], "spec.model.trainable.blocks: 5 of 4 layers"),
        (
            ["model.trainable.scope=Matching"],
            "spec.model.trainable.patterns: Matching needs it: a list of regular expressions",
        ),
        (["model.trainable.patterns=[a]"], "spec.model.trainable.patterns: only with scope: Matching"),
        (
            ["model.trainable={scope: Matching, patterns: [a, '[b']}"],
            "spec.model.trainable.patterns[1]: '[b' is no regular expression: unterminated character set at position 0",
        ),
        (
            ["model.lora.targets=['(']"],
            "spec.model.lora.targets[0]: '(' is no regular expression: missing ), unterminated subpattern at "
            "position 0",
        ),
        (
            ["data={documentMask: true, packing: false, train: [{uri: a}]}"],
            "spec.data.documentMask: needs packing: true",
        ),
        (["data={}"], "spec.data: needs train, the prepared corpora, or prepare, which makes one"),
        (
            ["data={prepare: {sources: [{uri: a}]}, train: [{uri: a}, {uri: b}]}"],
            "spec.data.train: with prepare, at most one URI, where the corpus goes; here are 2",
        ),
        (["model.head.labels=[a, b]"], "spec.model.head: only with task Classify; this is Pretrain"),
        ([*CLASSIFY, "model.head=null"], "spec.model.head: task Classify needs it: the labels"),
        ([*CLASSIFY, "model.head.labels=[a, a]"], "spec.model.head.labels: a label is given twice"),
        ([*CLASSIFY, "data.examples=null"], "spec.data.examples: task Classify needs it: labelled texts"),
        (
            [*CLASSIFY, "data.train=[{uri: a}]"],
            "spec.data.examples: takes the place of train and prepare; leave these out",
        ),
        (
            ["data={train: [{uri: a}], examples: {sources: [{uri: a}]}}"],
            "spec.data.examples: not with task Pretrain",
        ),
        ([*CLASSIFY, "evaluation.prompts=[a]"], "spec.evaluation.prompts: a classifier writes no text; leave them out"),
        (
            [*CLASSIFY, "evaluation.suites=[{name: arc}]"],
            "spec.evaluation.suites: a classifier answers no questions; leave them out",
        ),
        (["task=Instruct"], "spec.data.examples: task Instruct needs it: conversations"),
        (
            [*INSTRUCT, "data.template=Alpacca"],
            "spec.data.template: 'Alpacca' is none of Alpaca, ChatML, Llama3, Tokenizer, and no Jinja string; "
            "did you mean Alpaca?",
        ),
        (
            [*INSTRUCT, "data.examples.testFraction=0.1"],
            "spec.data.examples.testFraction: only with task Classify; this is Instruct",
        ),
        (
            [*CLASSIFY, "data.examples.testFraction=0.95"],
            "spec.data.examples.testFraction: with validationFraction it leaves nothing to train on",
        ),
        (
            [*CLASSIFY, "model.head.pooling=Mean", "checkpoints.export=HuggingFace"],
            "spec.checkpoints.export: HuggingFace needs pooling LastToken: transformers' classifiers have no other",
        ),
        (
            ["model.lora={}", "model.trainable.scope=Head"],
            "spec.model.trainable.scope: lora trains its adapters and nothing else; leave one of the two out",
        ),
        (
            ["model.lora.quantize=NF4"],
            "spec.model.lora.quantize: quantises the weights of model.from, and there are none",
        ),
        (
            ["model={from: run://a, lora: {quantize: NF4}}", "training.parallelism.strategy=HSDP"],
            "spec.training.parallelism.strategy: HSDP does not shard quantised weights; use DDP or Auto",
        ),
        (["data.template=Alpaca"], "spec.data.template: only with task Instruct or Preference; this is Pretrain"),
        (["training.preference={}"], "spec.training.preference: only with task Preference; this is Pretrain"),
        (
            ["lifecycle.restarts.maxBackoffSeconds=5"],
            "spec.lifecycle.restarts.maxBackoffSeconds: 5 is less than backoffSeconds, 10",
        ),
    ],
)
def test_a_rule_names_the_field_and_what_would_be_right(overrides: list[str], expected: str) -> None:
    assert problems(*overrides) == [expected]


def test_an_unknown_preset_names_the_nearest() -> None:
    (problem,) = problems("model.preset=gpt2-lagre")
    assert problem.startswith("spec.model.preset: no preset 'gpt2-lagre'; there are gpt2-small, ")
    assert problem.endswith("; did you mean gpt2-large?")


def test_counts_between_elastic_bounds_need_not_fit() -> None:
    assert check(job("workers={replicas: 4, minReplicas: 2, maxReplicas: 8}")) == []


@pytest.mark.parametrize("strategy", ["DDP", "FSDP", "HSDP"])
def test_sharing_on_one_rank_is_a_warning(strategy: str) -> None:
    alone = job(f"training.parallelism.strategy={strategy}")
    assert warnings(alone) == [
        f"spec.training.parallelism.strategy: {strategy} has nothing to share with one rank; Auto would do"
    ]
    assert warnings(job(f"training.parallelism.strategy={strategy}", "workers.gpusPerWorker=2")) == []


def test_a_run_that_saves_only_its_end_is_warned_of() -> None:
    (warning,) = warnings(job("checkpoints.everyMinutes=null"))
    assert warning.startswith("spec.checkpoints: neither everySteps nor everyMinutes")
