"""Contamination: as long an overlap as asked, whatever its case and punctuation, and no common phrase."""

import json
from pathlib import Path

import pytest

from windlass.data.corpus import Corpus
from windlass.data.prepare import prepare
from windlass.data.tokenizers import BytesTokenizer
from windlass.errors import WindlassError
from windlass.spec.job import Prepare

ITEM = "How many apples does she have left, if she gives three of her twelve apples to Tom?"
SHORT = "Name the capital city of the old kingdom."  # eight words
TINY = "What is two plus two?"
FILLER = "and then some other words came along that nobody had asked for at all "


def made(folder: Path, texts: list[str], items: list[str], **settings: object) -> Corpus:
    for name, lines in (("train", texts), ("test", items)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    against = {"against": [{"uri": f"{folder}/test.jsonl"}], **settings}
    spec = {"sources": [{"uri": f"{folder}/train.jsonl"}], "decontaminate": against}
    return prepare(Prepare.model_validate(spec), BytesTokenizer(), str(folder / "corpus"))


def stats(corpus: Corpus) -> dict[str, object]:
    path = Path(corpus.uri, corpus.manifest.folder, "stats.json")
    content: dict[str, object] = json.loads(path.read_text())
    return content


def test_documents_with_enough_words_of_a_test_item_go_and_are_named(tmp_path: Path) -> None:
    texts = [
        FILLER + ITEM.upper().replace(",", ";") + FILLER,  # the whole item
        FILLER + " ".join(ITEM.split()[:13]),  # thirteen words of it
        FILLER + " ".join(ITEM.split()[:12]) + " otherwise",  # twelve
        FILLER + SHORT,
        FILLER + TINY,
        *(f"{FILLER} number {number}" for number in range(5)),
    ]
    corpus = made(tmp_path, texts, [ITEM, SHORT, TINY])
    assert corpus.manifest.splits["train"].documents + corpus.manifest.splits["validation"].documents == 7
    found = stats(corpus)
    train = f"{tmp_path}/train.jsonl"
    assert found["contamination"] == {
        "documents": 3,
        "items_known": 2,
        "items_too_short": 1,
        "items_found": 2,
        "items": [
            {"item": f"{tmp_path}/test.jsonl:1", "documents": [f"{train}:1", f"{train}:2"]},
            {"item": f"{tmp_path}/test.jsonl:2", "documents": [f"{train}:4"]},
        ],
    }


def test_a_phrase_in_many_documents_does_not_count(tmp_path: Path) -> None:
    texts = [f"{ITEM} {number}" for number in range(4)] + [f"{FILLER} {number}" for number in range(4)]
    assert made(tmp_path, texts, [ITEM], common=3).manifest.splits["train"].documents == 7
    removed = made(tmp_path, texts, [ITEM], common=4)
    assert removed.manifest.splits["train"].documents == 3


def test_what_is_only_reported_stays(tmp_path: Path) -> None:
    corpus = made(tmp_path, [ITEM, FILLER, FILLER + "x"], [ITEM], action="Report")
    assert corpus.manifest.splits["train"].documents + corpus.manifest.splits["validation"].documents == 3
    assert stats(corpus)["contamination"]["documents"] == 1  # type: ignore[index]


def test_test_sets_that_cannot_be_found_in_anything_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WindlassError, match="no test item has 8 words or more; check textField, or lower ngram"):
        made(tmp_path, [FILLER], [TINY])
