"""The client against a real server: what it tries again, what it gives up at once, and what it never tells."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.trainer.evaluation.judge_server import JudgeServer, judge_server

from windlass.errors import WindlassError
from windlass.evaluation import endpoint
from windlass.evaluation.endpoint import Endpoint, Reply

MESSAGES = [
    {"role": "system", "content": "Every tag carries the code 0f."},
    {"role": "user", "content": "<answer 0f>\nyes\n</answer 0f>"},
]
KEY = "sk-very-secret-1234"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with judge_server(lambda shown: f"{shown['answer']}. [[7]]") as running:
        yield running


def ask(server: JudgeServer, times: int = 1, **settings: Any) -> list[Reply]:
    async def run() -> list[Reply]:
        async with Endpoint(settings.pop("url", server.url), "judge-1", **settings) as client:
            return [await client.ask(MESSAGES) for _ in range(times)]

    return asyncio.run(run())


def test_a_reply_has_its_text_and_its_tokens(server: JudgeServer) -> None:
    assert ask(server, key=KEY, max_tokens=50) == [Reply("yes. [[7]]", False, 100, 10)]
    assert server.keys == [f"Bearer {KEY}"]
    assert server.requests == [{"model": "judge-1", "messages": MESSAGES, "max_tokens": 50, "temperature": 0}]
    server.finish = "length"
    assert ask(server, url=f"{server.url}/chat/completions/")[0].is_cut


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_is_late_is_tried_again(server: JudgeServer, status: int, caplog: pytest.LogCaptureFixture) -> None:
    server.failures = [(status, {}, "busy"), (status, {"Retry-After": "0.05"}, "busy")]
    assert ask(server)[0].text == "yes. [[7]]"
    assert len(server.requests) == 3
    assert [record.levelno for record in caplog.records if "late" in record.message] == [logging.WARNING]


def test_a_wait_that_is_asked_for_and_is_too_long_is_not_waited_for(server: JudgeServer) -> None:
    server.failures = [(429, {"Retry-After": "3600"}, {"error": {"message": "slow down"}})]
    with pytest.raises(WindlassError, match=r"429: slow down.*judgements are kept") as raised:
        ask(server, patience=0.2)
    assert raised.value.reason == "JudgeUnavailable"


def test_nobody_there_is_said_soon(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_PATIENCE", 0.05)
    with pytest.raises(WindlassError, match="does not answer: ClientConnectorError"):
        ask(server, url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("failure", "reason", "message"),
    [
        (
            (401, {}, {"error": {"message": f"wrong key {KEY}"}}),
            "AccessDenied",
            r"used up \(401: wrong key \*",
        ),
        ((429, {}, {"error": {"message": "pay", "code": "insufficient_quota"}}), "AccessDenied", "used up"),
        ((404, {}, {"error": {"message": "no such model"}}), "ConfigInvalid", r"\(404\): no such model; check --judge"),
        ((307, {"Location": "http://elsewhere/v1"}, ""), "ConfigInvalid", "leads to http://elsewhere/v1"),
        ((200, {}, "<html><b>Welcome</b></html>"), "ConfigInvalid", "not answer as an OpenAI-compatible .*: Welcome"),
        ((422, {}, {"detail": "no such field"}), "ConfigInvalid", r"\(422\): no such field$"),  # as FastAPI says it
        ((200, {}, {"choices": []}), "ConfigInvalid", "not answer as an OpenAI-compatible"),
    ],
)
def test_what_a_person_must_change_is_not_tried_again(
    server: JudgeServer, failure: Any, reason: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.failures = [failure]
    with pytest.raises(WindlassError, match=message) as raised:
        ask(server, key=KEY)
    assert raised.value.reason == reason
    assert len(server.requests) == 1
    assert KEY not in f"{raised.value}{caplog.text}"


def test_a_model_that_takes_other_parameters_gets_those(server: JudgeServer) -> None:
    server.refuses = {
        "max_tokens": "Unsupported parameter: use 'max_completion_tokens' instead.",
        "temperature": "'temperature' does not support 0 with this model.",
    }
    assert len(ask(server, times=2)) == 2
    assert len(server.requests) == 4, "learned once"
    assert server.requests[-1] == {"model": "judge-1", "messages": MESSAGES, "max_completion_tokens": 1024}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.openai.com/v1", "is no URL of an endpoint"),
        ("https://user:word@host/v1", "https://host/v1 is no URL of an endpoint"),
        ("http://host/v1", "not encrypted and would show the key"),
    ],
)
def test_a_url_that_would_not_do_is_refused_before_anything_is_sent(url: str, message: str) -> None:
    with pytest.raises(WindlassError, match=message) as raised:
        Endpoint(url, "judge-1", KEY)
    assert "word" not in str(raised.value)
    assert KEY not in repr(Endpoint("https://host/v1", "judge-1", KEY))
