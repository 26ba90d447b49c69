"""Examples from the job's sources to each rank's batches."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from windlass.data.buckets import Example, ExampleStream, LengthOrder, padded_batch
from windlass.data.conversations import Conversation, Pair, conversations, pairs
from windlass.data.examples import Counts, encoded, labelled, load, split, store
from windlass.data.packing import pack
from windlass.data.stream import Batch
from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.spec.job import Examples, JobSpec, LLMTrainingJob
from windlass.spec.presets import ModelConfig
from windlass.storage import Storage
from windlass.tasks import instruct
from windlass.tasks.templates import find_template

FOLDER = "examples"
"""Beside the checkpoints, where every rank reads."""


def prepare_examples(
    job: LLMTrainingJob, config: ModelConfig, tokenizer: Tokenizer, storage: Storage, progress: Callable[[str], None]
) -> tuple[str, int]:
    """Read, split, encode and store the job's examples; returns their hash and how many are trained on."""
    length = job.spec.data.sequence_length or config.context_length
    made = {"Classify": _labelled, "Instruct": _conversations, "Preference": _pairs}[job.spec.task]
    examples, counts = made(job, tokenizer, length, config)
    progress(f"Examples: {counts.sentence()}")
    batch, samples = job.spec.training.global_batch_size, len(examples["train"]) // rows_of_sample(job.spec)
    if samples < batch:
        kind = "sequences" if samples < counts.splits["train"] else "examples"
        raise WindlassError(
            "ConfigInvalid", f"spec.training.globalBatchSize: {batch} is more than the {samples} {kind} to train on"
        )
    return store(storage.child(FOLDER), examples), samples


def _labelled(
    job: LLMTrainingJob, tokenizer: Tokenizer, length: int, config: ModelConfig
) -> tuple[dict[str, list[Example]], Counts]:
    from windlass.tasks import classify

    spec, head = job.spec.data.examples, job.spec.model.head
    assert spec is not None
    assert head is not None
    splits, counts = split(spec, labelled(spec, head.labels), head.labels, job.spec.training.seed)
    number = {label: place for place, label in enumerate(head.labels)}
    encode = partial(classify.encode, pooling=head.pooling, encoder=config.theirs is not None)
    return encoded(splits, lambda one: encode(tokenizer, one.text, number[one.label], length), counts), counts


def _conversations(
    job: LLMTrainingJob, tokenizer: Tokenizer, length: int, _: ModelConfig
) -> tuple[dict[str, list[Example]], Counts]:
    data = job.spec.data
    examples, counts = _answers(job, tokenizer, length, conversations, everything=data.loss_on == "Everything")
    if data.packing:
        examples = {name: pack(found, length) for name, found in examples.items()}
        counts.sequences = {name: len(found) for name, found in examples.items()}
    return examples, counts


def _pairs(
    job: LLMTrainingJob, tokenizer: Tokenizer, length: int, _: ModelConfig
) -> tuple[dict[str, list[Example]], Counts]:
    return _answers(job, tokenizer, length, pairs, everything=False)


def _answers(
    job: LLMTrainingJob,
    tokenizer: Tokenizer,
    length: int,
    read: Callable[[Examples], Iterator[Conversation | Pair]],
    *,
    everything: bool,
) -> tuple[dict[str, list[Example]], Counts]:
    """What `read` finds, in the job's template: each conversation an example, of a pair the chosen one first."""
    data = job.spec.data
    assert data.examples is not None
    template = find_template(data.template, tokenizer)
    splits, counts = split(data.examples, read(data.examples), [""], job.spec.training.seed)
    found = {name: [each for one in part for each in one.conversations] for name, part in splits.items()}
    encode = partial(instruct.encode, tokenizer, template, length=length, everything=everything)
    return encoded(found, encode, counts), counts


def rows_of_sample(spec: JobSpec) -> int:
    """Examples that a sample has: of a pair of answers, two."""
    return 2 if spec.task == "Preference" else 1


class RankExamples:
    """The examples as one rank reads them."""

    def __init__(self, identity: str, storage: Storage, padding: int, context_length: int, *, rows: int = 1) -> None:
        """A sample has as many `rows`."""
        self._identity, self._padding = identity, padding
        self._multiple = math.gcd(8, context_length)
        found = load(storage.child(FOLDER))
        self.splits = {
            name: [tuple(examples[at : at + rows]) for at in range(0, len(examples), rows)]
            for name, examples in found.items()
        }
        """Samples, each of its rows."""

    def stream(
        self, start_sample: int, *, seed: int, batch: int, pool: int, micro_batch_size: int, rank: int, world_size: int
    ) -> ExampleStream:
        """Batches to train on, from a number of samples consumed by all ranks; `pool` as of `LengthOrder`."""
        samples = self.splits["train"]
        return ExampleStream(
            LengthOrder(self._identity, seed, _lengths(samples), batch, pool),
            lambda numbers: [row for number in numbers.tolist() for row in samples[number]],
            micro_batch_size=micro_batch_size,
            rank=rank,
            world_size=world_size,
            start_sample=start_sample,
            padding=self._padding,
            multiple=self._multiple,
        )

    def batches(self, split: str, *, batch_size: int, rank: int, world_size: int) -> Callable[[], Iterator[Batch]]:
        """This rank's share of a split that is measured; each call goes over it once."""
        samples = self.splits[split]
        mine = [samples[number] for number in np.argsort(_lengths(samples), kind="stable").tolist()[rank::world_size]]
        return partial(self.batches_of, mine, batch_size)

    def batches_of(self, samples: Sequence[Sequence[Example]], batch_size: int) -> Iterator[Batch]:
        """These samples, in their order."""
        for at in range(0, len(samples), batch_size):
            rows = [row for sample in samples[at : at + batch_size] for row in sample]
            yield padded_batch(rows, self._padding, self._multiple)

    def label_counts(self, labels: int) -> list[int]:
        """How many examples to train on have each label."""
        found = [int(row.labels.max()) for [row] in self.splits["train"]]
        return [int(count) for count in np.bincount(found, minlength=labels)]


def _lengths(samples: Sequence[Sequence[Example]]) -> "np.typing.NDArray[np.int64]":
    return np.array([max(len(row.inputs) for row in sample) for sample in samples], np.int64)
