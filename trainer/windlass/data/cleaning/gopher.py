"""The rules of Gopher's MassiveText for quality and repetition (Rae et al. 2021, appendix A.1.1 and table A1)."""

from collections import Counter
from collections.abc import Sequence

_WORDS = (50, 100_000)  # in a document
_WORD_LENGTH = (3, 10)  # characters, on average
_SYMBOLS_PER_WORD = 0.1  # of "#", and of ellipses
_BULLET_LINES = 0.9
_ELLIPSIS_LINES = 0.3
_ALPHABETIC_WORDS = 0.8  # at least
_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_LEAST_STOP_WORDS = 2
_BULLETS = ("\u2022", "\u2023", "\u25cf", "\u25e6", "-", "*")
_ELLIPSES = ("...", "\u2026")

# Table A1: largest share of lines or paragraphs, then of their characters, that repeat an earlier one.
_DUPLICATE_LINES, _DUPLICATE_LINE_CHARACTERS = 0.30, 0.20
_DUPLICATE_PARAGRAPHS, _DUPLICATE_PARAGRAPH_CHARACTERS = 0.30, 0.20
_TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}  # of characters, in the n-gram that occurs most
_DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}  # of characters, in those that repeat


def of_quality(text: str) -> str | None:
    """Return the text, or None where it is no prose of usual length, words and lines."""
    words = text.split()
    if not words or not _WORDS[0] <= len(words) <= _WORDS[1]:
        return None
    if not _WORD_LENGTH[0] <= sum(map(len, words)) / len(words) <= _WORD_LENGTH[1]:
        return None
    ellipses = sum(map(text.count, _ELLIPSES))
    if max(text.count("#"), ellipses) / len(words) > _SYMBOLS_PER_WORD:
        return None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if sum(line.startswith(_BULLETS) for line in lines) / len(lines) > _BULLET_LINES:
        return None
    if sum(line.endswith(_ELLIPSES) for line in lines) / len(lines) > _ELLIPSIS_LINES:
        return None
    if sum(any(map(str.isalpha, word)) for word in words) / len(words) < _ALPHABETIC_WORDS:
        return None
    found = _STOP_WORDS.intersection(word.lower() for word in words)
    return text if len(found) >= _LEAST_STOP_WORDS else None


def without_repetition(text: str) -> str | None:
    """Return the text, or None where lines, paragraphs or n-grams of words repeat too much."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    words = text.split()
    if not words:
        return None
    for parts, share, characters in (
        (lines, _DUPLICATE_LINES, _DUPLICATE_LINE_CHARACTERS),
        (paragraphs, _DUPLICATE_PARAGRAPHS, _DUPLICATE_PARAGRAPH_CHARACTERS),
    ):
        repeated = _repeated(parts)
        if len(repeated) / len(parts) > share or sum(map(len, repeated)) / len(text) > characters:
            return None
    total = sum(map(len, words))
    if any(_top_ngram(words, n) / total > share for n, share in _TOP_NGRAM.items()):
        return None
    return None if any(_in_repeats(words, n) / total > share for n, share in _DUPLICATE_NGRAMS.items()) else text


def _repeated(parts: Sequence[str]) -> list[str]:
    """Return those that were there before, each time."""
    seen: set[str] = set()
    return [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]


def _top_ngram(words: list[str], n: int) -> int:
    """Return the characters in all occurrences of the n-gram that occurs most, if it occurs again."""
    counts = Counter(zip(*(words[at:] for at in range(n)), strict=False))
    if not counts:
        return 0
    ngram, times = max(counts.items(), key=lambda item: (item[1], sum(map(len, item[0]))))
    return sum(map(len, ngram)) * times if times > 1 else 0


def _in_repeats(words: list[str], n: int) -> int:
    """Return the characters of words within n-grams that were there before, each word counted once."""
    seen: set[tuple[str, ...]] = set()
    found, counted = 0, 0
    for at, ngram in enumerate(zip(*(words[start:] for start in range(n)), strict=False)):
        if ngram in seen:
            found += sum(map(len, words[max(at, counted) : at + n]))
            counted = at + n
        seen.add(ngram)
    return found
