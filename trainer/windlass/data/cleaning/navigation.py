"""Boilerplate lines of web pages: the line rules of RefinedWeb (Penedo et al. 2023, appendix G.2)."""

import re

_SHORT = 10  # words: a line of at most so many goes with a phrase of navigation
_COUNTER = re.compile(r"\W*[\d.,]+\s*[kmb]?\s*(likes?|shares?|comments?|retweets?|reposts?|views?|followers?)\W*", re.I)
_BEGINS = re.compile(r"(sign[ -]?(in|up)|log[ -]?in|subscribe|share (on|this)|follow us|skip to)\b", re.I)
_ENDS = re.compile(r"\b(read more|continue reading|show more|see all|load more)\W*$", re.I)
_HAS = re.compile(r"\b(items? in (your )?cart|add to cart|all rights reserved|cookie settings)\b", re.I)


def without_navigation(text: str) -> str | None:
    """Return the text without lines that are counters, digits alone, or short and of navigation; None if none is left.

    Of RefinedWeb's rules those on capitals and on single words are left out: they cost headings and poems.
    """
    lines = text.split("\n")
    kept = [line for line in lines if not line.strip() or not _is_navigation(line.strip())]
    if len(kept) == len(lines):
        return text
    return "\n".join(kept) if any(line.strip() for line in kept) else None


def _is_navigation(line: str) -> bool:
    if _COUNTER.fullmatch(line) or (any(map(str.isdigit, line)) and not any(map(str.isalpha, line))):
        return True
    if len(line.split()) > _SHORT:
        return False
    return bool(_BEGINS.match(line) or _ENDS.search(line) or _HAS.search(line))
