"""`windlass run` as a person meets it: real processes, one rank, a model that trains in a second."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

JOB = """\
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {name: plays}
spec:
  model: {preset: gpt2-nano, config: {layers: 1, heads: 2, hiddenSize: 16, contextLength: 16}}
  data: {prepare: {sources: [{uri: play.txt}]}}
  training: {maxSteps: 20, globalBatchSize: 4, optimizer: {learningRate: 1e-2}}
  checkpoints: {everySteps: 50}
  evaluation: {everySteps: 10, maxTokens: 256, prompts: ["Speak"], sampleTokens: 8}
  logging: {prometheus: false}
"""
LONG = ["--set", "training.maxSteps=1000000", "--set", "evaluation.everySteps=100", "--name", "long"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job, a play, and a finished run of the job."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "job.yaml").write_text(JOB)
    (folder / "play.txt").write_text("First Citizen: Speak, speak.\n" * 200)
    return folder


@pytest.fixture(scope="module")
def finished(place: Path) -> subprocess.CompletedProcess[str]:
    return windlass(place, "run", "job.yaml")


def windlass(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "windlass", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=False)


def started(place: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "windlass", *arguments]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines_until(process: subprocess.Popen[str], words: str) -> list[str]:
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return seen
    pytest.fail(f"never said {words!r}: {''.join(seen)}")


def test_a_run_tells_its_story_in_plain_lines(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    story = [
        r"Bigram baseline: validation loss [\d.]+",
        r"  Model +gpt2-nano, [\d,]+ parameters",
        r"step 0  the model continues 'Speak':",
        r"step 10  validation loss [\d.]+",
        r"step 20  validation loss [\d.]+",
        r"plays finished after 20 of 20 steps: 1.28k tokens in \d+s",
        r"  training loss +[\d.]+",
        r"  validation loss +[\d.]+  \(bigram baseline [\d.]+\)",
        r"  checkpoint +step 20, runs/plays/checkpoints/step-",
        r"  report +runs/plays/report.html",
        r"Try it:  windlass generate plays --prompt Speak",
        r"Take it: windlass export plays exported/plays",
    ]
    rest = iter(finished.stdout.splitlines())
    for pattern in story:
        assert any(re.match(pattern, line) for line in rest), f"{pattern!r} is missing in:\n{finished.stdout}"


@pytest.mark.usefixtures("finished")
def test_a_finished_run_says_so(place: Path) -> None:
    again = windlass(place, "run", "job.yaml")
    assert again.returncode == 0
    assert again.stdout.startswith("plays has finished before; --restart starts it over.\n")
    assert "plays finished after 20 of 20 steps" in again.stdout


@pytest.mark.usefixtures("finished")
def test_a_trained_model_writes_and_is_exported(place: Path) -> None:
    written = windlass(place, "generate", "plays", "--prompt", "Speak", "--max-tokens", "8", "--seed", "3")
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("Speak")
    assert len(written.stdout) > len("Speak\n")

    exported = windlass(place, "export", "plays", "out")
    assert exported.returncode == 0, exported.stderr
    assert {"config.json", "model.safetensors"} <= {file.name for file in (place / "out").iterdir()}
    listed = windlass(place, "runs")
    assert re.search(r"^plays +Succeeded +20/20 ", listed.stdout, re.MULTILINE)


def test_ctrl_c_saves_and_stops_and_the_run_continues(place: Path) -> None:
    process = started(place, "run", "job.yaml", *LONG)
    lines_until(process, "step 100  validation loss")
    process.send_signal(signal.SIGINT)
    lines_until(process, "Stopping: saving a checkpoint; Ctrl-C again to stop at once")
    ending = "".join(lines_until(process, f"Continue it with: windlass run job.yaml {' '.join(LONG)}\n"))
    assert process.wait(60) == 130
    stopped = re.search(r"long stopped after (\d+) of 1000000 steps", ending)
    assert stopped, ending
    assert json.loads((place / "runs/long/result.json").read_text())["status"] == "Stopped"

    process = started(place, "run", "job.yaml", *LONG)
    lines_until(process, f"Continuing from the checkpoint of step {stopped[1]}")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130


def test_a_second_ctrl_c_stops_at_once(place: Path) -> None:
    process = started(place, "run", "job.yaml", *LONG[:-1], "killed")
    lines_until(process, "step 100  validation loss")
    [driver] = psutil.Process(process.pid).children()
    driver.suspend()  # or it might be done with the checkpoint before the second one
    process.send_signal(signal.SIGINT)
    lines_until(process, "Stopping: saving a checkpoint")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert re.search("^killed +Interrupted ", windlass(place, "runs").stdout, re.MULTILINE)


def test_bad_input_exits_with_2_and_failed_training_with_3(place: Path) -> None:
    missing = windlass(place, "run", "job.yaml", "--name", "missing", "--set", "data.prepare.sources.0.uri=gone.txt")
    assert missing.returncode == 2
    assert missing.stderr.startswith("Error: DataNotFound: ")
    assert missing.stderr.endswith("\nLogs: runs/missing/logs\n")
    wild = windlass(place, "run", "job.yaml", "--name", "wild", "--set", "training.optimizer.learningRate=1e30")
    assert wild.returncode == 3
    assert wild.stderr.startswith("Error: NonFiniteLoss: ")


STAGES = f"""{JOB}---
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {{name: answers}}
spec:
  task: Instruct
  model: {{from: run://plays}}
  data:
    examples: {{sources: [{{uri: answers.jsonl}}], validationFraction: 0.2}}
    template: "{{{{ messages[0].content }}}}={{{{ messages[1].content if messages[1:] }}}}"
  training: {{maxSteps: 6, globalBatchSize: 2, optimizer: {{learningRate: 1e-2}}}}
  evaluation: {{prompts: ["Hi"], sampleTokens: 8}}
  logging: {{prometheus: false}}
"""


def test_the_jobs_of_a_file_run_one_after_the_other_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("First Citizen: Speak, speak.\n" * 200)
    (tmp_path / "life.yaml").write_text(STAGES)
    failed = windlass(tmp_path, "run", "life.yaml")
    assert failed.returncode == 2
    assert failed.stderr.startswith("Error: DataNotFound: stage answers: "), failed.stderr
    assert "plays finished after 20 of 20 steps" in failed.stdout
    page = (tmp_path / "runs/life.html").read_text()
    assert "no such file" in page

    (tmp_path / "answers.jsonl").write_text(
        "".join(f'{{"prompt": "Say {n}", "completion": "{n}!"}}\n' for n in range(30))
    )
    done = windlass(tmp_path, "run", "life.yaml")
    assert done.returncode == 0, done.stderr
    assert "Stage 1 of 2: plays\nplays has finished before" in done.stdout
    assert "answers finished after 6 of 6 steps" in done.stdout
    assert done.stdout.endswith("All 2 stages: runs/life.html\n")
    page = (tmp_path / "runs/life.html").read_text()
    told = ["1. Pretrain: plays", "random weights", "2. Instruct: answers", "the weights of run://plays"]
    assert [page.find(words) for words in told] == sorted(page.find(words) for words in told)
    assert all(words in page for words in (*told, "run://plays, before step 1", 'href="answers/report.html"'))

    evaluated = windlass(tmp_path, "evaluate", "answers", "--text", "play.txt", "--limit", "2")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "bits per byte" in (tmp_path / "runs/life.html").read_text()


def test_what_was_not_started_for_a_failed_stage_is_named(tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(STAGES)
    failed = windlass(tmp_path, "run", "life.yaml")
    assert failed.returncode == 2
    assert failed.stderr.startswith("Error: DataNotFound: stage plays: "), failed.stderr
    assert failed.stderr.endswith("\nNot started: answers\n"), failed.stderr
    named = windlass(tmp_path, "run", "life.yaml", "--name", "other")
    assert (
        "--set metadata.name=\"other\": metadata.name: 'other' is the name of a later job of this file" in named.stderr
    )


def on_a_terminal(place: Path, *arguments: str) -> Iterator[str]:
    """What a command writes to a terminal of 100 columns, in pieces; ends with its exit."""
    screen, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    command = [sys.executable, "-m", "windlass", *arguments]
    process = subprocess.Popen(command, cwd=place, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    try:
        while piece := os.read(screen, 65536):
            yield piece.decode(errors="replace")
    except OSError:  # Linux's way to say that the other side is closed
        pass
    finally:
        os.close(screen)
        assert process.wait(60) == 0


def test_a_terminal_gets_a_live_panel(place: Path) -> None:
    screen = "".join(on_a_terminal(place, "run", "job.yaml", "--name", "live", "--set", "training.maxSteps=200"))
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    panel = r"live Running [━╸╺]+ \d+/200\s+loss [\d.]+ .* bigram [\d.]+ +[\d.]+k? tokens/s +(\d+m)?\d+s left"
    found = re.search(panel, written) is not None
    assert found, written[-3000:]
    assert "live finished after 200 of 200 steps" in written


def test_a_restart_asks_on_a_terminal(place: Path) -> None:
    (place / "runs/asked").mkdir(parents=True, exist_ok=True)
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "windlass", "run", "job.yaml", "--name", "asked", "--restart"]
    process = subprocess.Popen(command, cwd=place, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    os.write(screen, b"n\n")
    assert process.wait(60) == 0
    assert b"Delete runs/asked with its checkpoints, and start over?" in os.read(screen, 65536)
    os.close(screen)
