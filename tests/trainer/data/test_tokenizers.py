"""Tokenizers: every text comes back, special names are text, and saved files encode the same elsewhere."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from windlass.data.tokenizers import BytesTokenizer, Tokenizer, load_tokenizer
from windlass.errors import WindlassError

TEXTS = [
    "First Citizen:\nBefore we proceed any further, hear me speak.\n",
    "    def f(x):\r\n\treturn x**2  # Größe: 3.14159, 2026-11-21\n\n\n",
    "naïve café — “quotes” 日本語テキスト 한국어 العربية हिन्दी 👩‍👩‍👧‍👦 e\u0301 \u00a0\u3000\u200b",
    "It's we'll I'VE THEY'RE don't  a   b    c 1234567890 ½ ² ٣٤",
    "a<|endoftext|>b",
    "<|endoftext|>",
    "\x00\x01\x7f\ufeff\U0010ffff",
    " ",
    "x" * 3000,
]
SIZES = {"bytes": (257, 256), "gpt2": (50257, 50256), "cl100k_base": (100277, 100257)}


@pytest.fixture(scope="session", params=SIZES)
def ours(request: pytest.FixtureRequest) -> Tokenizer:
    """Each built-in tokenizer whose ranks are stored or can be downloaded."""
    try:
        return load_tokenizer(request.param)
    except WindlassError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def saved(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its saved files."""
    folder = tmp_path_factory.mktemp(ours.name)
    ours.save(folder)
    return folder


def test_vocabularies_have_the_published_sizes(ours: Tokenizer) -> None:
    assert (ours.vocab_size, ours.end_of_document) == SIZES[ours.name]


def test_gpt2_encodes_as_published(ours: Tokenizer) -> None:
    if ours.name == "gpt2":
        assert ours.encode("Hello, I'm a language model,").tolist() == [15496, 11, 314, 1101, 257, 3303, 2746, 11]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_and_special_names_in_it_are_text(ours: Tokenizer, text: str) -> None:
    tokens = ours.encode(text)
    assert tokens.ndim == 1
    assert tokens.dtype.kind == "u"
    assert ours.end_of_document not in tokens
    assert tokens.max() < ours.vocab_size
    assert ours.decode(tokens.tolist()) == text


def test_the_end_of_a_document_has_a_name(ours: Tokenizer) -> None:
    assert ours.decode([*ours.encode("a").tolist(), ours.end_of_document]) == "a<|endoftext|>"


def test_saved_files_encode_the_same_in_transformers(ours: Tokenizer, saved: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(saved)
    assert theirs.eos_token_id == ours.end_of_document
    for text in TEXTS:
        if "<|endoftext|>" not in text:  # which is a special token there
            assert theirs.encode(text, add_special_tokens=False) == ours.encode(text).tolist()
            assert theirs.decode(ours.encode(text).tolist()) == text


def test_saved_files_are_the_same_tokenizer(ours: Tokenizer, saved: Path) -> None:
    again = _loaded(saved)
    for field in ("name", "end_of_document", "vocab_size", "fingerprint"):
        assert getattr(again, field) == getattr(ours, field)
    for text in TEXTS:
        assert again.encode(text).tolist() == ours.encode(text).tolist()


@given(text=st.text(max_size=60))
def test_saved_files_encode_any_text_the_same(ours: Tokenizer, saved: Path, text: str) -> None:
    again = _loaded(saved)
    assert again.encode(text).tolist() == ours.encode(text).tolist()
    assert again.decode(again.encode(text).tolist()) == text


def test_a_changed_file_is_another_tokenizer(tmp_path: Path) -> None:
    BytesTokenizer().save(tmp_path)
    changed = json.loads((tmp_path / "tokenizer.json").read_text())
    changed["model"]["ignore_merges"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    assert load_tokenizer(str(tmp_path)).fingerprint != BytesTokenizer().fingerprint


def test_any_tokenizer_json_is_loaded_by_file_or_folder(tmp_path: Path) -> None:
    _train_one().save(str(tmp_path / "tokenizer.json"))
    by_folder, by_file = load_tokenizer(str(tmp_path)), load_tokenizer(f"file://{tmp_path}/tokenizer.json")
    assert by_folder.fingerprint == by_file.fingerprint
    assert by_folder.vocab_size == 40
    assert by_folder.decode([by_folder.end_of_document]) == "</s>"
    tokens = by_folder.encode("hello </s> world")
    assert by_folder.end_of_document not in tokens
    by_folder.save(tmp_path / "copy")
    assert load_tokenizer(str(tmp_path / "copy")).fingerprint == by_folder.fingerprint


def test_a_tokenizer_file_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WindlassError, match=r"tokenizer\.json cannot be read") as raised:
        load_tokenizer(str(tmp_path))
    assert raised.value.reason == "DataCorrupt"


def test_a_tokenizer_without_an_end_says_where_to_name_it(tmp_path: Path) -> None:
    _train_one(special=()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(WindlassError, match="name it as eos_token in tokenizer_config"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "h"}}')
    assert load_tokenizer(str(tmp_path)).end_of_document == load_tokenizer(str(tmp_path)).encode("h")[0]


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("gtp2", "ConfigInvalid", "did you mean gpt2"),
        ("zzz", "ConfigInvalid", "there are bytes, gpt2"),
        ("/nowhere/at/all", "DataNotFound", "no tokenizer.json"),
    ],
)
def test_a_name_that_means_nothing_is_answered(name: str, reason: str, words: str) -> None:
    with pytest.raises(WindlassError, match=words) as raised:
        load_tokenizer(name)
    assert raised.value.reason == reason


def test_ranks_that_cannot_be_downloaded_name_the_folder_to_set(tmp_path: Path) -> None:
    program = "from windlass.data.tokenizers import load_tokenizer; load_tokenizer('gpt2')"
    environment = {"TIKTOKEN_CACHE_DIR": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9", "PATH": ""}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "WindlassError: tokenizer gpt2: tiktoken cannot download its ranks" in ran.stderr
    assert "TIKTOKEN_CACHE_DIR" in ran.stderr.splitlines()[-1]


_loaded = lru_cache(lambda folder: load_tokenizer(str(folder)))


def _train_one(special: Sequence[str] = ("</s>",)) -> Any:
    from tokenizers import Tokenizer as Fast
    from tokenizers import models, pre_tokenizers, trainers

    fast = Fast(models.BPE(unk_token=None))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=40, special_tokens=list(special))
    fast.train_from_iterator(["hello world </s> the quick brown fox jumps over the lazy dog"] * 9, trainer)
    return fast


def test_bytes_that_are_no_character_decode_to_replacements() -> None:
    assert BytesTokenizer().decode(np.frombuffer("é".encode()[:1], np.uint8).tolist()) == "\ufffd"


def test_special_names_in_a_text_are_tokens_only_where_asked(ours: Tokenizer, saved: Path) -> None:
    for tokenizer in (ours, load_tokenizer(str(saved))):
        assert tokenizer.end_of_document not in tokenizer.encode("a<|endoftext|>b")
        asked = tokenizer.encode("a<|endoftext|>b", special_tokens=True).tolist()
        assert asked.count(tokenizer.end_of_document) == 1
        assert tokenizer.decode(asked) == "a<|endoftext|>b"
        assert tokenizer.end_of_document not in tokenizer.encode("a<|endoftext|>b")
