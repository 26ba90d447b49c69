"""What a judge's replies say: whose answers it prefers, or how it grades, with intervals."""

import math
from collections.abc import Mapping, Sequence

from windlass.evaluation.journal import Record
from windlass.evaluation.judge import Asked, Verdict, ask_pair, ask_scores, reason, score, verdict
from windlass.evaluation.questions import Answers, Question
from windlass.intervals import Z95, wilson

POINTS = {"win": 1.0, "tie": 0.5, "loss": 0.0}
_OUTCOMES: dict[tuple[Verdict, Verdict], str] = {("first", "second"): "win", ("second", "first"): "loss"}
"""By the verdicts where our answer is shown first, and where it is shown second; all others are ties."""

Replies = Mapping[str, Record]
"""By the key of the request."""


def requests(questions: Sequence[Question], answers: Sequence[Sequence[Answers]]) -> list[Asked]:
    """All that a judge is asked of one model's answers, or of two models'."""
    if len(answers) == 1:
        return [one for question, ours in zip(questions, answers[0], strict=True) for one in ask_scores(question, ours)]
    return [
        one
        for question, ours, theirs in zip(questions, *answers, strict=True)
        for one in ask_pair(question, ours, theirs)
    ]


def compare(
    questions: Sequence[Question], ours: Sequence[Answers], theirs: Sequence[Answers], replies: Replies, judge: str
) -> Record:
    """The share of pairs that the first model wins, and each pair.

    A pair is won by the answers that are preferred in both places. Where the judge changes its mind with the place, or
    sees no difference, it is a tie: half a win for each. The interval is Wilson's (1927), which with ties is too wide
    rather than too narrow. A pair with a reply that ends with no verdict is left out.
    """
    items = []
    for question, one, other in zip(questions, ours, theirs, strict=True):
        found = [replies[asked.key(judge)] for asked in ask_pair(question, one, other)]
        first, second = (verdict(reply["reply"]) for reply in found)
        outcome = _OUTCOMES.get((first, second), "tie") if first and second else None
        items.append(_item(question, [one, other], found) | {"verdicts": [first, second], "outcome": outcome})
    judged = [item for item in items if item["outcome"]]
    won = sum(POINTS[item["outcome"]] for item in judged)
    verdicts = [one for item in items for one in item["verdicts"]]
    decided = [item for item in judged if item["outcome"] != "tie" and item["lengths"][0] != item["lengths"][1]]
    longer = [(item["outcome"] == "win") == (item["lengths"][0] > item["lengths"][1]) for item in decided]
    return {
        "pairs": len(items),
        "judged": len(judged),
        **{outcome: sum(item["outcome"] == outcome for item in judged) for outcome in POINTS},
        "win_rate": won / len(judged) if judged else None,
        "interval": list(wilson(won, len(judged))) if judged else None,
        "changed_mind": sum(item["outcome"] == "tie" and item["verdicts"] != ["tie", "tie"] for item in judged),
        "prefers_first": verdicts.count("first"),
        "prefers_second": verdicts.count("second"),
        "prefers_longer": sum(longer),
        "of_unequal_length": len(decided),
        "wrong_form": verdicts.count(None),
        "items": items,
    }


def grade(questions: Sequence[Question], answers: Sequence[Answers], replies: Replies, judge: str) -> Record:
    """The mean grade, 1 to 10, of all turns, that of each turn and of each category, and each question's.

    Intervals are normal approximations from the questions' means: turns of one question depend on each other. A reply
    that ends with no grade is left out.
    """
    items = []
    for question, ours in zip(questions, answers, strict=True):
        found = [replies[asked.key(judge)] for asked in ask_scores(question, ours)]
        items.append(_item(question, [ours], found) | {"scores": [score(reply["reply"]) for reply in found]})
    turns = max(len(question.turns) for question in questions)
    by_turn = {
        f"turn {turn + 1}": [item["scores"][turn : turn + 1] for item in items] for turn in range(turns) if turns > 1
    }
    by_category = {
        name: [item["scores"] for item in items if item["category"] == name]
        for name in dict.fromkeys(question.category for question in questions if question.category)
    }
    return {
        **_mean([item["scores"] for item in items]),
        "parts": [{"part": name, **_mean(scores)} for name, scores in (by_turn | by_category).items()],
        "wrong_form": sum(item["scores"].count(None) for item in items),
        "items": items,
    }


def _item(question: Question, answers: Sequence[Answers], replies: Sequence[Record]) -> Record:
    return {
        "question": question.id,
        "category": question.category,
        "turns": list(question.turns),
        "answers": [list(one) for one in answers],
        "lengths": [sum(map(len, one)) for one in answers],
        "reasons": [reason(reply["reply"]) for reply in replies],
    }


def _mean(scores: Sequence[Sequence[float | None]]) -> Record:
    """Mean of all grades, of each question's [turns]; the interval needs two questions."""
    given = [[one for one in question if one is not None] for question in scores]
    given = [question for question in given if question]
    flat = [one for question in given for one in question]
    found: Record = {"questions": len(given), "grades": len(flat), "score": None, "interval": None}
    if flat:
        found["score"] = mean = sum(flat) / len(flat)
    if len(given) > 1:
        means = [sum(question) / len(question) for question in given]
        middle = sum(means) / len(means)
        stderr = math.sqrt(sum((one - middle) ** 2 for one in means) / (len(means) - 1) / len(means))
        found["interval"] = [max(1.0, mean - Z95 * stderr), min(10.0, mean + Z95 * stderr)]
    return found
