"""What a run leaves in object storage: taken up by the next head and by people, and deleted with its job."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.engine.pods import cleanup
from windlass.engine.pods.stored_run import fetch_history, keep_run
from windlass.engine.run_folder import RunFolder, read_json
from windlass.engine.runs import generate_text, load_run
from windlass.errors import WindlassError
from windlass.lock import StorageLease
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import dump_job
from windlass.storage import Storage


def test_a_run_lives_on_in_object_storage_until_its_job_is_deleted(
    s3_server: Any, ranks: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3_server.bucket()}/runs/tiny"
    stored = Storage(uri)
    stored.write("notes.txt", b"somebody's own")
    with pytest.raises(WindlassError, match=r"has no job\.yaml"):
        load_run(uri)
    trained = ranks("tiny", 1, "training.maxSteps=10", f"checkpoints.uri={uri}")
    trained.start()
    trained.wait()
    run = RunFolder(trained.folder)
    run.job.write_text(dump_job(trained.job))
    keep_run(run, trained.job)

    next_head = RunFolder(tmp_path / "next" / "tiny")
    next_head.path.mkdir(parents=True)
    fetch_history(next_head, trained.job)
    assert read_json(next_head.baseline) == read_json(run.baseline)
    checkpoint = read_json(next_head.checkpoint)
    assert checkpoint["step"] == 10
    assert stored.exists(f"{checkpoint['uri'].removeprefix(uri)}/commit.json".lstrip("/"))
    assert run.metrics.read_bytes().startswith(next_head.metrics.read_bytes())

    assert len("".join(generate_text(uri, "the ", max_new_tokens=5))) > 0

    monkeypatch.setenv("WINDLASS_JOB", trained.job.model_dump_json())
    assert cleanup.main() == 0
    assert list(stored.list()) == ["notes.txt"]


def test_all_that_a_run_with_a_base_and_examples_writes_is_deleted_with_its_job(
    s3_server: Any, ranks: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ranks("base", 1, "metadata.name=base", "training.maxSteps=5")
    base.start_with_job_file()
    base.wait()
    records = tmp_path / "records.jsonl"
    records.write_text("\n".join(json.dumps({"q": f"{number}", "a": "yes"}) for number in range(60)))
    data = {"examples": {"sources": [{"uri": str(records), "promptField": "q", "answerField": "a"}]}}
    data["template"] = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"  # type: ignore[assignment]
    uri = f"{s3_server.bucket()}/runs/tuned"
    what = ("task=Instruct", "model={from: 'run://base'}", f"data={json.dumps(data)}", "evaluation.prompts=[]")
    tuned = ranks(
        "tuned",
        1,
        *what,
        "training.maxSteps=6",
        "training.globalBatchSize=4",
        f"checkpoints.uri={uri}",
        "logging.tensorboard=true",
    )
    StorageLease(Storage(uri))._released.set()  # of a head that was lost
    tuned.start_with_job_file()
    tuned.wait()
    keep_run(RunFolder(tuned.folder), tuned.job)
    written = {name.partition("/")[0] for name in Storage(uri).list()}
    assert {"examples", "base.json", "tokenizer", "tensorboard", "attempts", "lease.json"} <= written
    monkeypatch.setenv("WINDLASS_JOB", tuned.job.model_dump_json())
    assert cleanup.main() == 0
    assert list(Storage(uri).list()) == []


def test_the_first_head_finds_nothing_and_a_job_without_storage_is_cleaned_up(
    s3_server: Any, tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    fetch_history(run, tiny_job(f"checkpoints.uri={s3_server.bucket()}/runs/tiny"))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("WINDLASS_JOB", tiny_job().model_dump_json())
    assert cleanup.main() == 0
