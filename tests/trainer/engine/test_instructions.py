"""Instructions learned from records, under kills; the answer to a prompt; and conversations that are refused early."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.engine.preparation import prepare_data
from windlass.engine.run_folder import RunFolder
from windlass.engine.runs import export_run, generate_text
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] + ':' + m.content + eos_token }}{% endfor %}"
    "{{ 'a:' if add_generation_prompt }}"
)


def overrides(file: Path, *more: str) -> list[str]:
    data = {"examples": {"sources": [{"uri": str(file), "promptField": "q", "answerField": "a"}]}, "template": TEMPLATE}
    return [
        "task=Instruct",
        f"data={json.dumps(data)}",
        "model.config.contextLength=96",
        "evaluation.prompts=[line 7]",
        *more,
    ]


@pytest.fixture
def records(tmp_path: Path) -> Callable[..., Path]:
    """Writes records to a .jsonl file: questions of which all have the same answer, and others that are given."""

    def write(*others: dict[str, Any]) -> Path:
        file = tmp_path / "records.jsonl"
        lines = [{"q": f"line {n * 37 % 199}", "a": "yes"} for n in range(120)]
        file.write_text("\n".join(map(json.dumps, [*lines, *others])))
        return file

    return write


def test_a_killed_run_ends_as_an_undisturbed_one_and_answers(
    records: Callable[..., Path], undisturbed_and_killed: Callable[..., Any], tmp_path: Path
) -> None:
    turns = [("user", "line 3"), ("assistant", "no"), ("user", "line 4"), ("assistant", "yes")]
    talk = {"messages": [{"role": role, "content": content} for role, content in turns]}
    given = overrides(records(talk), "training.globalBatchSize=4")
    groups = undisturbed_and_killed(2, *given)
    curve = groups[0].curve()
    assert curve == groups[1].curve()
    assert curve["validation", 60][0] < curve["validation", 20][0] / 2
    assert curve["sample", 60][-1] == "yes"
    assert list(generate_text(groups[0].folder, "line 5", temperature=0)) == ["y", "e", "s"]

    transformers = pytest.importorskip("transformers")
    export_run(groups[0].folder, tmp_path / "export")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    asked = [{"role": "user", "content": "line 5"}]
    text = theirs.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert text == "u:line 5<|endoftext|>a:"


def test_what_was_read_and_cut_is_said(
    records: Callable[..., Path], tiny_job: Callable[..., LLMTrainingJob], tmp_path: Path
) -> None:
    file = records({"q": "line 0", "a": "yes"}, {"q": "long", "a": "yes" * 60})
    said: list[str] = []
    prepare_data(tiny_job(*overrides(file)), RunFolder(tmp_path / "runs" / "tiny"), said.append)
    assert said == [
        "Examples: 122 examples read; 1 copies removed; 109 train in 19 sequences, 12 validation in 2 sequences; "
        "1 cut to the context"
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"q": "a", "a": "  "}, r"records\.jsonl:121: an answer is empty; fill it, or remove the record"),
        ({"q": "a"}, r"records\.jsonl:121 has no text in field a; it has q; set answerField"),
        ({"prompt": "a"}, r"records\.jsonl:121 has no text in field q; it has prompt; set promptField"),
        ({"q": "a" * 200, "a": "b"}, r"records\.jsonl:121: its prompt has 205 tokens, and a sequence 96"),
        ({"messages": [{"role": "user", "content": "a"}]}, r"records\.jsonl:121: no message is the assistant's"),
        ({"messages": [{"role": "gpt", "content": "a"}]}, r"role 'gpt' is none of system, user, assistant"),
        ({"messages": [{"role": "user"}]}, r"has no text in field content"),
        ({"messages": "a"}, "field messages is no list of role and content"),
    ],
)
def test_conversations_that_teach_nothing_are_refused(
    record: dict[str, Any],
    message: str,
    records: Callable[..., Path],
    tiny_job: Callable[..., LLMTrainingJob],
    tmp_path: Path,
) -> None:
    with pytest.raises(WindlassError, match=message):
        prepare_data(tiny_job(*overrides(records(record))), RunFolder(tmp_path / "runs" / "tiny"), lambda said: None)
