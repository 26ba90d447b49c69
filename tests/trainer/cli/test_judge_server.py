"""`windlass evaluate judge` against an OpenAI-compatible server that others wrote: `transformers serve`."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.evaluation.suite_data import LLAMA, write_model
from typer.testing import CliRunner, Result

from windlass.cli.main import app
from windlass.data.tokenizers import load_tokenizer
from windlass.evaluation.judge import ask_pair
from windlass.evaluation.questions import read_answers, read_questions
from windlass.tasks.templates import BUILT_IN, Template

PROMPTS: list[dict[str, Any]] = [{"prompt": "Who is there?"}, {"turns": ["Where is the cat?", "And the dog?"]}]
ANSWERS = [{**PROMPTS[0], "answer": "Me."}, {**PROMPTS[1], "answers": ["In the house.", "In the rain."]}]
NEEDED = ("transformers", "fastapi", "uvicorn", "openai")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that follows instructions, of random weights: it answers, and it judges, in no language."""
    monkeypatch.chdir(tmp_path)
    for name, records in {"prompts": PROMPTS, "base": ANSWERS}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    folder = write_model(tmp_path / "chat", LLAMA.model_copy(update={"context_length": 4096}))
    (folder / "chat_template.jinja").write_text(BUILT_IN["ChatML"])
    return folder


@pytest.fixture
def url(model: Path, tmp_path: Path) -> Iterator[str]:
    """The endpoint of a server of that model, which runs until the test ends."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} of `transformers serve` not installed: pip install 'transformers[serving]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    log = tmp_path / "server.log"
    with open(log, "w") as output:
        server = subprocess.Popen(command, env=os.environ | own, stdout=output, stderr=output)
    try:
        until = time.monotonic() + 120  # it imports torch and transformers
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None and time.monotonic() < until, log.read_text()  # noqa: PT018 - the log, for both
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
        return bool(response.status == 200)
    return False


def judge(url: str, name: str, *arguments: str) -> Result:
    models = ["chat", "base.jsonl", "--prompts", "prompts.jsonl", "--max-tokens", "8", "--judge-tokens", "16"]
    prices = ["--price-in", "1000", "--price-out", "2000"]
    return CliRunner().invoke(app, ["evaluate", "judge", *models, "--judge", name, "--url", url, *prices, *arguments])


def test_a_real_server_judges_and_is_asked_each_thing_once(url: str, model: Path, tmp_path: Path) -> None:
    for changed, said in {
        (url, "another"): f"(400): Server is pinned to '{model}'; requested 'another'.\n",
        (url.removesuffix("/v1"), str(model)): "(404): Not Found; check --judge, and --url, which mostly ends in /v1\n",
    }.items():
        refused = judge(*changed, "--yes")
        assert refused.exit_code == 2
        assert refused.stderr.endswith(said)

    result = judge(url, str(model), "--yes")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"4 judgements by {model} at {url}: about ")
    record = json.loads((tmp_path / "judged/chat-base/judge.json").read_text())
    questions = read_questions("prompts.jsonl")
    ours = read_answers(tmp_path / "judged/chat-base/answers-chat.jsonl", questions)
    theirs = read_answers(tmp_path / "base.jsonl", questions)
    assert all(answer for answers in ours for answer in answers)
    compared = record["comparison"]
    assert [item["answers"] for item in compared["items"]] == [
        [list(one), list(other)] for one, other in zip(ours, theirs, strict=True)
    ]
    assert (compared["pairs"], compared["judged"], compared["wrong_form"]) == (2, 0, 4), (
        "random weights write no verdict"
    )
    assert "4 of 4 replies end without a verdict; their pairs are left out." in result.stdout

    tokenizer = load_tokenizer("bytes")
    template = Template(BUILT_IN["ChatML"], tokenizer)
    asked = [one for question, *pair in zip(questions, ours, theirs, strict=True) for one in ask_pair(question, *pair)]
    read = 0
    for one in asked:
        messages = [(message["role"], message["content"]) for message in one.messages]
        read += len(tokenizer.encode(template.text(messages, add_generation_prompt=True), special_tokens=True))
    paid = record["judge"]
    assert (paid["replies"], paid["tokens_in"]) == (4, read), "as the server counts them"
    assert 4 <= paid["tokens_out"] <= 4 * 16
    assert paid["dollars"] == pytest.approx((read * 1000 + paid["tokens_out"] * 2000) / 1e6)

    again = judge(url, str(model))
    assert again.exit_code == 0, "nothing to pay, so nothing to agree to"
    assert again.stdout.splitlines() == result.stdout.splitlines()[1:]
    assert (tmp_path / "server.log").read_text().count('POST /v1/chat/completions HTTP/1.1" 200') == 4
