"""Suites that run while a model trains: losses stay what they are, scores are those of the model, on any ranks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.automodels import saved
from tests.trainer.evaluation.suite_data import write_suites

from windlass.data.tokenizers import load_tokenizer
from windlass.engine.bases import model_in
from windlass.engine.machine import this_machine
from windlass.engine.preparation import prepare_run
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.engine.runs import load_run
from windlass.engine.suites import open_suites
from windlass.errors import WindlassError
from windlass.evaluation.harness import DecoderLM
from windlass.evaluation.record import plain
from windlass.evaluation.report import write_report
from windlass.evaluation.suites import open_benchmarks, run_benchmarks
from windlass.models.decoder import Decoder
from windlass.spec.job import Evaluation, LLMTrainingJob
from windlass.storage import Storage

SHORT = ("training.maxSteps=20", "evaluation.everySteps=10")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data of all suites but MMLU."""
    return write_suites(tmp_path_factory.mktemp("suites"))


def suites(data: Path) -> str:
    return (
        f"evaluation.suites=[{{name: arc_easy, uri: '{data}', limit: 5}}, "
        f"{{name: gsm8k, uri: '{data}', limit: 3, fewShot: 1, everySteps: 20}}]"
    )


def finish(group: Any) -> dict[tuple[str, int], Any]:
    group.start_with_job_file()
    group.wait()
    return dict(group.curve())


def scores(folder: Path) -> dict[int, list[dict[str, Any]]]:
    return {line["step"]: line["scores"] for line in read_lines(RunFolder(folder).metrics) if line["kind"] == "suites"}


def test_one_rank_has_the_losses_of_a_run_without_suites_and_the_scores_of_its_model(
    ranks: Callable[..., Any], data: Path
) -> None:
    plain_run, run = ranks("plain", 1, *SHORT), ranks("suites", 1, *SHORT, suites(data))
    assert finish(plain_run) == finish(run)
    found = scores(run.folder)
    assert {step: [score["task"] for score in at if score["metric"] != "acc_norm"] for step, at in found.items()} == {
        0: ["arc_easy", "gsm8k", "gsm8k"], 10: ["arc_easy"], 20: ["arc_easy", "gsm8k", "gsm8k"]
    }  # fmt: skip
    assert [(score["items"], score["few_shot"]) for score in found[0]] == [(5, 0), (5, 0), (3, 1), (3, 1)]
    model, tokenizer = load_run(run.folder)
    assert isinstance(model, Decoder)
    with open_benchmarks(["arc_easy"], data) as benchmarks:
        of_checkpoint = run_benchmarks(DecoderLM(model, tokenizer, 4), benchmarks, limit=5)
    assert found[20][:2] == [plain(score) | {"interval": list(score.interval or ())} for score in of_checkpoint]
    page = write_report(run.folder).read_text()
    assert "arc_easy, acc_norm: " in page


def test_a_language_model_of_transformers_is_asked_as_the_decoder_is(
    ranks: Callable[..., Any], data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    base = saved(tmp_path / "base", "gpt_neox", vocab_size=257, max_position_embeddings=512)
    load_tokenizer("bytes").save(base)
    asked = f"evaluation.suites=[{{name: arc_easy, uri: '{data}', limit: 3}}]"
    how = (f"model={{from: '{base}'}}", "tokenizer=null", "data.sequenceLength=32", "training.maxSteps=6", asked)
    run = ranks("foreign", 2, *how, "training.parallelism.strategy=DDP")
    finish(run)
    found = []
    for model in (model_in(base), load_run(run.folder)[0]):
        with open_benchmarks(["arc_easy"], data) as benchmarks:
            measured = run_benchmarks(DecoderLM(model, load_tokenizer("bytes"), 4), benchmarks, limit=3)
        found.append([plain(score) | {"interval": list(score.interval or ())} for score in measured])
    assert list(scores(run.folder).values()) == found


@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_two_ranks_killed_and_resumed_have_the_losses_of_a_run_without_suites_and_one_ranks_scores(
    ranks: Callable[..., Any], data: Path, strategy: str
) -> None:
    how = (*SHORT, "model.config.dropout=0.0", f"training.parallelism.strategy={strategy}")
    undisturbed = finish(ranks("plain", 2, *how))
    killed = ranks("killed", 2, *how, suites(data))
    killed.start_with_job_file()
    killed.kill(1, at_step=12)
    assert finish(killed) == undisturbed
    alone = ranks("alone", 1, *SHORT, "model.config.dropout=0.0", suites(data))
    finish(alone)
    assert scores(killed.folder) == scores(alone.folder)


def test_data_in_object_storage_are_those_of_a_folder(s3_server: Any, data: Path) -> None:
    uri = s3_server.bucket()
    for file in data.rglob("*.jsonl"):
        Storage(uri).write(str(file.relative_to(data)), file.read_bytes())
    places = [Evaluation.model_validate({"suites": [{"name": "arc_easy", "uri": place}]}) for place in (uri, str(data))]
    items = []
    for place in places:
        with open_suites(place) as [suite]:
            items.append(suite.benchmarks.items())
    assert items[0] == items[1]
    assert len(items[0]) == 12


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("{name: arcs}", r"spec\.evaluation\.suites\[0\]: suite arcs: did you mean arc\?"),
        ("{name: gsm8k, uri: gone}", r"suites\[0\]: suite gsm8k: gsm8k needs .*gone/gsm8k/main/train\.parquet"),
    ],
)
def test_a_suite_that_is_not_there_is_said_before_anything_is_prepared(
    tiny_job: Callable[..., LLMTrainingJob], tmp_path: Path, suite: str, message: str
) -> None:
    refused(tiny_job(f"evaluation.suites=[{suite}]"), tmp_path, message)


def test_the_missing_extra_is_named_before_anything_is_prepared(
    tiny_job: Callable[..., LLMTrainingJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    refused(tiny_job("evaluation.suites=[{name: arc}]"), tmp_path, r"needs lm_eval, .* pip install 'windlass\[eval")


def refused(job: LLMTrainingJob, folder: Path, message: str) -> None:
    run = RunFolder(folder / "runs" / "tiny")
    with pytest.raises(WindlassError, match=message):
        prepare_run(job, run, this_machine(), 1, lambda text: pytest.fail(text))
    assert not (folder / "corpora").exists()
