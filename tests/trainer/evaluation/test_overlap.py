"""Items of benchmarks are found in training data, prepared or raw, and scores leave them out."""

import json
from pathlib import Path

import pytest
from tests.trainer.evaluation.suite_data import LLAMA, write_model, write_suites

from windlass.data.prepare import prepare
from windlass.data.tokenizers import load_tokenizer
from windlass.engine.evaluation import Request, evaluate
from windlass.errors import WindlassError
from windlass.evaluation.overlap import find_overlap
from windlass.evaluation.scores import Item
from windlass.evaluation.suites import open_benchmarks
from windlass.spec.job import Prepare

LONG = "How many apples does she have left, if she gives three of her twelve apples to Tom?"
SHORT = "Name the capital city of the old kingdom."  # eight words
TINY = "What is two plus two?"
ITEMS: dict[Item, str] = {
    ("a", 0): LONG,
    ("a", 1): SHORT,
    ("a", 2): TINY,
    ("b", 0): "A question that nobody has ever written down in any training text, so far as one can know.",
}
FILLER = "and then some other words came along that nobody had asked for at all"


def write_corpus(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder / "train.jsonl"


def test_items_are_found_by_thirteen_words_or_all_of_fewer(tmp_path: Path) -> None:
    texts = [
        f"{FILLER} {LONG.upper()} {FILLER}",
        f"{FILLER} {' '.join(LONG.split()[:12])} otherwise {TINY}",  # twelve words, and a question too short to tell
        f"{FILLER} {SHORT}",
    ]
    corpus = write_corpus(tmp_path / "raw", texts)
    found = find_overlap(ITEMS, str(corpus))
    assert found.found == {("a", 0): [f"{corpus}:1"], ("a", 1): [f"{corpus}:3"]}
    assert (found.documents, found.known, found.too_short) == (3, 3, 1)
    corpus.write_text(corpus.read_text().replace('"text"', '"question"'))
    assert find_overlap(ITEMS, str(corpus), "{question}").found == found.found


def test_an_item_in_other_words_is_found_too_with_how_much_of_it_is_there(tmp_path: Path) -> None:
    rewritten = "How many apples does he have left, if she gives three of her twelve apples to Sam?"
    corpus = write_corpus(tmp_path / "raw", [FILLER, f"{FILLER} {rewritten} {FILLER}"])
    found = find_overlap(ITEMS, str(corpus))
    assert found.found == {("a", 0): [f"{corpus}:2"]}
    assert found.near == {("a", 0): pytest.approx(11 / 15)}, "of 15 times three words, 4 have another one"
    assert found.texts == {("a", 0): LONG}


def test_a_phrase_in_more_than_ten_documents_is_no_evidence(tmp_path: Path) -> None:
    items = {("a", 0): f"{FILLER} {LONG}"}
    texts = [f"{FILLER} {number}" for number in range(10)]
    few, many = write_corpus(tmp_path / "few", texts), write_corpus(tmp_path / "many", [*texts, FILLER])
    [documents] = find_overlap(items, str(few)).found.values()
    assert len(documents) == 3, "the first ones are named"
    assert find_overlap(items, str(many)).found == {}
    whole = write_corpus(tmp_path / "whole", [f"{items['a', 0]} {number}" for number in range(11)])
    assert find_overlap(items, str(whole)).near == {("a", 0): 1.0}, "most of an item is more than a phrase"


@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_a_prepared_corpus_gives_the_documents_of_its_training_split(tmp_path: Path, tokenizer: str) -> None:
    texts = [f"{FILLER} {number} {LONG if number < 8 else FILLER}" for number in range(40)]
    spec = Prepare.model_validate({"sources": [{"uri": str(write_corpus(tmp_path / "raw", texts))}]})
    corpus = prepare(spec, load_tokenizer(tokenizer), str(tmp_path / "corpus"))
    found = find_overlap(ITEMS, str(tmp_path / "corpus"))
    assert found.documents == corpus.manifest.splits["train"].documents < 40
    assert list(found.found) == [("a", 0)]
    assert found.found["a", 0][0].startswith(f"{tmp_path}/corpus, document ")


def test_scores_are_there_with_and_without_the_items_that_were_trained_on(tmp_path: Path) -> None:
    data, model = write_suites(tmp_path / "data"), write_model(tmp_path / "model", LLAMA)
    suites = ["arc", "hellaswag", "gsm8k"]
    with open_benchmarks(suites, data) as benchmarks:
        items = benchmarks.items()
    assert set(dict.fromkeys(task for task, _ in items)) == {"arc_easy", "arc_challenge", "hellaswag", "gsm8k"}
    trained = [items["arc_easy", 3], items["arc_easy", 7], items["gsm8k", 0]]
    corpus = write_corpus(tmp_path / "corpus", [f"{FILLER} {text}" for text in trained])
    found = evaluate(model, Request(suites=suites, data=data, decontaminate=[str(corpus)], batch_size=16), tmp_path)
    assert [(one["task"], one["item"]) for one in found["contamination"][0]["items"]] == [
        ("arc_easy", 3), ("arc_easy", 7), ("gsm8k", 0)
    ]  # fmt: skip
    assert items["gsm8k", 0].startswith(found["contamination"][0]["items"][2]["text"])
    scores = {(score["task"], score["metric"], score["is_clean"]): score for score in found["suites"]}
    counts = {task: scores[task, metric, True]["items"] for task, metric, is_clean in scores if is_clean}
    assert counts == {"arc_easy": 10, "arc_challenge": 12, "hellaswag": 10, "gsm8k": 5}
    untouched, clean = scores["hellaswag", "acc", False], scores["hellaswag", "acc", True]
    assert (untouched["value"], untouched["stderr"]) == (clean["value"], pytest.approx(clean["stderr"]))
    whole, clean = scores["arc_easy", "acc", False], scores["arc_easy", "acc", True]
    assert round(whole["value"] * 12) - round(clean["value"] * 10) in (0, 1, 2)
    card = (tmp_path / "model-card.md").read_text()
    assert f"3 of {found['contamination'][0]['items_known']} items share 13 words in a row" in card
    assert "| arc_easy 7 | " in card
    assert "Test items in training data" in (tmp_path / "report.html").read_text()
    assert "| arc_easy | acc, clean items |" in card


def test_the_clean_score_is_that_of_the_other_items_alone(tmp_path: Path) -> None:
    data, model = write_suites(tmp_path / "data"), write_model(tmp_path / "model", LLAMA)
    with open_benchmarks(["arc_easy"], data) as benchmarks:
        items = benchmarks.items()
    corpus = write_corpus(tmp_path / "corpus", [items["arc_easy", number] for number in (0, 1, 2, 3, 4)])
    request = Request(suites=["arc_easy"], data=data, decontaminate=[str(corpus)])
    clean = [score for score in evaluate(model, request, tmp_path)["suites"] if score["is_clean"]]
    lines = (data / "arc/ARC-Easy/test.jsonl").read_text().splitlines(keepends=True)
    (data / "arc/ARC-Easy/test.jsonl").write_text("".join(lines[5:]))
    alone = evaluate(model, Request(suites=["arc_easy"], data=data), tmp_path)["suites"]
    assert [score["value"] for score in clean] == pytest.approx([score["value"] for score in alone])
    assert [score["stderr"] for score in clean] == pytest.approx([score["stderr"] for score in alone])


def test_a_corpus_that_is_not_there_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    request = Request(suites=["arc_easy"], data=write_suites(tmp_path / "data"), decontaminate=["gone"])
    with pytest.raises(WindlassError, match="gone") as raised:
        evaluate(tmp_path / "no-model", request, tmp_path)
    assert raised.value.reason == "DataNotFound"
    with pytest.raises(WindlassError, match="--decontaminate looks for items of suites; name one"):
        evaluate(tmp_path, Request(decontaminate=["a"]), tmp_path)
