"""Preferences learned from pairs of answers, under kills, from references that are computed once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windlass.engine.preparation import prepare_data
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] + ':' + m.content + eos_token }}{% endfor %}"
    "{{ 'a:' if add_generation_prompt }}"
)


@pytest.fixture
def overrides(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes pairs, of which the chosen answer is always "yes", and others that are given; the overrides for them."""

    def write(*others: dict[str, Any]) -> list[str]:
        file = tmp_path / "pairs.jsonl"
        lines = [{"prompt": f"line {n}", "chosen": "yes", "rejected": "no" if n % 2 else "never"} for n in range(60)]
        file.write_text("\n".join(map(json.dumps, [*lines, *others])))
        data = {"examples": {"sources": [{"uri": str(file)}]}, "template": TEMPLATE}
        return [
            "task=Preference",
            f"data={json.dumps(data)}",
            "model.config.contextLength=48",
            "evaluation.prompts=[]",
            "training={maxSteps: 30, globalBatchSize: 4, optimizer: {learningRate: 1e-3}, preference: {beta: 0.5}}",
        ]

    return write


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [{**r, "time": ""} for r in read_lines(RunFolder(folder).metrics) if r["kind"] == kind]


def test_a_killed_run_ends_as_an_undisturbed_one_and_prefers_the_chosen_answers(
    overrides: Callable[..., list[str]], ranks: Callable[..., Any]
) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes"}]
    given = overrides({"chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "no"}]})
    groups = [ranks(name, 2, *given) for name in ("undisturbed", "killed")]
    references = []
    for group in groups:
        group.start_with_job_file()
        if group is groups[1]:
            group.kill(0, at_step=12)
            [file] = group.folder.glob("checkpoints/examples/reference.npz")
            written = file.stat().st_mtime_ns
            group.start()
            group.wait()
            assert file.stat().st_mtime_ns == written  # not by a model that has been trained
        group.wait()
        [file] = group.folder.glob("checkpoints/examples/reference.npz")
        references.append(dict(np.load(file)))
    assert {name: values.tolist() for name, values in references[0].items()} == {
        name: values.tolist() for name, values in references[1].items()
    }
    assert groups[0].curve() == groups[1].curve()
    first, *_, end = metrics(groups[0].folder, "preference")
    assert metrics(groups[1].folder, "preference")[-1] == end
    assert first["step"] == 0
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert end["rewards/accuracies"] == 1.0
    assert end["rewards/margins"] > 0.5
    assert metrics(groups[0].folder, "train")[0]["loss"] == pytest.approx(np.log(2), rel=0.1)  # with dropout


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, r"pairs\.jsonl:61: both answers are the same"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, r"pairs\.jsonl:61: an answer is empty"),
        ({"prompt": "a", "chosen": "b"}, r"pairs\.jsonl:61 has no text in field rejected; .* set rejectedField"),
    ],
)
def test_pairs_that_teach_nothing_are_refused(
    record: dict[str, Any],
    message: str,
    overrides: Callable[..., list[str]],
    tiny_job: Callable[..., LLMTrainingJob],
    tmp_path: Path,
) -> None:
    with pytest.raises(WindlassError, match=message):
        prepare_data(tiny_job(*overrides(record)), RunFolder(tmp_path / "runs" / "tiny"), lambda said: None)


def test_a_run_goes_on_when_its_default_is_written_out(
    overrides: Callable[..., list[str]], ranks: Callable[..., Any]
) -> None:
    given = [override.replace(", preference: {beta: 0.5}", "") for override in overrides()]
    before = ranks("tiny", 1, *given)
    before.start()
    before.stop(at_step=6)
    after = ranks("tiny", 1, *given, "training.preference={beta: 0.1}")
    after.start()
    after.wait()
    assert after.step() == 30
    assert metrics(after.folder, "train")[0]["step"] == 1, "it went on"
    assert len(list(after.folder.glob("checkpoints/attempts/*"))) == 2
