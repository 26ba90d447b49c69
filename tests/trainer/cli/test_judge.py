"""`windlass evaluate judge` and `windlass evaluate arena` as a person uses them."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.trainer.evaluation.judge_server import JudgeServer, judge_server, longer
from typer.testing import CliRunner, Result

from windlass.cli.main import app

KEY = "sk-very-secret-1234"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    prompts = [{"prompt": f"Question {number}?"} for number in range(4)]
    for name, answer in {"prompts": None, "plays": "yes, by my troth", "base": "no"}.items():
        records = [prompt if answer is None else {**prompt, "answer": answer} for prompt in prompts]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server(longer) as running:
        yield running


def judge(server: JudgeServer, *arguments: str) -> Result:
    models = ["plays.jsonl", "base.jsonl"]
    judge = ["--prompts", "prompts.jsonl", "--judge", "judge-1", "--url", server.url]
    return CliRunner().invoke(app, ["evaluate", "judge", *models, *judge, *arguments])


def test_the_cost_is_said_and_nothing_is_paid_without_consent(server: JudgeServer) -> None:
    result = judge(server, "--price-in", "2.5", "--price-out", "10")
    assert result.exit_code == 2
    assert result.stdout.startswith(f"8 judgements by judge-1 at {server.url}: about ")
    assert "and at most 8,192 out: $0.0" in result.stdout
    assert result.stderr == "Nobody is there to agree; add --yes to go on.\n"
    assert not server.requests


def test_a_pair_is_judged_and_the_key_is_nowhere(server: JudgeServer, here: Path) -> None:
    result = judge(server, "--yes", "--key-variable", "JUDGE_KEY")
    assert result.exit_code == 0, result.output
    assert "plays against base  win rate     1.0000  0.5101 to 1.0000  4 pairs: 4 won, 0 tied, 0 lost" in result.stdout
    assert "judged/plays-base: judge.json, judge.md" in result.stdout
    assert set(server.keys) == {f"Bearer {KEY}"}
    files = list((here / "judged/plays-base").iterdir())
    assert sorted(file.name for file in files) == [".lock", "judge.json", "judge.md", "judgements.jsonl"]
    assert KEY not in result.output + "".join(file.read_text() for file in files)
    again = judge(server)
    assert (again.exit_code, len(server.requests)) == (0, 8), "nothing to pay, so nothing to ask"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--yes", "--key-variable", KEY], "--key-variable names no environment variable that is set"),
        (["--yes", "--key-variable", "UNSET"], "--key-variable names no environment variable that is set"),
        (["--yes", "--price-in", "1"], "--price-in and --price-out are given together"),
        (["plays.jsonl"], "3 models are named; name one to grade, or two to compare"),
    ],
)
def test_bad_input_is_a_line_and_exit_code_2(server: JudgeServer, arguments: list[str], message: str) -> None:
    result = judge(server, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert KEY not in result.output
    assert len(result.stderr.splitlines()) == 1


def test_help_shows_both_beside_evaluate() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert [line.split("  ")[1].strip() for line in shown.splitlines() if line.startswith("  evaluate")] == [
        *("evaluate", "evaluate judge", "evaluate arena")
    ]
    assert " evaluate arena [OPTIONS]" in CliRunner().invoke(app, ["evaluate", "arena", "-h"]).stdout
    assert " evaluate [OPTIONS] {RUN|FOLDER}" in CliRunner().invoke(app, ["evaluate", "-h"]).stdout


def test_an_arena_is_left_with_ctrl_c_and_goes_on(here: Path) -> None:
    command = [sys.executable, "-m", "windlass", "evaluate", "arena", "plays.jsonl", "base.jsonl"]
    command += ["--prompts", "prompts.jsonl", "--out", "votes"]
    for votes, waiting, code in ((1, "4 of 4", 130), (3, "3 of 4", 0)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout
        told = process.stdout.readline()
        assert told.startswith(f"{waiting} pairs wait for your vote: http://127.0.0.1:")
        for _ in range(votes):
            vote_for_plays(told.split()[-1])
        if code:
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (code, "")
    assert "plays  4      4    0     0        1191           " in output
    assert json.loads((here / "votes/arena.json").read_text())["pairs"] == [
        {"a": "base", "b": "plays", "a_won": 0, "b_won": 4, "tie": 0, "both_bad": 0}
    ]
    assert "yes, by my troth" in (here / "votes/arena.md").read_text()


def vote_for_plays(url: str) -> None:
    with urllib.request.urlopen(f"{url}/battle", timeout=30) as response:
        shown = json.load(response)
    time.sleep(0.4)  # to read it
    choice = "left" if shown["left"][0].startswith("yes") else "right"
    body = json.dumps({"id": shown["id"], "choice": choice}).encode()
    request = urllib.request.Request(f"{url}/vote", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).close()


def test_files_of_votes_are_rated_together_each_once(here: Path) -> None:
    def write(name: str, *votes: tuple[str, str, str]) -> Path:
        records = [dict(zip(("model_a", "model_b", "winner"), vote, strict=True)) for vote in votes]
        (here / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return here / name

    write("one.jsonl", ("a", "b", "model_a"), ("b", "a", "tie"))
    write("two.jsonl", ("b", "c", "model_b"))
    files = [word for name in ("one.jsonl", "two.jsonl", "./one.jsonl") for word in ("--votes", name)]
    result = CliRunner().invoke(app, ["evaluate", "arena", *files])
    assert result.exit_code == 0, result.output
    assert "3 votes." in result.stdout
    assert {line.split()[0] for line in result.stdout.splitlines()[1:4]} == {"a", "b", "c"}
    write("bad.jsonl", ("a", "b", "left"))
    for arguments, message in {
        ("--votes", "bad.jsonl"): "bad.jsonl, vote 1: it needs model_a and model_b",
        ("--votes", "gone.jsonl"): "gone.jsonl: there is no such file of votes",
        (): "name two models or more that meet",
        ("plays.jsonl", "base.jsonl"): "say what the models are asked: --prompts FILE",
    }.items():
        refused = CliRunner().invoke(app, ["evaluate", "arena", *arguments])
        assert refused.exit_code == 2
        assert message in refused.stderr
