"""Prompts that are longer than what a model reads at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.trainer.evaluation.suite_data import LLAMA, write_model

from windlass.engine.evaluation import Request, evaluate
from windlass.engine.preparation import prepare_data
from windlass.engine.run_folder import RunFolder
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob

LONG = "why " * 10


def test_a_job_with_one_is_refused_before_data_are_prepared(
    tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]
) -> None:
    job = tiny_job(f"evaluation.prompts=['the ', '{LONG}']")
    message = r"spec\.evaluation\.prompts\[1\]: it has 40 tokens, and the model's context 32; shorten it"
    with pytest.raises(WindlassError, match=message):
        prepare_data(job, RunFolder(tmp_path / "runs" / "tiny"), lambda said: None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_of_one_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = write_model(tmp_path / "model", LLAMA.model_copy(update={"context_length": 32}))
    found = evaluate(model, Request(prompts=[LONG[:32], LONG], max_new_tokens=2), tmp_path / "out")
    assert len(found["samples"]) == 2
    said = "The prompt has 40 tokens, and the model's context 32: only its end is read; shorten it"
    assert [record.message for record in caplog.records] == [said]
