"""Texts that models write, in Markdown."""

import html


def plain(text: str) -> str:
    """A text in a cell or a line of Markdown, in which nothing is markup."""
    escaped = html.escape(text.strip(), quote=False)
    for mark in "\\`*_[]|#~":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped.replace("\r", "").replace("\n", "<br>")
