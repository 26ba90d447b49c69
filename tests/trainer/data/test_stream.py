"""The stream: the same global batches for any number of ranks and from any point, each token's label the next token."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from windlass.data.corpus import Corpus, Split
from windlass.data.stream import IGNORED, Batch, TokenStream, TrainingStream, validation_batches
from windlass.data.tokenizers import BytesTokenizer
from windlass.errors import WindlassError

MakeCorpus = Callable[..., Corpus]
LENGTH = 16


@pytest.fixture
def corpus(make_corpus: MakeCorpus) -> Corpus:
    """A corpus of many blocks."""
    return make_corpus()


def steps(corpora: Any, count: int, *, first: int = 0, world: int = 1, batch: int = 12, micro: int = 1) -> NDArray[Any]:
    """Return the inputs and labels of `count` steps of all ranks, [steps, batch, 2, sequence]."""
    found = []
    for rank in range(world):
        with _stream(corpora, first=first, world=world, rank=rank, batch=batch, micro=micro) as stream:
            found.append([[_pair(row) for row in step] for step in islice(stream, count)])
    per_rank = [np.stack([np.concatenate(step) for step in of_rank]) for of_rank in found]
    return np.concatenate(per_rank, axis=1)


def _stream(
    corpora: Any, *, first: int = 0, world: int = 1, rank: int = 0, batch: int = 12, micro: int = 1, **more: Any
) -> TrainingStream:
    weighted = corpora if isinstance(corpora, list) else [(corpora, 1.0)]
    return TrainingStream(
        weighted,
        sequence_length=LENGTH,
        seed=7,
        global_batch_size=batch,
        micro_batch_size=micro,
        rank=rank,
        world_size=world,
        start_sample=first,
        **more,
    )


def _pair(batch: Batch) -> NDArray[Any]:
    return np.stack([batch.inputs, batch.labels], axis=1)


def test_any_world_size_and_micro_batch_sees_the_same_steps(corpus: Corpus) -> None:
    one = steps(corpus, 8)
    for world, micro in ((1, 4), (2, 3), (3, 2), (4, 3), (12, 1)):
        assert (steps(corpus, 8, world=world, micro=micro) == one).all()


def test_a_resume_anywhere_goes_on_as_if_nothing_had_happened(corpus: Corpus) -> None:
    per_epoch = _stream(corpus).samples_per_epoch
    whole = steps(corpus, 2 * per_epoch // 12)
    for step in (1, 5, per_epoch // 12 - 1, per_epoch // 12 + 3):
        assert (steps(corpus, 3, first=step * 12, world=2) == whole[step : step + 3]).all()


def test_an_epoch_has_every_window_once_with_labels_one_further(corpus: Corpus) -> None:
    split = corpus.split("train")
    tokens = split.read(0, split.tokens).astype(np.int64)
    samples = (split.tokens - 1) // LENGTH
    stream = _stream(corpus, batch=1)
    assert stream.samples_per_epoch == samples
    seen = Counter(_pair(step[0]).tobytes() for step in islice(stream, samples))
    windows = [tokens[i * LENGTH : (i + 1) * LENGTH + 1] for i in range(samples)]
    assert seen == Counter(np.stack([[window[:-1], window[1:]]]).tobytes() for window in windows)


def test_batches_have_the_shapes_and_types_of_the_contract(corpus: Corpus) -> None:
    step = next(_stream(corpus, world=2, micro=3))
    assert len(step) == 2
    for batch in step:
        assert batch.inputs.shape == batch.labels.shape == (3, LENGTH)
        assert batch.inputs.dtype == batch.labels.dtype == np.int64
        assert batch.documents is None


def test_a_document_mask_numbers_documents_and_ignores_labels_across(corpus: Corpus) -> None:
    crossed = 0
    for step in islice(_stream(corpus, micro=12, document_mask=True), 5):
        (batch,) = step
        assert batch.documents is not None
        for tokens, labels, documents in zip(batch.inputs, batch.labels, batch.documents, strict=True):
            ends = tokens == 256
            assert documents.tolist() == np.concatenate([[0], np.cumsum(ends)[:-1]]).tolist()
            assert ((labels == IGNORED) == ends).all()
            crossed += int(ends.sum())
    assert crossed > 3


def test_without_packing_a_sequence_is_one_document_cut_or_padded(corpus: Corpus) -> None:
    split = corpus.split("train")
    starts = np.concatenate([[0], split.document_ends()[:-1]])
    documents = [split.read(start, end).tolist() for start, end in zip(starts, split.document_ends(), strict=True)]
    length = 80
    assert min(map(len, documents)) < length < max(map(len, documents))
    how: Any = {"seed": 7, "global_batch_size": 12, "micro_batch_size": 3, "packing": False}
    seen: list[list[int]] = []
    for rank in (0, 1):
        where: Any = {"rank": rank, "world_size": 2, "start_sample": 0}
        with TrainingStream([(corpus, 1.0)], sequence_length=length, **how, **where) as stream:
            assert stream.samples_per_epoch == len(documents)
            for batch in (batch for step in islice(stream, len(documents) // 12) for batch in step):
                for inputs, labels in zip(batch.inputs.tolist(), batch.labels.tolist(), strict=True):
                    size = sum(label != IGNORED for label in labels)
                    assert labels[:size] == inputs[1:size] + labels[size - 1 : size]
                    assert set(labels[size:]) <= {IGNORED}
                    assert set(inputs[size:]) <= {256}
                    seen.append([*inputs[:size], labels[size - 1]])
    assert sorted(seen) == sorted(document[: length + 1] for document in documents)


def test_a_stride_lets_sequences_overlap(corpus: Corpus) -> None:
    split = corpus.split("train")
    with _stream(corpus, batch=1, stride=5) as stream:
        assert stream.samples_per_epoch == (split.tokens - 1 - LENGTH) // 5 + 1
        seen = {batch.inputs[0].tobytes() for (batch,) in islice(stream, stream.samples_per_epoch)}
    tokens = split.read(0, split.tokens).astype(np.int64)
    assert seen == {tokens[start : start + LENGTH].tobytes() for start in range(0, split.tokens - LENGTH, 5)}


def test_tokens_are_handed_out_as_the_corpus_stores_them(corpus: Corpus) -> None:
    batches = steps(corpus, 4)
    with TokenStream([(corpus, 1.0)], sequence_length=LENGTH, seed=7, global_batch_size=12) as stream:
        for step in range(4):
            tokens = next(stream)
            assert tokens.dtype == np.uint16
            assert (np.stack([tokens[:, :-1], tokens[:, 1:]], axis=1) == batches[step]).all()


def test_a_mixture_draws_by_weight_and_each_corpus_in_its_own_order(make_corpus: MakeCorpus) -> None:
    corpora = [(make_corpus(word="apple"), 3.0), (make_corpus(word="pear"), 1.0)]
    batches = steps(corpora, 6, batch=8)
    mixed = batches.reshape(-1, 2, LENGTH)
    assert (steps(corpora, 6, batch=8, world=4, micro=2) == batches).all()
    alone = [{row.tobytes() for row in steps([(corpus, 1.0)], 40, batch=1)[:, 0]} for corpus, _ in corpora]
    drawn = [sum(row.tobytes() in of_corpus for row in mixed) for of_corpus in alone]
    assert drawn == [36, 12]


def test_a_corpus_smaller_than_a_batch_is_refused_with_the_numbers(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(documents=2)
    with pytest.raises(WindlassError, match=r"is too small: its .* and one batch has 512") as raised:
        _stream(corpus, batch=512)
    assert raised.value.reason == "ConfigInvalid"


def test_ranks_that_do_not_divide_the_batch_are_refused(corpus: Corpus) -> None:
    with pytest.raises(WindlassError, match="globalBatchSize 12 is no multiple of 5 ranks x 1"):
        _stream(corpus, world=5)


def test_an_error_in_the_background_surfaces_where_the_step_is_asked_for(corpus: Corpus) -> None:
    folder = f"{corpus.uri}/{corpus.manifest.folder}"
    for name in ("train-00000.bin", "train-00001.bin", "train-00002.bin"):
        with open(f"{folder}/{name}", "r+b") as file:
            file.write(b"damaged")
    with pytest.raises(WindlassError, match="does not match its hash"), _stream(corpus) as stream:
        for _ in stream:
            pass
    with pytest.raises(StopIteration):
        next(stream)


def test_a_closed_stream_ends_its_thread(corpus: Corpus) -> None:
    stream = _stream(corpus, prefetch_steps=1)
    next(stream)
    stream.close()
    stream._ahead._thread.join(timeout=10)
    assert not stream._ahead._thread.is_alive()
    with pytest.raises(StopIteration):
        next(stream)


def test_the_stream_from_an_object_store_is_the_one_from_disk_through_a_restart_of_the_server(
    make_corpus: MakeCorpus, s3_server: Any
) -> None:
    local = steps(make_corpus(), 30)
    remote = make_corpus(uri=f"{s3_server.bucket()}/corpus")
    with _stream(remote) as stream:
        first = [np.concatenate([_pair(row) for row in step]) for step in islice(stream, 3)]
        s3_server.kill()
        threading.Timer(1.0, s3_server.start).start()
        rest = [np.concatenate([_pair(row) for row in step]) for step in islice(stream, 27)]
    assert (np.stack(first + rest) == local).all()


def test_the_next_window_is_fetched_before_it_is_needed(make_corpus: MakeCorpus, s3_server: Any) -> None:
    remote = make_corpus(uri=f"{s3_server.bucket()}/corpus")
    with _stream(remote, batch=1) as stream:
        next(stream)
        source = stream._samples._sources[0]
        blocks = source.order.window(0, ahead=1)
        until = time.monotonic() + 20
        folder = remote._cache.folder
        wanted = [f"train-{block // 4:05}.bin-{block % 4}-" for block in blocks]
        while time.monotonic() < until:
            cached = [file.name for file in folder.iterdir() if remote.manifest.folder in file.name]
            if all(any(name in file for file in cached) for name in wanted):
                return
            time.sleep(0.01)
    pytest.fail(f"not fetched: {wanted}")


def test_a_block_is_asked_for_once_a_window_and_not_every_step(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Split, "prefetch", lambda self, blocks, reach: asked.extend(blocks))
    stream = _stream(corpus, batch=1)
    order = stream._samples._sources[0].order
    list(islice(stream, order.samples))
    stream.close()
    blocks = -(-order.tokens // order.block_tokens)
    assert set(range(blocks)) <= set(asked)
    assert len(asked) <= 3 * blocks + 16  # itself, as a neighbour, and at the turn of the epoch


def windows(corpus: Any, world: int, **options: Any) -> list[bytes]:
    """Return the validation windows of all ranks."""
    weighted = corpus if isinstance(corpus, list) else [(corpus, 1.0)]
    found: list[bytes] = []
    for rank in range(world):
        batches: Iterator[Batch] = validation_batches(
            weighted, sequence_length=LENGTH, batch_size=3, rank=rank, world_size=world, **options
        )
        for batch in batches:
            assert len(batch.inputs) <= 3
            assert (batch.labels != IGNORED).all()
            found += [_pair(batch)[row].tobytes() for row in range(len(batch.inputs))]
    return found


def test_validation_windows_are_the_same_for_any_world_size(corpus: Corpus) -> None:
    one = windows(corpus, 1, max_tokens=20 * LENGTH)
    assert len(one) == 20
    for world in (2, 3, 7, 30):
        assert sorted(windows(corpus, world, max_tokens=20 * LENGTH)) == sorted(one)


def test_validation_keeps_to_documents_where_training_does(corpus: Corpus) -> None:
    where: Any = {"sequence_length": LENGTH, "batch_size": 4, "max_tokens": 20 * LENGTH, "rank": 0, "world_size": 1}
    crossed = 0
    for plain, masked in zip(
        validation_batches([(corpus, 1.0)], **where),
        validation_batches([(corpus, 1.0)], **where, document_mask=True),
        strict=True,
    ):
        assert (plain.inputs == masked.inputs).all()
        assert masked.documents is not None
        ends = masked.inputs == 256
        assert ((masked.labels == IGNORED) == ends).all()
        assert (masked.documents[:, 1:] - masked.documents[:, :-1] == ends[:, :-1]).all()
        crossed += int(ends.sum())
    assert crossed > 3
    split = corpus.split("validation")
    whole = validation_batches([(corpus, 1.0)], **where | {"max_tokens": 10**6}, packing=False)
    rows = [row for batch in whole for row in batch.inputs]
    assert len(rows) == split.documents


def test_validation_covers_the_whole_split_when_it_may(corpus: Corpus) -> None:
    split = corpus.split("validation")
    assert len(windows(corpus, 2, max_tokens=10**9)) == (split.tokens - 1) // LENGTH


def test_validation_is_shared_by_weight(make_corpus: MakeCorpus) -> None:
    corpora = [(make_corpus(word="apple"), 3.0), (make_corpus(word="pear"), 1.0)]
    mixed = windows(corpora, 2, max_tokens=20 * LENGTH)
    assert len(mixed) == 20
    assert len(set(mixed) & set(windows([corpora[1]], 1, max_tokens=5 * LENGTH))) == 5


def test_training_windows_never_reach_into_held_out_documents(corpus: Corpus) -> None:
    held_out = corpus.split("validation")
    numbers = _numbers(held_out.read(0, held_out.tokens))
    assert len(numbers) == 12
    epoch = steps(corpus, _stream(corpus).samples_per_epoch // 12)
    trained = _numbers(epoch[:, :, 0].ravel())
    assert len(trained) > 10
    assert not trained & numbers


def _numbers(tokens: NDArray[Any]) -> set[str]:
    """Return the documents whose beginnings are in these tokens."""
    return set(re.findall(r"document (\d+):", BytesTokenizer().decode(tokens.tolist())))


def test_a_validation_split_shorter_than_a_sequence_is_refused(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(documents=2)
    with pytest.raises(WindlassError, match="fewer than one sequence of 999; raise validationF"):
        next(validation_batches([(corpus, 1.0)], sequence_length=999, batch_size=1, max_tokens=9, rank=0, world_size=1))
