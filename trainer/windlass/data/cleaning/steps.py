"""The cleaning steps that a job asks for, in their order."""

from collections.abc import Callable
from functools import partial

from windlass.data.cleaning import c4, characters, gopher, language, navigation, personal
from windlass.spec.job import Clean

Step = Callable[[str], str | None]
"""Returns the text, changed or not, or None where the document is to be left out."""


def steps(clean: Clean) -> dict[str, Step]:
    """Return each step that is on, by its name in the job."""
    languages = partial(language.only, languages=frozenset(clean.languages), confidence=clean.language_confidence)
    every: dict[str, tuple[bool, Step]] = {
        "unicode": (clean.unicode, characters.repaired),
        "controlCharacters": (clean.control_characters, characters.without_controls),
        "boilerplate": (clean.boilerplate, navigation.without_navigation),
        "c4": (clean.c4, c4.page),
        "languages": (bool(clean.languages), languages),
        "gopherQuality": (clean.gopher_quality, gopher.of_quality),
        "gopherRepetition": (clean.gopher_repetition, gopher.without_repetition),
        "personalData": (clean.personal_data, personal.scrubbed),
    }
    return {name: step for name, (on, step) in every.items() if on}
