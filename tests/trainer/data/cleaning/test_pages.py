"""Web pages: C4's rules and RefinedWeb's, line by line."""

import pytest

from windlass.data.cleaning.c4 import page
from windlass.data.cleaning.navigation import without_navigation

SENTENCES = "This is the first sentence of it.\nHere is one more of them!\nAnd is this the third one?"


def test_c4_keeps_lines_of_prose() -> None:
    text = f"Menu\n{SENTENCES}\nPlease enable JavaScript to see this page.\nWe have a privacy policy for all of you.\n"
    assert page(text + "Too short.\nThis line has no end mark at all\nMore of it follows below...") == SENTENCES
    assert page("A sentence with a mark[12] in it.[citation needed]\n" * 3) == "\n".join(
        ["A sentence with a mark in it."] * 3
    )


@pytest.mark.parametrize("text", [SENTENCES + " {", SENTENCES + "\nLorem ipsum dolor.", SENTENCES[:60]])
def test_c4_leaves_pages_out(text: str) -> None:
    assert page(text) is None


def test_lines_of_navigation_go() -> None:
    text = "Sign in to continue\n3 likes\n12,034\nA real line of text.\nRead more...\n2 items in cart\n\nIn 1984 rain."
    assert without_navigation(text) == "A real line of text.\n\nIn 1984 rain."
    assert without_navigation("3 likes\n4 comments") is None
    long = "Sign in on the page of the club if you want to come along, please."
    assert without_navigation(long) == long
