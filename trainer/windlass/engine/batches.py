"""What a rank trains and is measured on, by the job's data: prepared corpora, or examples."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from windlass.data.buckets import POOL
from windlass.data.corpus import Corpus
from windlass.data.stream import Batch, Stream, TrainingStream, validation_batches
from windlass.data.tokenizers import Tokenizer
from windlass.engine.examples import RankExamples, rows_of_sample
from windlass.engine.rank_settings import RankSettings
from windlass.engine.references import add_references
from windlass.engine.run_folder import RunFolder
from windlass.spec.job import JobSpec
from windlass.storage import Storage
from windlass.tasks.classify import balanced_weights, label_loss
from windlass.tasks.preference import METRICS, preference_loss
from windlass.tasks.pretrain import output_loss
from windlass.training.measure import Loss
from windlass.training.ranks import Ranks


@dataclass(frozen=True)
class RankBatches:
    """One rank's batches, and their loss."""

    stream: Callable[[int], Stream[list[Batch]]]
    """Micro batches to train on, from a number of samples consumed by all ranks."""
    splits: dict[str, Callable[[], Iterator[Batch]]]
    """The same batches every time to measure on: validation, and of examples the test split where there is one."""
    loss: Loss
    inputs: dict[str, Any]
    """What they are, for checkpoints."""
    metrics: Sequence[str] = ()
    """What the loss gives after itself."""


def rank_batches(
    settings: RankSettings, ranks: Ranks, tokenizer: Tokenizer, model: nn.Module, initialise: Callable[[], None]
) -> RankBatches:
    """The batches of a rank; where their loss refers to it, what the model that `initialise` makes says of them.

    Raises WindlassError: DataNotFound, ConfigInvalid.
    """
    if settings.examples is None:
        return _of_corpora(settings, ranks)
    spec = settings.job.spec
    storage = Storage(RunFolder(settings.folder).checkpoints_uri(settings.job))
    examples = RankExamples(
        settings.examples,
        storage,
        tokenizer.end_of_document,
        settings.config.context_length,
        rows=rows_of_sample(spec),
    )
    if spec.task == "Preference":
        add_references(examples, settings, storage, ranks, model, initialise)
    return _of_examples(settings, ranks, examples)


def _of_corpora(settings: RankSettings, ranks: Ranks) -> RankBatches:
    spec, plan = settings.job.spec, settings.plan
    train, validation = (
        [(Corpus.open(uri), weight) for uri, weight in corpora] for corpora in (settings.train, settings.validation)
    )
    return RankBatches(
        stream=lambda start_sample: TrainingStream(
            train,
            sequence_length=plan.sequence_length,
            seed=spec.training.seed,
            global_batch_size=spec.training.global_batch_size,
            micro_batch_size=plan.batching.micro_batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            start_sample=start_sample,
            stride=spec.data.stride,
            packing=spec.data.packing,
            document_mask=spec.data.document_mask,
        ),
        splits={
            "validation": lambda: validation_batches(
                validation,
                sequence_length=plan.sequence_length,
                batch_size=plan.batching.micro_batch_size,
                max_tokens=spec.evaluation.max_tokens,
                rank=ranks.rank,
                world_size=ranks.world_size,
                packing=spec.data.packing,
                document_mask=spec.data.document_mask,
            )
        },
        loss=_token_loss(spec),
        inputs={
            "corpus": [[corpus.id, weight] for corpus, weight in train],
            "way to cut sequences": [spec.data.stride, spec.data.packing, spec.data.document_mask],
        },
    )


def _token_loss(spec: JobSpec) -> Loss:
    return torch.compile(output_loss) if spec.training.parallelism.compile else output_loss


def _of_examples(settings: RankSettings, ranks: Ranks, examples: RankExamples) -> RankBatches:
    spec, batching = settings.job.spec, settings.plan.batching
    place = {"rank": ranks.rank, "world_size": ranks.world_size}
    return RankBatches(
        stream=partial(
            examples.stream,
            seed=spec.training.seed,
            batch=spec.training.global_batch_size,
            # Of like length are often texts of like labels, as spam is long: a step on them would unlearn the others.
            pool=1 if spec.task == "Classify" else POOL,
            micro_batch_size=batching.micro_batch_size,
            **place,
        ),
        splits={
            split: examples.batches(split, batch_size=batching.micro_batch_size, **place)
            for split in ("validation", "test")
            if examples.splits[split]
        },
        loss=_example_loss(spec, examples, ranks),
        inputs={
            "examples": settings.examples,
            "head": spec.model.head and spec.model.head.model_dump(mode="json"),
            "preference": spec.training.beta if spec.task == "Preference" else None,
        },
        metrics=METRICS if spec.task == "Preference" else (),
    )


def _example_loss(spec: JobSpec, examples: RankExamples, ranks: Ranks) -> Loss:
    if spec.task == "Preference":
        return partial(preference_loss, beta=spec.training.beta)
    if spec.model.head is None:
        return _token_loss(spec)
    if spec.model.head.class_weights == "Equal":
        return label_loss
    weights = balanced_weights(examples.label_counts(len(spec.model.head.labels)))
    return partial(label_loss, class_weights=torch.tensor(weights, device=ranks.device))
