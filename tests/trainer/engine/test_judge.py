"""Judging from files of answers and from models, by a real server on this machine with a judge of a few lines."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.evaluation.judge_server import Judge, JudgeServer, always_first, judge_server, longer
from tests.trainer.evaluation.suite_data import LLAMA, write_model

from windlass.engine import judge as engine
from windlass.engine.answers import Sampling
from windlass.engine.judge import Judging, find_judging, judge
from windlass.errors import WindlassError
from windlass.evaluation.endpoint import Endpoint
from windlass.evaluation.journal import Record
from windlass.evaluation.judging import Prices

PROMPTS: list[Record] = [{"instruction": f"Question {number}?", "id": number} for number in range(6)]
SHORT = [{**prompt, "output": "yes"} for prompt in PROMPTS]
LONG = [{**prompt, "output": "yes, since " + "very " * prompt["id"] + "true"} for prompt in PROMPTS]
TURNS = [
    {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
    {"question_id": 82, "category": "math", "turns": ["2 + 2?", "Times 3?"], "reference": ["4", "12"]},
]


def write(name: str, records: Sequence[Record]) -> Path:
    path = Path(name)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, records in {"prompts": PROMPTS, "short": SHORT, "long": LONG, "turns": TURNS}.items():
        write(f"{name}.jsonl", records)
    return tmp_path


@pytest.fixture
def serve() -> Iterator[Callable[[Judge], JudgeServer]]:
    with ExitStack() as servers:
        yield lambda judge: servers.enter_context(judge_server(judge))


def find(server: JudgeServer, *places: str, prompts: str = "prompts.jsonl", **settings: Any) -> Judging:
    endpoint = Endpoint(server.url, "judge-1", max_tokens=settings.pop("judge_tokens", 100))
    settings.setdefault("sampling", Sampling())
    return find_judging(places, prompts, endpoint, Path("out"), **settings)


def test_a_judge_that_prefers_length_finds_the_longer_answers(serve: Callable[[Judge], JudgeServer]) -> None:
    server = serve(longer)
    found = judge(find(server, "long.jsonl", "short.jsonl", prices=Prices(1.0, 10.0)))
    compared = found["comparison"]
    assert [compared[name] for name in ("pairs", "judged", "win", "tie", "loss", "win_rate")] == [6, 6, 6, 0, 0, 1.0]
    low, high = compared["interval"]
    assert 0.5 < low < 0.7, "Wilson's, of 6 of 6"
    assert high == pytest.approx(1)
    assert (compared["prefers_longer"], compared["of_unequal_length"]) == (6, 6)
    assert (compared["prefers_first"], compared["prefers_second"]) == (6, 6)
    assert [model["mean_length"] for model in found["models"]] == [15 + 5 * 2.5, 3]
    assert found["judge"]["tokens_in"] == 1200
    assert found["judge"]["dollars"] == pytest.approx(1200e-6 + 120 * 10e-6)
    page = Path("out/judge.md").read_text()
    assert "| long against short | win rate | 1.0000 |" in page
    assert "## Won" in page
    assert "| Question 0? | yes, since true | yes |" in page
    assert "**long shown second: long.** One has 15 characters." in page
    assert json.loads(Path("out/judge.json").read_text()) == found


def test_a_judge_that_prefers_a_place_finds_ties_only(serve: Callable[[Judge], JudgeServer]) -> None:
    found = judge(find(serve(always_first), "long.jsonl", "short.jsonl"))["comparison"]
    assert [found[name] for name in ("win", "tie", "loss", "changed_mind")] == [0, 6, 0, 6]
    assert found["win_rate"] == 0.5
    assert (found["prefers_first"], found["prefers_second"]) == (12, 0)
    low, high = found["interval"]
    assert low + high == pytest.approx(1)


def test_what_was_judged_is_not_paid_again_even_after_a_failure(
    serve: Callable[[Judge], JudgeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(longer)
    server.failures = [(400, {}, {"error": {"message": "too long"}})]
    with pytest.raises(WindlassError, match="too long"):
        judge(find(server, "long.jsonl", "short.jsonl"), parallel=1)
    server.judge = lambda shown: longer(shown) if len(server.requests) < 8 else "no idea"
    server.failures = []
    calls = len(server.requests)
    found = judge(find(server, "long.jsonl", "short.jsonl"), parallel=1)
    assert len(server.requests) - calls == 12
    with open("out/judgements.jsonl", "a") as file:
        file.write('{"key": "cut o')
    again = find(server, "long.jsonl", "short.jsonl")
    assert (again.estimate.requests, again.estimate.kept) == (0, 12)
    assert judge(again)["comparison"] == found["comparison"]
    assert len(server.requests) - calls == 12
    write("short.jsonl", [{**SHORT[0], "output": "no"}, *SHORT[1:]])
    assert find(server, "long.jsonl", "short.jsonl").estimate.requests == 2, "of a new answer"


def test_a_reply_of_the_wrong_form_is_counted_and_left_out(serve: Callable[[Judge], JudgeServer]) -> None:
    server = serve(lambda shown: longer(shown) if shown["question"] != "Question 2?" else "They are both nice.")
    server.finish = "length"
    record = judge(find(server, "long.jsonl", "short.jsonl"))
    assert [record["comparison"][name] for name in ("pairs", "judged", "wrong_form", "win")] == [6, 5, 2, 5]
    assert "2 of 12 replies end without a verdict" in Path("out/judge.md").read_text()
    assert find(server, "long.jsonl", "short.jsonl").estimate.requests == 0, "the wrong form was paid, too"
    assert find(server, "long.jsonl", "short.jsonl", judge_tokens=200).estimate.requests == 12, "no longer cut"


def test_one_model_is_graded_turn_by_turn_and_by_category(serve: Callable[[Judge], JudgeServer]) -> None:
    def grades(shown: dict[str, str]) -> str:
        return "Right.\n[[9]]" if "12" in shown.get("answer 2", "") else "So so.\n[[5]]"

    answers = [
        {"question_id": 82, "answers": ["4", "It is 12."]},
        {"turns": TURNS[0]["turns"], "answers": ["Once.", "Twice | <b>\nand more."]},
    ]
    write("bot.jsonl", answers)
    found = judge(find(serve(grades), "bot.jsonl", prompts="turns.jsonl"))["grades"]
    assert (found["score"], found["questions"], found["grades"]) == (6.0, 2, 4)
    assert {part["part"]: part["score"] for part in found["parts"]} == {
        "turn 1": 5.0,
        "turn 2": 7.0,
        "writing": 5.0,
        "math": 7.0,
    }
    low, high = found["interval"]
    assert (low, high) == (pytest.approx(6 - 1.96), pytest.approx(6 + 1.96)), "means 5 and 7: standard error 1"
    page = Path("out/judge.md").read_text()
    assert r"| Again. | Twice \| &lt;b&gt;<br>and more. |" in page
    assert "**Turn 2: 9.** Right." in page


def test_a_model_answers_once_and_an_estimate_before_is_an_upper_bound(
    serve: Callable[[Judge], JudgeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(Path("tiny"), LLAMA)
    server = serve(always_first)
    settings: dict[str, Any] = {"prompts": "turns.jsonl", "sampling": Sampling(max_tokens=12), "prices": Prices(1, 1)}
    before = find(server, "tiny", **settings)
    assert (before.estimate.requests, before.estimate.tokens_out) == (4, 400)
    server.judge = lambda shown: "[[3]]"
    assert judge(before)["grades"]["score"] == 3
    assert len(Path("out/answers-tiny.jsonl").read_text().splitlines()) == 2
    shown = "\n".join(server.prompts)
    for line in Path("out/answers-tiny.jsonl").read_text().splitlines():
        assert len(json.loads(line)["answers"]) == 2
        assert json.loads(line)["answers"][1] in shown
    monkeypatch.setattr("windlass.engine.answers.base_model", lambda base: pytest.fail("a model was loaded"))
    after = find(server, "tiny", **settings)
    assert after.estimate.requests == 0
    assert judge(after)["models"][0]["answers"] == 4
    assert before.estimate.dollars
    assert before.estimate.tokens_in > sum(len(prompt.encode()) // 4 for prompt in server.prompts)
    other = find(server, "tiny", "out/answers-tiny.jsonl", **settings)
    assert [author.name for author in other.authors] == ["tiny", "answers-tiny"], "its own file is a file of answers"


@pytest.mark.parametrize(
    ("places", "prompts", "reason", "message"),
    [
        (["gone"], "prompts.jsonl", "DataNotFound", "gone has neither config.json"),
        (["long.jsonl"], "gone.jsonl", "DataNotFound", "gone.jsonl"),
        (["long.jsonl"], "turns.jsonl", "DataNotFound", r"long.jsonl answers 0 of 2 questions; that of .*'Write.'"),
        (["long.jsonl", "long.jsonl"], "prompts.jsonl", "ConfigInvalid", "named twice"),
        (["one.jsonl"], "turns.jsonl", "DataCorrupt", "1 answers to 2 turns"),
        (["long.jsonl"], "empty.jsonl", "DataCorrupt", "empty.jsonl:1: a prompt is empty"),
        (["long.jsonl"], "twice.jsonl", "DataCorrupt", "twice.jsonl:2: the same question is in .*:1"),
        (["long.jsonl"], "nothing.jsonl", "DataCorrupt", "no text in turns or prompt .*; it has x"),
        (["tiny"], "endless.jsonl", "ConfigInvalid", "endless.jsonl:1: the question has 600 tokens, .* tiny 512"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_said_before_anything_is_paid(
    places: list[str], prompts: str, reason: str, message: str, serve: Callable[[Judge], JudgeServer]
) -> None:
    write("empty.jsonl", [{"prompt": " \n"}])
    write("twice.jsonl", [{"prompt": "a"}, {"prompt": "a"}])
    write("nothing.jsonl", [{"x": "a"}])
    write("endless.jsonl", [{"prompt": "a" * 600}])
    write("one.jsonl", [{**TURNS[0], "answers": ["once"]}])
    if "tiny" in places:
        write_model(Path("tiny"), LLAMA)
    server = serve(longer)
    with pytest.raises(WindlassError, match=message) as raised:
        find(server, *places, prompts=prompts)
    assert raised.value.reason == reason
    assert not server.requests


def test_two_processes_do_not_pay_for_the_same(serve: Callable[[Judge], JudgeServer]) -> None:
    judging = find(serve(longer), "long.jsonl", "short.jsonl")

    def progress(task: str, total: int) -> Any:
        with pytest.raises(WindlassError, match="out is in use by process"):
            judge(judging)
        return engine.silent(task, total)

    judge(judging, progress=progress)
