"""What is wrong with a job, said so that a person can correct it: where, what, and what would be right."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from windlass.errors import WindlassError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a job."""

    path: str
    """Field, as in spec.data.train[0].uri; empty for the whole file."""
    message: str
    """What is wrong, and what is allowed."""
    about: tuple[str, ...] = ()
    """Other fields that the rule looked at."""
    source: str = ""
    """The file, or the --set option, that the value came from."""
    line: int | None = None
    """Line in the file, from 1."""
    column: int | None = None
    """Column in the line, from 1; of syntax errors only."""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line, self.column) if part)
        return ": ".join(part for part in (place, self.path, self.message) if part)


class InvalidJob(WindlassError):
    """A job that cannot run as it is written; the message has one line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("ConfigInvalid", "\n".join(str(problem) for problem in problems))
        self.problems = list(problems)

    def __reduce__(self) -> tuple[type["InvalidJob"], tuple[list[Problem]]]:
        return InvalidJob, (self.problems,)


def field_path(keys: Iterable[str | int]) -> str:
    """The written form of a path: ("spec", "train", 0, "uri") is spec.train[0].uri."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be, whatever its case; None when none is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = get_close_matches(word.lower().replace("_", ""), by_lower, n=1, cutoff=0.65)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of a message: "; did you mean X?", or nothing."""
    guess = nearest(word, choices)
    return f"; did you mean {guess}?" if guess else ""
