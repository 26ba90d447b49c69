"""What a preparation says of how far it is."""

from windlass.data.preparation import progress
from windlass.data.preparation.counts import Counts
from windlass.data.preparation.progress import Report


def test_nothing_is_counted_before_the_first_unit_is_done_and_rate_and_rest_are_told_after_it() -> None:
    told: list[str] = []
    report = Report(told.append, total=4_000_000)
    assert report.line() == "reading 4.0 MB"
    report._began -= 2.0  # seconds
    report._told -= progress._SECONDS
    report.add(Counts(documents=10, tokens=2_000), 1_000_000, fresh=True)
    assert told == ["10 documents, 2,000 tokens, 25% at 0.5 MB/s, about 6 s left"]
