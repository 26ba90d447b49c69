"""Characters: repaired, normalised, and no others than text needs."""

import pytest

from windlass.data.cleaning.characters import repaired, without_controls


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schÃ¶n â€” wÃ¤re", "schön — wäre"),
        ("e\u0301", "é"),
        ("“quotes” stay, and 日本語", "“quotes” stay, and 日本語"),
        ("plain ASCII", "plain ASCII"),
    ],
)
def test_mojibake_is_repaired_and_forms_are_one(text: str, expected: str) -> None:
    assert repaired(text) == expected


def test_control_characters_go_and_line_ends_are_newlines() -> None:
    assert without_controls("a\r\nb\rc\x00\x07\td\u2028e\ufeff\x1b[0m") == "a\nb\nc\td\ne[0m"
    assert without_controls("def f():\n\treturn 1\n") == "def f():\n\treturn 1\n"
