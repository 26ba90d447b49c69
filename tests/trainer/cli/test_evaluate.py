import builtins
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.evaluation.suite_data import LLAMA, write_model, write_suites
from typer.testing import CliRunner, Result

from windlass.cli.main import app


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "tiny", LLAMA)
    write_suites(tmp_path / "data")
    (tmp_path / "text.txt").write_text("the cat ran to a house in rain. " * 40)
    return tmp_path


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


def test_a_table_and_the_files_are_shown(here: Path) -> None:
    result = evaluate(
        "tiny", "--suite", "hellaswag", "--suite", "truthfulqa", "--text", "text.txt", "--data", "data", "--limit", "4"
    )
    assert result.exit_code == 0, result.output
    lines = [line.split("  ") for line in result.stdout.splitlines()]
    assert [cell.strip() for cell in lines[0] if cell] == ["WHAT", "METRIC", "SCORE", "95 % INTERVAL", "OF"]
    assert [line[0] for line in lines[1:]] == [
        "text.txt", "text.txt", "hellaswag", "hellaswag", "truthfulqa_mc1", "truthfulqa_mc2",
        "tiny: evaluation.json, model-card.md, report.html",
    ]  # fmt: skip
    assert " to " in result.stdout.splitlines()[3]
    assert "4 items" in result.stdout
    assert json.loads((here / "tiny/evaluation.json").read_text())["limit"] == 4


def test_only_a_text_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, "lm_eval")
    assert evaluate("tiny", "--text", "text.txt").exit_code == 0


def test_a_suite_without_the_extra_says_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, "lm_eval")
    result = evaluate("tiny", "--suite", "arc")
    assert result.exit_code == 2
    assert result.stderr == ("This command needs lm_eval, which is not installed: pip install 'windlass[evaluate]'\n")


def lacking(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if a package were not installed."""
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments)

    for name in ("windlass.evaluation.suites", "windlass.evaluation.harness"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "--text", "text.txt"], "There is no run gone"),
        (["tiny"], "there is nothing to measure; name a suite (--suite) or a text (--text)"),
        (["s3://runs/plays", "--text", "text.txt"], "say where the results of s3://runs/plays go: --out FOLDER"),
        (["tiny", "--suite", "mmul", "--data", "data"], "suite mmul: did you mean mmlu?"),
    ],
)
def test_bad_input_is_a_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    result = evaluate(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_runs_report_has_its_scores(here: Path) -> None:
    shutil.copytree("tiny", "export")
    (here / "job.yaml").write_text("name")
    result = evaluate("export", "--text", "text.txt", "--out", ".")
    assert result.exit_code == 0, result.output
    page = (here / "report.html").read_text()
    assert "<h2>Evaluation</h2>" in page
    assert "<td>bits per byte</td>" in page
    assert "Not finished yet" in page


def test_models_are_shown_side_by_side(here: Path) -> None:
    write_model(here / "other", LLAMA)
    result = evaluate("tiny", "--text", "text.txt", "--base", "other", "--prompt", "the cat", "--max-new-tokens", "3")
    assert result.exit_code == 0, result.output
    assert "ABOVE BASE" in result.stdout
    assert "Base: other, from other." in result.stdout
    assert "tiny, the likeliest tokens, after 'the cat':" in result.stdout
    page = (here / "tiny/report.html").read_text()
    assert "23.7 K parameters, a context of 512 tokens" in page
    assert "report.html" in result.stdout
