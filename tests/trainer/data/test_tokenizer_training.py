"""Training a tokenizer: every text comes back, special names are tokens only where asked, the same twice."""

from pathlib import Path

import pytest

from windlass.data.corpus import Corpus
from windlass.data.prepare import prepare
from windlass.data.tokenizer_training import train_tokenizer
from windlass.errors import WindlassError
from windlass.spec.job import Prepare, RawData, Source


@pytest.fixture
def sources(test_data: Path) -> list[RawData]:
    return [RawData(uri=f"{test_data}/gsm8k-test.jsonl", text_field="{question}\n{answer}")]


def test_a_trained_tokenizer_gives_every_text_back_in_fewer_tokens(sources: list[RawData], tmp_path: Path) -> None:
    made = train_tokenizer(sources, 1000, tmp_path / "bpe", special=["<|user|>"])
    assert made.vocab_size == 1000
    for text in ("How many apples does Tom have?", "naïve 日本語 👩‍👩‍👧 \x00\n\t 1234567", "<|user|><|endoftext|>"):
        assert made.decode(made.encode(text).tolist()) == text
    assert len(made.encode("How many apples does Tom have?")) < 12
    assert made.end_of_document not in made.encode("<|endoftext|>")
    assert made.encode("<|user|>", special_tokens=True).tolist() == [1]
    again = train_tokenizer(sources, 1000, tmp_path / "again", special=["<|user|>"])
    assert again.fingerprint == made.fingerprint
    (tmp_path / "a.txt").write_text("two apples\n" * 50)
    corpus = prepare(Prepare(sources=[Source(uri=f"{tmp_path}/a.txt")]), made, str(tmp_path / "corpus"))
    assert Corpus.open(corpus.uri).tokenizer().fingerprint == made.fingerprint


def test_what_cannot_be_trained_is_refused(sources: list[RawData], tmp_path: Path) -> None:
    with pytest.raises(WindlassError, match="256 bytes and 2 special tokens need a larger one"):
        train_tokenizer(sources, 257, tmp_path / "small", special=["<|user|>"])
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(WindlassError, match="there is no text to learn of"):
        train_tokenizer([RawData(uri=f"{tmp_path}/empty.txt")], 300, tmp_path / "none")
    with pytest.raises(WindlassError, match="is not empty; name a new folder"):
        train_tokenizer(sources, 300, tmp_path)
