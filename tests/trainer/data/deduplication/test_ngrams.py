"""N-grams: equal where the words are, whatever stands between them and wherever they are."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from windlass.data.deduplication import ngrams
from windlass.data.deduplication.ngrams import ngram_hashes, word_hashes

CJK = "[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7ff]"


@given(st.text(st.sampled_from("ab B_1.,\n\t-é日本語"), max_size=40))
def test_words_are_those_of_a_plain_definition(text: str) -> None:
    found = word_hashes(text)
    expected = re.findall(rf"{CJK}[a-z0-9_é]*|[a-z0-9_é]+", text.lower())
    assert len(found) == len(expected)
    by_word = {word: int(word_hashes(word)[0]) for word in expected}
    assert found.tolist() == [by_word[word] for word in expected]
    assert len(set(by_word.values())) == len(by_word)


@given(st.lists(st.sampled_from(["the", "cat", "sat"]), max_size=12), st.integers(1, 5))
def test_ngrams_are_equal_where_their_words_are(words: list[str], n: int) -> None:
    found = ngram_hashes(word_hashes(" ".join(words)), n).tolist()
    size = min(n, len(words))
    grams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)] if words else []
    assert len(found) == len(grams)
    assert [found.index(value) for value in found] == [grams.index(gram) for gram in grams]


def test_hashes_do_not_depend_on_where_a_text_is_cut_into_chunks() -> None:
    text = " ".join(f"word{number}" for number in range(30_000))
    assert len(text) > 3 * ngrams._CHUNK
    expected = np.concatenate([word_hashes(word) for word in text.split()[::97]])
    assert word_hashes(text)[::97].tolist() == expected.tolist()


def test_case_and_punctuation_do_not_count() -> None:
    assert word_hashes('"The cat," she SAID: sat!').tolist() == word_hashes("the cat she said sat").tolist()
