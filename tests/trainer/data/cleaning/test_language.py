"""Languages: told apart, and those asked for kept."""

from windlass.data.cleaning.language import detected, only

ENGLISH = "The captain of the old ship looked at the sea and said that the wind would come before the evening."
GERMAN = "Der Kapitän des alten Schiffs sah auf das Meer und sagte, der Wind werde vor dem Abend kommen."


def test_languages_are_told_apart() -> None:
    assert detected(ENGLISH)[0] == "en"
    assert detected(GERMAN)[0] == "de"


def test_texts_in_other_languages_and_uncertain_ones_go() -> None:
    assert only(ENGLISH, frozenset(("en", "fr")), 0.65) == ENGLISH
    assert only(GERMAN, frozenset(("en",)), 0.65) is None
    assert only("ok", frozenset((detected("ok")[0],)), 0.9999) is None
