"""Small corpora of small blocks, so that a test has many of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from windlass.data import prepare as preparation
from windlass.data.blocks import Layout
from windlass.data.corpus import Corpus
from windlass.data.prepare import prepare
from windlass.data.tokenizers import BytesTokenizer
from windlass.spec.job import Prepare, Source

MakeCorpus = Callable[..., Corpus]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Corpora made in this test have blocks of 512 bytes, four in a shard."""
    layout = Layout(block=512, shard=2048)
    monkeypatch.setattr(preparation, "_LAYOUT", layout)
    return layout


@pytest.fixture
def make_corpus(small_blocks: Layout, tmp_path: Path) -> MakeCorpus:
    """A function that prepares `documents` texts of unequal length with the byte tokenizer."""

    def make(documents: int = 60, uri: str | None = None, word: str = "words") -> Corpus:
        folder = tmp_path / f"raw-{word}"
        folder.mkdir(exist_ok=True)
        for number in range(documents):
            text = f"document {number}: " + f"{word} {number} " * (number % 7 * 3 + 1)
            (folder / f"{number:04}.txt").write_text(text)
        spec = Prepare(sources=[Source(uri=str(folder))], validation_fraction=0.2)
        return prepare(spec, BytesTokenizer(), uri or str(tmp_path / f"corpus-{word}"))

    return make
