"""The language of a text, by py3langid (Barbaresi, after Lui and Baldwin 2012); its model is in the package."""

from functools import lru_cache
from typing import Any

_LOOKED_AT = 4000  # characters: more don't change the answer


def detected(text: str) -> tuple[str, float]:
    """Return the text's most probable language, in ISO 639-1, and its probability."""
    language, probability = _identifier().classify(text[:_LOOKED_AT])
    return str(language), float(probability)


def only(text: str, languages: frozenset[str], confidence: float) -> str | None:
    """Return the text if it is in one of the languages, with at least this probability."""
    language, probability = detected(text)
    return text if language in languages and probability >= confidence else None


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
