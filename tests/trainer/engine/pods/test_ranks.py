"""Ranks in a worker pod, seen from outside."""

import subprocess
import sys
from pathlib import Path

import pytest

from windlass.engine.pods.pod import fit_folder
from windlass.engine.pods.ranks import RanksHere
from windlass.engine.run_folder import RunFolder, write_json


@pytest.mark.parametrize(
    ("last_words", "exit_code", "hang"),
    [
        ("step 3\n", -9, False),
        ("Fatal Python error: Segmentation fault\n\nCurrent thread ...\n", -11, False),
        ("Timeout (0:10:00)!\nThread 0x1 (most recent call first):\n", 1, True),
    ],
)
def test_a_rank_that_dies_is_told_with_its_last_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last_words: str, exit_code: int, hang: bool
) -> None:
    run = RunFolder(tmp_path)
    fit = fit_folder(run, "1-2")
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    write_json(fit.rank(1), {"pid": rank.pid, "metrics": "127.0.0.1:9"})
    fit.log("rank-1").parent.mkdir()
    fit.log("rank-1").write_text("".join(f"line {number}\n" for number in range(100)))
    ranks = RanksHere(run)
    assert ranks.deaths() == []
    assert ranks.alive == 1
    assert ranks.metrics_addresses() == ["127.0.0.1:9"]
    with open(fit.log("rank-1"), "a") as log:
        log.write(last_words)
    rank.kill()
    rank.wait()
    [death] = ranks.deaths()
    assert (death["fit"], death["rank"], death["exitCode"], death["hang"]) == ("1-2", 1, exit_code, hang)
    assert death["lastLogLines"][-1] == last_words.splitlines()[-1]
    assert len(death["lastLogLines"]) == 50
    assert ranks.deaths() == []
    printed = capsys.readouterr().out
    assert "[rank 1] line 0\n" in printed
    assert f"[rank 1] {last_words.splitlines()[0]}\n" in printed


def test_a_long_line_is_printed_whole_and_told_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = fit_folder(RunFolder(tmp_path), "1-1")
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    write_json(fit.rank(0), {"pid": rank.pid})
    fit.log("rank-0").parent.mkdir()
    fit.log("rank-0").write_text(f"{'x' * 500}\n{'y' * 100_000}\n")
    ranks = RanksHere(RunFolder(tmp_path))
    ranks.deaths()
    rank.kill()
    rank.wait()
    [death] = ranks.deaths()
    assert death["lastLogLines"] == ["x" * 500, "y" * 497 + "..."]
    assert f"[rank 0] {'y' * 100_000}\n" in capsys.readouterr().out


def test_a_rank_that_ends_well_is_no_death(tmp_path: Path) -> None:
    fit = fit_folder(RunFolder(tmp_path), "1-1")
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    write_json(fit.rank(0), {"pid": rank.pid})
    ranks = RanksHere(RunFolder(tmp_path))
    ranks.deaths()
    write_json(fit.rank(0), {"pid": rank.pid, "ended": True})
    rank.kill()
    rank.wait()
    assert ranks.deaths() == []
    assert ranks.alive == 0
