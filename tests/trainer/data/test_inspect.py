"""Inspecting: what people are shown of a corpus is what the model sees."""

from collections.abc import Callable

import pytest

from windlass.data import inspect
from windlass.data.corpus import Corpus
from windlass.data.stream import TrainingStream
from windlass.errors import WindlassError

MakeCorpus = Callable[..., Corpus]


def test_a_description_has_the_numbers(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    text = "\n".join(inspect.describe(corpus))
    assert corpus.id in text
    assert "bytes, 257 tokens, as uint16" in text
    assert f"{corpus.split('train').tokens:,} tokens" in text
    assert "48 documents" in text


def test_samples_are_those_of_training_with_their_documents_apart(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    shown = inspect.samples(corpus, sequence_length=200, seed=7, count=4)
    with TrainingStream(
        [(corpus, 1.0)],
        sequence_length=200,
        seed=7,
        global_batch_size=4,
        micro_batch_size=4,
        rank=0,
        world_size=1,
        start_sample=0,
    ) as stream:
        (batch,) = next(stream)
    text = "".join(line[4:] for line in shown if line.startswith("  |"))
    decoded = "".join(corpus.tokenizer().decode(row[row != 256].tolist()) for row in batch.inputs)
    assert text == decoded
    assert shown.count("  --- end of document ---") == (batch.inputs == 256).sum()
    first, label = int(batch.inputs[0, 0]), int(batch.labels[0, 0])
    assert (
        shown[[line.startswith("    ") for line in shown].index(True)]
        == f"    {first} {chr(first)!r} -> {label} {chr(label)!r}"
    )


def test_verification_checks_every_byte(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    splits = corpus.manifest.splits.values()
    size = sum(shard.size for split in splits for shard in [*split.shards, *split.document_ends])
    assert inspect.verify(corpus) == size
    ends = f"{corpus.uri}/{corpus.manifest.folder}/validation-ends-00000.bin"
    with open(ends, "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(WindlassError, match=r"validation-ends-00000\.bin: block 0 .* does not match"):
        inspect.verify(Corpus.open(corpus.uri))


def test_a_corpus_without_a_sample_says_so(make_corpus: MakeCorpus) -> None:
    with pytest.raises(WindlassError, match="choose a shorter sequence"):
        inspect.samples(make_corpus(documents=2), sequence_length=5000, seed=1)
