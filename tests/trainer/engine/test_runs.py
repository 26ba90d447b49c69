"""Runs that are asked for by a name that none has."""

from pathlib import Path

import pytest

from windlass.engine.runs import find_run
from windlass.errors import WindlassError


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("palys", "There is no run palys: neither palys/job.yaml nor runs/palys/job.yaml exists; did you mean plays?"),
        ("runs/palys", "neither runs/palys/job.yaml nor runs/runs/palys/job.yaml exists; did you mean plays?"),
        ("quite-another", "There is no run quite-another: neither quite-another/job.yaml nor"),
        ("{here}/runs/palys", "There is no run palys: {here}/runs/palys/job.yaml does not exist; did you mean plays?"),
    ],
)
def test_a_run_that_is_not_there_is_named_with_the_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plays", "unfinished"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "plays" / "job.yaml").touch()
    with pytest.raises(WindlassError) as refused:
        find_run(asked.format(here=tmp_path))
    assert message.format(here=tmp_path) in str(refused.value)
    assert "unfinished" not in str(refused.value)
