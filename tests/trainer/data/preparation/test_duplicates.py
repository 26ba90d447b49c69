"""Duplicates in a corpus: planted ones are found, none is invented beyond the published error, none straddles."""

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windlass.data.corpus import Corpus
from windlass.data.deduplication.join import clusters
from windlass.data.deduplication.minhash import band_hashes, bands_of, signature
from windlass.data.deduplication.ngrams import ngram_hashes, word_hashes
from windlass.data.prepare import prepare
from windlass.data.sources.documents import documents
from windlass.data.sources.listing import list_files
from windlass.data.tokenizers import BytesTokenizer
from windlass.spec.job import Prepare, Source

BYTES = BytesTokenizer()


def texts(corpus: Corpus) -> dict[str, list[str]]:
    found = {}
    for name in ("train", "validation"):
        split = corpus.split(name)
        parts = np.split(split.read(0, split.tokens), split.document_ends().astype(int))[:-1]
        found[name] = [BYTES.decode(part[:-1].tolist()) for part in parts]
    return found


def stats(corpus: Corpus) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(corpus.uri, corpus.manifest.folder, "stats.json").read_text())
    return content


@pytest.fixture(scope="module")
def code() -> list[str]:
    """Modules of the standard library of some size, no two the same."""
    source = Source(uri="python://stdlib")
    found = [next(documents(source, file)).text or "" for file in list_files(source) if 3_000 < file.size < 20_000]
    return found[:100]


def test_planted_duplicates_in_code_are_all_found_and_none_invented(code: list[str], tmp_path: Path) -> None:
    chance = random.Random(7)
    exact = [text.replace("\n", "\r\n") for text in chance.sample(code, 20)]
    near = []
    for text in chance.sample(code, 20):
        lines = text.splitlines()
        lines[len(lines) // 2] = "changed = True  # one line in the middle"
        near.append("\n".join([*lines, "# and one at the end"]))
    for name, group in (("a", code), ("b", exact), ("c", near)):
        (tmp_path / "raw").mkdir(exist_ok=True)
        for number, text in enumerate(group):
            (tmp_path / "raw" / f"{name}{number:03}.py").write_bytes(text.encode())
    deduplicate = {"near": {"ngram": 5, "permutations": 128, "threshold": 0.7}}
    spec = Prepare.model_validate({"sources": [{"uri": f"{tmp_path}/raw"}], "deduplicate": deduplicate})
    corpus = prepare(spec, BYTES, str(tmp_path / "corpus"))
    steps = stats(corpus)["steps"]
    assert [Path(name).name for name in steps["exact duplicates"]["names"]] == [f"b{n:03}.py" for n in range(20)]
    found = {Path(name).name for name in steps["near duplicates"]["names"]}
    assert {f"c{number:03}.py" for number in range(20)} <= found
    # What is found besides are the pairs that share a band: as many as are to be expected of texts that similar.
    names = [f"a{number:03}.py" for number in range(len(code))] + [f"c{number:03}.py" for number in range(20)]
    ngrams = [ngram_hashes(word_hashes(text), 5) for text in [*code, *near]]
    bands = bands_of(128, 0.7)
    hashes = band_hashes(np.array([signature(grams, 128) for grams in ngrams]), bands)
    pairs = [(a, b) for a, b in combinations(range(len(names)), 2) if (hashes[:, a] == hashes[:, b]).any()]
    first = clusters(len(names), np.array(pairs))
    assert found == {name for number, name in enumerate(names) if first[number] != number}
    sets = [set(grams.tolist()) for grams in ngrams]
    similarities = np.array([len(a & b) / len(a | b) for a, b in combinations(sets, 2)])
    chances = bands.probability(similarities)
    assert abs(len(pairs) - chances.sum()) < 6 * np.sqrt((chances * (1 - chances)).sum())


def test_copies_never_straddle_the_split_even_where_they_are_kept(tmp_path: Path) -> None:
    lines = [f"document {number % 40}" + " " * (number // 40) for number in range(120)]  # white space differs
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    spec = Prepare(sources=[Source(uri=f"{tmp_path}/a.jsonl")], validation_fraction=0.3)
    found = texts(prepare(spec, BYTES, str(tmp_path / "corpus")))
    assert len(found["train"]) + len(found["validation"]) == 120
    assert len(found["validation"]) == 36
    assert not {text.strip() for text in found["train"]} & {text.strip() for text in found["validation"]}


def test_a_document_that_is_cut_in_two_is_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("abcdefghij")
    (tmp_path / "many.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in ("x", "abcde fghij", "y", "z"))
    )
    spec = Prepare(sources=[Source(uri=f"{tmp_path}/{name}") for name in ("one.txt", "many.jsonl")])
    found = texts(prepare(spec, BYTES, str(tmp_path / "corpus")))
    assert "".join(sorted(found["train"] + found["validation"])) == "abcdefghijxyz"
    assert found["validation"][0] == "j"


def test_duplicates_across_sources_are_found_and_their_clusters_shown(tmp_path: Path) -> None:
    for name, lines in (("a", ["one", "two", "one"]), ("b", ["two", "three", "one"])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    spec = Prepare.model_validate(
        {"sources": [{"uri": f"{tmp_path}/{name}.jsonl", "license": "MIT"} for name in "ab"], "deduplicate": {}}
    )
    corpus = prepare(spec, BYTES, str(tmp_path / "corpus"))
    found = stats(corpus)
    assert found["duplicates"] == {
        "documents": 3,
        "clusters": 2,
        "sizes": {"2": 1, "3": 1},
        "largest": [
            {"documents": 3, "names": [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/a.jsonl:3", f"{tmp_path}/b.jsonl:3"]},
            {"documents": 2, "names": [f"{tmp_path}/a.jsonl:2", f"{tmp_path}/b.jsonl:1"]},
        ],
    }
    card = Path(corpus.uri, corpus.manifest.folder, "card.md").read_text()
    assert "| read | 6 |  | 20 |" in card
    assert "| exact duplicates | 3 | 0 | 9 |" in card
    assert "| kept | 3 |  | 11 |" in card
    assert f"| {tmp_path}/b.jsonl | 1 | MIT |" in card


def test_steps_count_what_they_take_and_change(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in ("schÃ¶n", "plain", "a\x00b", "call 212-555-0123", "  "))
    )
    spec = Prepare.model_validate(
        {"sources": [{"uri": f"{tmp_path}/a.jsonl"}], "clean": {"personalData": True, "boilerplate": True}}
    )
    corpus = prepare(spec, BYTES, str(tmp_path / "corpus"))
    steps = {name: (step["removed"], step["changed"]) for name, step in stats(corpus)["steps"].items()}
    expected = {"not UTF-8": (0, 0), "empty": (1, 0), "unicode": (0, 1), "controlCharacters": (0, 1)}
    assert steps == expected | {"boilerplate": (0, 0), "personalData": (0, 1)}
    found = texts(corpus)
    assert set(found["train"] + found["validation"]) == {"schön", "plain", "ab", "call <PHONE>"}
