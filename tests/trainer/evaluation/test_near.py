"""Test items that a document has in other words here and there are found among its passages."""

import random

from windlass.data.deduplication.ngrams import word_hashes
from windlass.evaluation.near import PART, index_near

WORDS = [f"word{number}" for number in range(3000)]


def words(source: random.Random, count: int) -> list[str]:
    return source.choices(WORDS, k=count)


def changed(source: random.Random, text: list[str], every: int) -> list[str]:
    return [source.choice(WORDS) if number % every == every - 1 else word for number, word in enumerate(text)]


def test_items_with_a_tenth_of_their_words_changed_are_found_at_the_start_the_end_and_in_the_middle() -> None:
    source = random.Random(3)
    items = [words(source, source.randint(20, 120)) for _ in range(30)]
    known = index_near([" ".join(item) for item in items])
    for number, item in enumerate(items):
        before, after = words(source, [0, 500, 300][number % 3]), words(source, [500, 0, 300][number % 3])
        found = known.find(word_hashes(" ".join([*before, *changed(source, item, 10), *after])))
        assert list(found) == [number]
        assert 0.6 <= found[number] < 0.85


def test_other_texts_and_items_of_few_words_are_not_found() -> None:
    source = random.Random(4)
    items = [words(source, 40), words(source, 7), []]
    known = index_near([" ".join(item) for item in items])
    assert known.find(word_hashes(" ".join(words(source, 2000)))) == {}
    assert known.find(word_hashes(" ".join(changed(source, items[0], 3)))) == {}, "a third of the words are others"
    assert known.find(word_hashes(" ".join(items[1]))) == {}
    assert known.find(word_hashes("")) == {}
    assert index_near([]).find(word_hashes("a b c d")) == {}


def test_an_item_that_crosses_the_parts_of_a_long_document_is_found_with_its_whole_share() -> None:
    source = random.Random(5)
    item = words(source, 60)
    document = [*words(source, PART - 30), *item, *words(source, 3000)]
    assert index_near([" ".join(item)]).find(word_hashes(" ".join(document))) == {0: 1.0}
