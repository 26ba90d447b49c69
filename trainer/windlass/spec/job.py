"""What an LLMTrainingJob is: every field, its type, default, bounds and meaning, in one place.

The CRD (`windlass.spec.crd`), the validation of a job file (`windlass.spec.loading`) and the reference page in the
documentation are made from these models. YAML is camelCase; Python takes camelCase and snake_case.
Rules between fields are in `windlass.spec.checks`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

API_VERSION: Final = "windlass.dev/v1alpha1"
GROUP, VERSION = API_VERSION.split("/")
KIND: Final = "LLMTrainingJob"
PLURAL: Final = "llmtrainingjobs"
TEMPLATES: Final = ("Alpaca", "ChatML", "Llama3")
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"  # that of a Service

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Quantity = int | Annotated[str, Field(pattern=r"^[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$")]
"""A Kubernetes quantity: 2, "0.5", "500m", "16Gi"."""
Uri = Annotated[str, Field(min_length=1, max_length=1024)]
"""A place; its length is bounded, since the API server bounds the work of the rules that look at it."""
PodTemplate = dict[str, Any]
"""A fragment of a PodTemplateSpec, merged into what Windlass makes."""


class SpecModel(BaseModel):
    """Base of all models here: camelCase in YAML, unknown fields are errors, no silent conversion of types.

    The text under a field is its description in the CRD and the reference page.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class ObjectMeta(SpecModel):
    """The resource's name and labels."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=52)]
    """Name of the job and of its run folder: a lower-case letter, then such, digits and dashes, at most 52."""
    namespace: str | None = None
    """Kubernetes namespace; unused on one machine."""
    labels: dict[str, str] = {}
    """Kubernetes labels, copied to everything the job creates."""
    annotations: dict[str, str] = {}
    """Kubernetes annotations."""


class RopeScaling(SpecModel):
    """How the frequencies of rotary positions are changed for contexts longer than those of pretraining."""

    type: Literal["Linear", "Llama3", "YaRN"]
    """Linear divides all by the factor (Chen et al. 2023); Llama3 the slow ones only (Llama 3.1); YaRN those below a
    ramp, and it scales attention (Peng et al. 2023)."""
    factor: Annotated[float, Field(ge=1)]
    """How many times longer the context becomes."""
    original_context_length: PositiveInt | None = None
    """With Llama3 and YaRN: the context of pretraining, in tokens."""
    low_frequency_factor: Annotated[float, Field(gt=0)] = 1.0
    """With Llama3: waves longer than originalContextLength over this are divided by the factor."""
    high_frequency_factor: Annotated[float, Field(gt=0)] = 4.0
    """With Llama3: waves shorter than originalContextLength over this stay as they are."""
    beta_fast: Annotated[float, Field(gt=0)] = 32.0
    """With YaRN: waves that turn more often than this within originalContextLength stay as they are."""
    beta_slow: Annotated[float, Field(gt=0)] = 1.0
    """With YaRN: waves that turn less often than this within originalContextLength are divided by the factor."""
    attention_factor: Annotated[float, Field(gt=0)] | None = None
    """With YaRN: queries and keys are multiplied by this; default: 1 + ln(factor) / 10."""


class ModelOverrides(SpecModel):
    """Changes to a preset's architecture; a field that is left out keeps the preset's value, or its proportion."""

    layers: PositiveInt | None = None
    """Number of decoder blocks."""
    heads: PositiveInt | None = None
    """Number of attention (query) heads; divides hiddenSize, unless headSize is given."""
    kv_heads: PositiveInt | None = None
    """Number of key and value heads (grouped-query attention); divides heads. Default: the preset's share of heads."""
    hidden_size: PositiveInt | None = None
    """Width of the residual stream."""
    head_size: PositiveInt | None = None
    """Width of a head, where heads x headSize is not hiddenSize (Qwen3, Gemma); default: hiddenSize / heads."""
    intermediate_size: PositiveInt | None = None
    """Width of the feed-forward layer. Default: the preset's ratio to hiddenSize."""
    context_length: PositiveInt | None = None
    """Longest sequence, in tokens, that the model can attend over."""
    vocab_size: PositiveInt | None = None
    """Rows of the embedding; at least the tokenizer's vocabulary. Default: the tokenizer's vocabulary."""
    norm: Literal["LayerNorm", "RMSNorm"] | None = None
    """Normalisation before each sub-layer."""
    norm_epsilon: Annotated[float, Field(gt=0)] | None = None
    """Added to the variance (or mean square) before the root."""
    position: Literal["Learned", "Rotary"] | None = None
    """Learned absolute position embeddings (GPT-2) or rotary ones (Llama)."""
    rope_theta: Annotated[float, Field(gt=0)] | None = None
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Changed rotary frequencies, for a longer context."""
    rotary_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a head's width that is rotated (Phi); the rest knows no position. Default: all of it."""
    activation: Literal["GELU", "GELUTanh", "SwiGLU", "GeGLU"] | None = None
    """Feed-forward activation; GELUTanh is GPT-2's approximation, SwiGLU Llama's gated unit, GeGLU Gemma's, with
    GELUTanh."""
    bias: bool | None = None
    """Biases in all linear layers and in LayerNorm."""
    qkv_bias: bool | None = None
    """Biases in the query, key and value projections (Qwen2); default: as bias."""
    output_bias: bool | None = None
    """A bias in the output projection (Phi); needs tieEmbeddings: false."""
    qk_norm: bool | None = None
    """Queries and keys are normalised, head by head, before they are rotated (Qwen3, Gemma 3)."""
    post_norms: bool | None = None
    """What a sub-layer adds to the residual stream is normalised as well (Gemma 2)."""
    parallel_block: bool | None = None
    """Attention and feed-forward layer read the same normalised input, and add to the residual stream at once (Phi)."""
    scale_embeddings: bool | None = None
    """Token embeddings are multiplied by the root of hiddenSize (Gemma)."""
    tie_embeddings: bool | None = None
    """The output projection shares the token embedding's weights."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Probability of dropout after the embedding, in attention and after each sub-layer, in training only."""
    sliding_window: PositiveInt | None = None
    """Attention reaches back this many tokens only (Mistral); default: the whole context."""
    global_attention_every: Annotated[int, Field(ge=2)] | None = None
    """Every so many layers, one attends to the whole context, and the others to slidingWindow (2: Gemma 2; 6: Gemma
    3); default: all layers attend to slidingWindow."""
    local_rope_theta: Annotated[float, Field(gt=0)] | None = None
    """With globalAttentionEvery: base of the rotary frequencies in layers with a window (Gemma 3), which ropeScaling
    leaves alone; default: as in the others."""
    attention_scalar: Annotated[float, Field(gt=0)] | None = None
    """Attention scores are divided by the root of this (Gemma 2); default: headSize."""
    attention_softcap: Annotated[float, Field(ge=0)] | None = None
    """Attention scores s become c tanh(s / c) for this c (Gemma 2), without a fused kernel; 0: they stay as are."""
    logit_softcap: Annotated[float, Field(ge=0)] | None = None
    """Logits l become c tanh(l / c) for this c (Gemma 2); 0: they stay as they are."""


class Trainable(SpecModel):
    """Which parameters are trained."""

    scope: Literal["All", "Head", "LastBlocks", "Matching"] = "All"
    """All; Head: the output layer; LastBlocks: the last `blocks` blocks and the head; Matching: by `patterns`."""
    blocks: PositiveInt | None = None
    """With LastBlocks: how many."""
    patterns: list[str] | None = None
    """With Matching: regular expressions searched in parameter names."""


class ClassifierHead(SpecModel):
    """The head of a classifier."""

    labels: Annotated[list[str], Field(min_length=2, json_schema_extra={"x-kubernetes-list-type": "set"})]
    """Class names, in the order of the outputs."""
    pooling: Literal["LastToken", "FirstToken", "Mean"] = "LastToken"
    """Which hidden state is classified: after the last token, after the first, or the mean of all."""
    class_weights: Literal["Equal", "Balanced"] = "Equal"
    """Balanced: examples of rare labels weigh more in the loss, so that all labels weigh the same."""


class Lora(SpecModel):
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: PositiveInt = 16
    """Rank of the update."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    targets: list[str] = ["attention"]
    """Layers with adapters: attention, mlp, or regular expressions on module names."""
    dora: bool = False
    """Train the lengths of the weights' rows apart from their directions (DoRA, Liu et al. 2024)."""
    quantize: Literal["None", "NF4"] = "None"
    """What the weights of adapted layers are kept in: NF4 is 4 bits, by bitsandbytes (QLoRA, Dettmers et al. 2023)."""


RUN = "run://"
"""Begins the name of a run that weights come from."""


class Model(SpecModel):
    """What is trained: a preset, existing weights, or the user's own model."""

    preset: str | None = None
    """Name of a built-in architecture, such as gpt2-small; `windlass.spec.presets` lists them."""
    from_: Annotated[Uri | None, Field(alias="from")] = None
    """Weights to start from, with their architecture and tokenizer: run://NAME, a run beside this one; hf://org/name;
    or folder or URI of a run or of a model in Hugging Face layout, of any architecture of transformers."""
    custom: Annotated[str | None, Field(pattern=r"^[\w.]+:[\w.]+$")] = None
    """The user's own model: package.module:function, which is called with vocab_size, context_length and, with task
    Classify, labels. It returns a torch.nn.Module from tokens [batch, length] to logits [batch, length, outputs]."""
    config: ModelOverrides = ModelOverrides()
    """Overrides of the preset."""
    trainable: Trainable = Trainable()
    """Which parameters are trained."""
    head: ClassifierHead | None = None
    """With task Classify: the classes."""
    lora: Lora | None = None
    """Train low-rank adapters and leave the weights as they are."""


class RawData(SpecModel):
    """Documents in files, tables or datasets."""

    uri: Uri
    """File, folder or glob at any fsspec URI (path, s3://, https://, ...), python://stdlib, python://docstrings, or a
    dataset of the Hugging Face hub: hf-datasets://org/name?config=NAME&split=train."""
    format: Literal["Auto", "Text", "Code", "JsonLines", "Parquet", "Csv", "Tsv", "Html", "Warc"] = "Auto"
    """Auto goes by the file's ending, before .gz, .zst or .bz2: .jsonl, .parquet, .csv, .tsv, .html, .warc; the rest is
    text."""
    text_field: Annotated[str, Field(min_length=1)] = "text"
    """Column or key that holds a document's text, in JsonLines, Parquet, Csv, Tsv and datasets; several in a text with
    their names in braces: "{question}\\n{answer}"."""


class Source(RawData):
    """Raw text to prepare."""

    document_separator: Annotated[str, Field(min_length=1)] | None = None
    """Splits text files into documents; default: one document per file."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often its training documents are in the corpus, relative to the source of the smallest weight, whose are
    there once: 2.5 has each two or three times. Held-out documents are never repeated."""
    license: str | None = None
    """Under which it may be used; goes to the corpus's card."""


class Clean(SpecModel):
    """What happens to each document's text, in this order; every step is counted in the corpus's card."""

    unicode: bool = True
    """Repair mojibake (ftfy) and normalise to NFC."""
    control_characters: bool = True
    """Remove control characters but tab and newline; line ends become \\n."""
    boilerplate: bool = False
    """Remove lines of navigation: counters, "sign in", "read more" (RefinedWeb, Penedo et al. 2023, appendix G.2)."""
    languages: list[str] = []
    """ISO 639-1 codes of the languages to keep, such as en; empty keeps all. Needs the extra `languages`."""
    language_confidence: Fraction = 0.65
    """Least probability of the detected language."""
    gopher_quality: bool = False
    """Remove documents that break Gopher's quality rules for prose (Rae et al. 2021, A.1.1)."""
    gopher_repetition: bool = False
    """Remove documents that repeat lines, paragraphs or n-grams (Rae et al. 2021, table A1)."""
    c4: bool = False
    """C4's rules for web pages (Raffel et al. 2020, 2.2): lines without end punctuation go, pages of fewer than three
    sentences, with curly brackets or with "lorem ipsum" too. Not for source code."""
    personal_data: bool = False
    """Replace e-mail addresses, IP addresses, payment card and phone numbers by names such as <EMAIL>."""


class NearDuplicates(SpecModel):
    """MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3)."""

    ngram: PositiveInt = 5
    """Words in a row that are compared; case and punctuation don't count."""
    permutations: Annotated[int, Field(ge=8, le=1024)] = 128
    """Hash functions; more make the estimate of similarity sharper and slower."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Jaccard similarity of the n-grams above which most pairs are found, and below which few; it decides the bands."""


class Deduplicate(SpecModel):
    """Of documents that are alike, the first in the order of the sources is kept."""

    exact: bool = True
    """Documents with the same text but for white space and Unicode normalisation."""
    near: NearDuplicates | None = None
    """Documents that are similar; {} takes the defaults."""


class Decontaminate(SpecModel):
    """Documents that share word n-grams with test sets (Brown et al. 2020, appendix C)."""

    against: Annotated[list[RawData], Field(min_length=1, max_length=1000)]
    """The test sets."""
    ngram: PositiveInt = 13
    """Words in a row that count as overlap; case and punctuation don't. A shorter test item counts as a whole, from 8
    words on."""
    common: PositiveInt = 10
    """An n-gram in more documents than this is a common phrase and does not count."""
    action: Literal["Remove", "Report"] = "Remove"
    """Remove the documents, or only list them in the corpus's card."""


class Prepare(SpecModel):
    """Make the corpus from raw sources: once, and again only when the inputs change."""

    sources: Annotated[list[Source], Field(min_length=1, max_length=1000)]
    """What to read, in this order."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of each source's documents held out, chosen by a hash of their text, so that copies stay together; of a
    source that is one document, its last part."""
    clean: Clean | None = None
    """Cleaning steps; default: none, {} the harmless ones."""
    deduplicate: Deduplicate | None = None
    """Default: duplicates stay; {} removes exact ones."""
    decontaminate: Decontaminate | None = None
    """Documents that overlap with test sets."""
    special_tokens: bool = False
    """Take names of special tokens in a text, such as <|endoftext|>, for the tokens; otherwise they are plain text."""


class CorpusSource(SpecModel):
    """A prepared corpus."""

    uri: Uri
    """Where its manifest.json lies, at any fsspec URI."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often it is drawn from, relative to the others."""


class ExampleSource(RawData):
    """Examples, one a row or a record."""

    label_field: Annotated[str, Field(min_length=1)] = "label"
    """With task Classify: column or key that holds the label."""
    messages_field: Annotated[str, Field(min_length=1)] = "messages"
    """With task Instruct: key of a list of messages with `role` (system, user, assistant) and `content`. A record that
    has none has a prompt and its answer."""
    prompt_field: Annotated[str, Field(min_length=1)] = "prompt"
    """With task Instruct or Preference: column or key that holds the prompt; several in a text with their names in
    braces."""
    answer_field: Annotated[str, Field(min_length=1)] = "completion"
    """With task Instruct: column or key that holds the answer."""
    chosen_field: Annotated[str, Field(min_length=1)] = "chosen"
    """With task Preference: column or key that holds the better answer, or a list of messages that ends with it, as of
    messagesField; such a record needs no prompt."""
    rejected_field: Annotated[str, Field(min_length=1)] = "rejected"
    """With task Preference: the same of the worse answer."""


class Examples(SpecModel):
    """Examples of a task that has some: labelled texts, conversations, pairs of answers."""

    sources: Annotated[list[ExampleSource], Field(min_length=1, max_length=1000)]
    """What to read."""
    deduplicate: bool = True
    """Of examples with the same text but for white space, the first one stays; before they are split."""
    balance: bool = False
    """With task Classify: take as many examples of each label as there are of the rarest."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share that is measured while training; of each label alike, chosen by a hash of the texts and the seed."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """With task Classify: share that is measured at the end only."""


class Data(SpecModel):
    """What the model learns from, and what it is measured on."""

    prepare: Prepare | None = None
    """Make the corpus first. It goes to the one URI in `train`, or to corpora/ beside the runs."""
    train: Annotated[list[CorpusSource], Field(max_length=1000)] = []
    """Prepared corpora."""
    validation: Annotated[list[CorpusSource], Field(max_length=1000)] = []
    """Corpora to measure on; default: the validation split of those in `train`."""
    examples: Examples | None = None
    """With task Classify: labelled texts; with Instruct: conversations; with Preference: pairs of answers."""
    packing: bool = True
    """Documents share a sequence; false: one document each, cut where it is longer and padded where it is shorter."""
    document_mask: bool = False
    """Attention stays within a document; needs packing. With task Instruct it always does."""
    sequence_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a sequence; default: the model's contextLength."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Tokens from the start of a sequence to that of the next in the corpus; default: sequenceLength. Needs packing."""
    template: str | None = None
    """With task Instruct or Preference: Alpaca, ChatML, Llama3, Tokenizer, or a Jinja string as of transformers' chat
    templates; default: Tokenizer, its own."""
    loss_on: Literal["Answers", "Everything"] = "Answers"
    """With task Instruct: which tokens count in the loss."""


class Optimizer(SpecModel):
    """AdamW (Loshchilov and Hutter 2019); weight decay on matrices only."""

    name: Literal["AdamW"] = "AdamW"
    """The algorithm."""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decay of parameters with two or more dimensions."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.95]
    """Decay rates of the two moments."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""
    gradient_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest global gradient norm; 0 turns clipping off."""


class Schedule(SpecModel):
    """Learning rate over steps: a linear warmup, then the named decay to finalRatio of the peak."""

    name: Literal["Cosine", "Linear", "Constant", "WSD"] = "Cosine"
    """WSD: warmup, stable, then a linear decay over the last `decayFraction` of the steps."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warmup."""
    final_ratio: Fraction = 0.1
    """Learning rate at the end, as a share of the peak."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """With WSD: share of the steps that decay."""


class Parallelism(SpecModel):
    """How ranks share the work."""

    strategy: Literal["Auto", "DDP", "FSDP", "HSDP"] = "Auto"
    """Auto: one process alone, DDP where a replica of model and optimizer fits on a device, FSDP otherwise."""
    activation_checkpointing: Literal["None", "Selective", "Full"] = "None"
    """Recompute activations in the backward pass: of every second block (Selective) or of every block (Full)."""
    compile: bool = False
    """Compile the blocks, and the output with its loss, by torch.compile."""


class PreferenceLoss(SpecModel):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference model."""


class Training(SpecModel):
    """How long and how."""

    max_steps: PositiveInt | None = None
    """Optimizer steps. Exactly one of maxSteps, maxTokens and epochs."""
    max_tokens: PositiveInt | None = None
    """Training tokens; rounded up to a whole step."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training corpus; rounded up to a whole step."""
    global_batch_size: PositiveInt = 32
    """Sequences per optimizer step, over all ranks; independent of the number of workers."""
    micro_batch_size: PositiveInt | Literal["Auto"] = "Auto"
    """Sequences per rank and forward pass; Auto finds the largest that fits."""
    optimizer: Optimizer = Optimizer()
    """The optimizer."""
    schedule: Schedule = Schedule()
    """The learning rate's schedule."""
    precision: Literal["Auto", "BF16", "FP16", "FP32", "FP8"] = "Auto"
    """Auto: BF16 on GPUs that have it, FP32 elsewhere. FP16 scales the loss. FP8 only where the GPU has it."""
    parallelism: Parallelism = Parallelism()
    """How ranks share the work."""
    preference: PreferenceLoss | None = None
    """With task Preference."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """Seed of initial weights, order of samples and dropout."""

    @property
    def beta(self) -> float:
        """Of `preference`, or its default."""
        return (self.preference or PreferenceLoss()).beta


class Checkpoints(SpecModel):
    """Saving the state of training, without stopping it."""

    uri: Uri | None = None
    """Any fsspec URI; default: checkpoints/ in the run folder."""
    every_steps: PositiveInt | None = None
    """Steps between checkpoints. The last step is always saved."""
    every_minutes: Annotated[float, Field(gt=0)] | None = 15.0
    """Minutes between checkpoints; with everySteps, whichever comes first. null turns it off."""
    keep: PositiveInt = 3
    """How many committed checkpoints to keep."""
    export: Literal["None", "HuggingFace"] = "None"
    """Write the final model in Hugging Face layout as well, under export/ in the run folder."""
    on_delete: Literal["Keep", "Delete"] = "Keep"
    """What deleting the job does to its storage."""


class Suite(SpecModel):
    """A benchmark suite."""

    name: str
    """mmlu, hellaswag, truthfulqa, arc, gsm8k, or a task of one, such as arc_easy."""
    uri: str | None = None
    """Folder of the suites' data, as of `windlass evaluate --data`, that every rank can read; default: the Hugging Face
    hub."""
    limit: PositiveInt | None = None
    """Only the first items of each task."""
    few_shot: NonNegativeInt | None = None
    """Solved examples before each item; default: as lm_eval defines the task."""
    every_steps: PositiveInt | None = None
    """Steps between its scores; default: those between validations."""


class Evaluation(SpecModel):
    """Measuring while training."""

    every_steps: PositiveInt | None = None
    """Steps between validations; default: ten in a run. The last step is always measured."""
    max_tokens: PositiveInt = 262144
    """Validation tokens measured each time, the same ones every time, spread evenly over the split."""
    baseline: Literal["Bigram", "None"] = "Bigram"
    """What the loss is compared with: a bigram model fitted on the training split."""
    prompts: list[str] = []
    """Texts that the model continues before training, half way, and at the end."""
    sample_tokens: PositiveInt = 128
    """Tokens generated per prompt."""
    suites: list[Suite] = []
    """Benchmark suites, run before training, at each validation and at the end; they need the extra evaluate."""


class WeightsAndBiases(SpecModel):
    """Weights & Biases; the API key comes from the environment."""

    project: str
    """Project that gets the run."""
    entity: str | None = None
    """Team or user; default: the key's own."""
    mode: Literal["online", "offline"] = "online"
    """offline writes to wandb/ in the run folder, for `wandb sync` later."""


class Logging(SpecModel):
    """What is written down about each step, and where to."""

    every_steps: PositiveInt = 1
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write event files to tensorboard/ in the run folder."""
    wandb: WeightsAndBiases | None = None
    """Send metrics to Weights & Biases."""
    prometheus: bool = True
    """Serve each rank's metrics on 127.0.0.1; prometheus.json in the run folder lists the ports (file_sd)."""


class Resources(SpecModel):
    """Kubernetes requests and limits."""

    requests: dict[str, Quantity] = {}
    """What a pod is guaranteed."""
    limits: dict[str, Quantity] = {}
    """What a pod may use at most."""


class Workers(SpecModel):
    """The processes that train. On one machine `replicas` (times GPUs) is the number of ranks."""

    replicas: PositiveInt = 1
    """Worker pods, or ranks on one machine without GPUs."""
    min_replicas: PositiveInt | None = None
    """The job goes on with this many when workers are lost for good. It and maxReplicas must divide globalBatchSize;
    counts between that don't are passed over."""
    max_replicas: PositiveInt | None = None
    """The job grows up to this many."""
    gpus_per_worker: NonNegativeInt | None = None
    """GPUs and ranks of each worker; default: one rank per worker, on a GPU if there is one."""
    image: str | None = None
    """Container image; default: the operator's."""
    resources: Resources = Resources()
    """Kubernetes requests and limits of a worker."""
    template: PodTemplate | None = None
    """Pod template fragment, merged: node selectors, tolerations, volumes, service account, environment."""


class Head(SpecModel):
    """The pod of Ray's control store and the driver; no GPU."""

    resources: Resources = Resources()
    """Kubernetes requests and limits of the head."""
    template: PodTemplate | None = None
    """Pod template fragment, merged."""


class Restarts(SpecModel):
    """How often a failed job is started again."""

    infrastructure: NonNegativeInt = 20
    """Restarts after failures of machines: a killed rank, a lost node."""
    user: NonNegativeInt = 0
    """Restarts after failures of the job itself."""
    backoff_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Wait before the second restart without progress between, doubled each time; the first is at once."""
    max_backoff_seconds: Annotated[float, Field(ge=0)] = 300.0
    """Longest wait."""


class Lifecycle(SpecModel):
    """From queueing to clean-up."""

    suspend: bool = False
    """True checkpoints and releases everything; false continues."""
    queue_name: str | None = None
    """Kueue's LocalQueue."""
    active_deadline_seconds: PositiveInt | None = None
    """Fail after this many seconds of activity."""
    ttl_seconds_after_finished: NonNegativeInt | None = None
    """Delete the job this many seconds after its end."""
    restarts: Restarts = Restarts()
    """Budgets and backoff."""
    hang_timeout_seconds: PositiveInt = 600
    """No step for this long: dump stacks, restart."""
    on_non_finite_loss: Literal["Fail", "Skip", "RollBack"] = "Fail"
    """A NaN or infinite loss: stop, leave the step out, or go back to the last checkpoint and leave it out."""


class JobSpec(SpecModel):
    """What the user wants."""

    task: Literal["Pretrain", "Instruct", "Classify", "Preference"] = "Pretrain"
    """The stage of a model's life."""
    model: Model
    """What is trained."""
    tokenizer: str | None = None
    """bytes, gpt2, r50k_base, cl100k_base, o200k_base, hf://org/name, or a file. Default: the preset's."""
    data: Data
    """What it learns from."""
    training: Training
    """How long and how."""
    checkpoints: Checkpoints = Checkpoints()
    """Saving."""
    evaluation: Evaluation = Evaluation()
    """Measuring."""
    logging: Logging = Logging()
    """Writing down."""
    workers: Workers = Workers()
    """The processes that train."""
    head: Head = Head()
    """The pod that drives them."""
    lifecycle: Lifecycle = Lifecycle()
    """From queueing to clean-up."""


class LLMTrainingJob(SpecModel):
    """A language model's training, from raw text to a checkpoint: the same file on a laptop and on a cluster."""

    api_version: Literal["windlass.dev/v1alpha1"] = API_VERSION
    """Version of this format."""
    kind: Literal["LLMTrainingJob"] = KIND
    """Kind of the resource."""
    metadata: ObjectMeta
    """Name and labels."""
    spec: JobSpec
    """What the user wants."""

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> "LLMTrainingJob":
        """The job in a file; `overrides` as in `windlass run --set`. Raises InvalidJob with all that is wrong."""
        from windlass.spec.loading import load_job  # it imports this module

        return load_job(path, overrides)

    def to_yaml(self) -> str:
        """The job with all its defaults."""
        from windlass.spec.loading import dump_job

        return dump_job(self)
