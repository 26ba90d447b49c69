"""Real data end to end: the tokens of a corpus are tiktoken's own of every document of its sources."""

import csv
import json
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import xxhash

from windlass.data.corpus import Corpus
from windlass.data.prepare import prepare
from windlass.data.tokenizers import load_tokenizer
from windlass.errors import WindlassError
from windlass.spec.job import Prepare

STDLIB = Path(sysconfig.get_path("stdlib"))
PACKAGES = Path(sysconfig.get_path("purelib"))
CODE = [STDLIB / "asyncio", STDLIB / "email", STDLIB / "unittest", PACKAGES / "pydantic", PACKAGES / "numpy"]
PLAYS, MESSAGES, PROBLEMS = "tinyshakespeare.txt", "sms-spam.tsv", ("gsm8k-train.jsonl", "gsm8k-test.jsonl")
SPECIAL = ["one<|endoftext|>two", "<|fim_prefix|> and <|endofprompt|>"]


def texts(test_data: Path) -> Iterator[str]:
    """All documents of the sources, read without Windlass."""
    yield from SPECIAL
    for folder in CODE:
        for path in folder.rglob("*.py"):
            with open(path, encoding="utf-8-sig", newline="") as file:
                yield file.read()
    yield from (test_data / PLAYS).read_text().split("\n\n")
    with open(test_data / MESSAGES, encoding="utf-8", newline="") as file:
        yield from (row["SMS"] for row in csv.DictReader(file, delimiter="\t"))
    for name in PROBLEMS:
        for line in (test_data / name).read_text().splitlines():
            yield "{question}\n{answer}".format(**json.loads(line))


def documents(corpus: Corpus) -> Counter[int]:
    """How often each sequence of tokens is a document of the corpus, by its hash."""
    found = Counter[int]()
    for name in ("train", "validation"):
        split = corpus.split(name)
        ends = split.document_ends().astype(int)
        for part in np.split(split.read(0, split.tokens), ends)[:-1]:
            assert part[-1] == corpus.manifest.tokenizer.end_of_document
            found[xxhash.xxh3_64_intdigest(part[:-1].astype("<u4").tobytes())] += 1
    return found


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base"])
def test_tokens_of_code_plays_messages_and_problems_are_tiktokens_own(
    name: str, test_data: Path, tmp_path: Path
) -> None:
    try:
        tokenizer = load_tokenizer(name)
    except WindlassError as error:
        pytest.skip(str(error))
    (tmp_path / "special.txt").write_text("---".join(SPECIAL))
    sources = [
        {"uri": f"{tmp_path}/special.txt", "documentSeparator": "---"},
        *({"uri": f"{folder}/**/*.py"} for folder in CODE),
        {"uri": f"{test_data}/{PLAYS}", "documentSeparator": "\n\n"},
        {"uri": f"{test_data}/{MESSAGES}", "textField": "SMS"},
        *({"uri": f"{test_data}/{problems}", "textField": "{question}\n{answer}"} for problems in PROBLEMS),
    ]
    corpus = prepare(Prepare.model_validate({"sources": sources}), tokenizer, str(tmp_path / "corpus"), workers=2)
    encoding = tiktoken.get_encoding(name)
    expected = Counter(
        xxhash.xxh3_64_intdigest(np.array(encoding.encode_ordinary(text), "<u4").tobytes())
        for text in texts(test_data)
        if text.strip()
    )
    assert sum(expected.values()) > 20_000
    assert documents(corpus) == expected
