"""The rules of C4 for web pages (Raffel et al. 2020, section 2.2).

Left out: its list of bad words, its language filter (the step `languages`), the removal of three-sentence spans that
occur again (deduplication).
"""

import re

_END_MARKS = (".", "!", "?", '"', "\u201d")
_LEAST_WORDS = 5  # in a line
_LEAST_SENTENCES = 3  # in a page
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATIONS = re.compile(r"\[(\d+|edit|citation needed)\]", re.I)
_SENTENCE_ENDS = re.compile(r"[.!?]+[\"'\u201d\u2019)\]]*(?=\s|$)")


def page(text: str) -> str | None:
    """Return the page's lines of prose, or None where the page is left out.

    Lines stay that end in a terminal punctuation mark, have at least five words, and mention neither "javascript" nor a
    policy. Pages go with a curly bracket, "lorem ipsum", or fewer than three sentences left. Citation marks of
    Wikipedia are removed.
    """
    if "{" in text or "lorem ipsum" in text.lower():
        return None
    kept = [line for line in map(_without_citations, text.split("\n")) if _is_prose(line)]
    cleaned = "\n".join(kept)
    return cleaned if len(_SENTENCE_ENDS.findall(cleaned)) >= _LEAST_SENTENCES else None


def _without_citations(line: str) -> str:
    return _CITATIONS.sub("", line).strip()


def _is_prose(line: str) -> bool:
    if not line.endswith(_END_MARKS) or line.endswith("...") or len(line.split()) < _LEAST_WORDS:
        return False
    lower = line.lower()
    return "javascript" not in lower and not any(phrase in lower for phrase in _POLICIES)
