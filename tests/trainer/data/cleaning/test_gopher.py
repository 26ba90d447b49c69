"""Gopher's rules: good prose stays, and each rule removes what it is for."""

import pytest

from windlass.data.cleaning.gopher import of_quality, without_repetition

PROSE = (
    "The captain of the old ship looked at the sea and said that the wind would be with them before the evening came.\n"
    "Nobody on deck believed him, for it had been quiet since the morning, and the sails hung from their ropes.\n"
    "But when the sun touched the water, a breeze came from the north, and they have spoken of it ever since.\n"
)


def test_prose_passes_unchanged() -> None:
    assert of_quality(PROSE) == PROSE
    assert without_repetition(PROSE) == PROSE


@pytest.mark.parametrize(
    "text",
    [
        "The end of the story that we have.",  # fewer than 50 words
        "of and the be to a I " * 20,  # words of fewer than 3 characters on average
        "antidisestablishmentarianism of the " * 30,  # more than 10
        PROSE + "# " * 20,  # symbols
        PROSE + "... " * 20,  # ellipses
        "\n".join(f"- {line}" for line in PROSE.splitlines()),  # bullets
        "\n".join(f"{line} ..." for line in PROSE.splitlines()),  # lines that end in an ellipsis
        PROSE + "123 " * 40,  # words without a letter
        "Captain ship looked wind evening nobody deck believed quiet morning " * 6,  # no stop words
    ],
)
def test_what_breaks_a_rule_of_quality_goes(text: str) -> None:
    assert of_quality(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "\n".join([*(f"line {number} is here" for number in range(6)), *["again and again"] * 5]),  # lines
        "\n\n".join([*(f"part {number} is here" for number in range(6)), *["again and again"] * 5]),  # paragraphs
        PROSE + "buy now " * 30,  # the top 2-gram
        PROSE + " ".join(PROSE.split()[:20]),  # 5-grams to 10-grams that repeat
    ],
)
def test_what_repeats_itself_goes(text: str) -> None:
    assert without_repetition(text) is None


def test_a_single_rule_can_be_the_reason() -> None:
    """Ten of 65 words are there twice: more than the share of characters in repeated 10-grams, but 5-grams pass."""
    words = PROSE.split()
    assert without_repetition(" ".join(words + words[:4])) is not None
    assert without_repetition(" ".join(words + words[:12])) is None
