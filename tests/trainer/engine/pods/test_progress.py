"""What the head tells of its run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.engine.pods import metrics
from windlass.engine.pods.pod import Pod
from windlass.engine.pods.progress import RunView
from windlass.engine.pods.termination import MOST_BYTES, write_termination
from windlass.engine.run_folder import RunFolder, now, write_json
from windlass.spec.job import LLMTrainingJob


def step(number: int) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": number,
        "loss": 5.0 / number,
        "learning_rate": 1e-3,
        "gradient_norm": 1.0,
        "tokens": 384 * number,
        "epoch": number / 100,
        "tokens_per_second": 768.0,
        "mfu": None,
        "step_seconds": {"total": 0.5, "data": 0.1},
        "time": now(),
    }


@pytest.fixture
def view(tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]) -> RunView:
    run = RunFolder(tmp_path / "tiny")
    run.path.mkdir()
    write_json(run.plan, {"steps": 100})
    return RunView(run, tiny_job("checkpoints.uri=s3://runs/tiny/"), attempt=2)


def record(view: RunView, *records: dict[str, Any]) -> None:
    with open(view.run.metrics, "a") as file:
        file.writelines(json.dumps(one) + "\n" for one in records)


def test_a_run_is_running_once_rank_0_says_so_and_no_longer_when_a_rank_has_died(view: RunView) -> None:
    assert view.update().report()["phase"] == "Preparing"
    view.run.enter("Starting")
    view.run.tell("fit", "", fit="2-1", workers=[0, 1])
    assert view.update().report()["workers"] == {"training": 0, "lost": []}
    view.run.enter("Running", "Training on 2 ranks")
    report = view.update().report(lost=[1])
    assert (report["phase"], report["message"]) == ("Running", "Training on 2 ranks")
    assert report["workers"] == {"training": 2, "lost": [1]}
    assert view.fit == "2-1"
    view.run.enter("Recovering", "RankFailed: A rank died. Restart 1 of 20", reason="RankFailed")
    report = view.update().report()
    assert (report["phase"], report["restarts"]) == ("Recovering", 1)
    assert view.fit is None, "ranks that have been replaced say nothing any more"


def test_progress_is_that_of_the_steps_that_were_kept(view: RunView) -> None:
    assert view.update().progress() is None
    record(view, *(step(number) for number in range(1, 11)))
    record(view, {"kind": "validation", "step": 10, "loss": 0.7, "tokens": 100, "seconds": 1.0, "time": now()})
    report = view.update().report()
    assert report["progress"].items() >= {"step": 10, "maxSteps": 100, "tokens": 3840, "validationLoss": 0.7}.items()
    assert report["progress"]["remainingSeconds"] == 45.0
    assert report["productiveSeconds"] == 5.0
    resumed = view.run.path / "resumed"
    resumed.write_text("".join(json.dumps(step(number)) + "\n" for number in range(1, 5)))
    resumed.replace(view.run.metrics)
    report = view.update().report()
    assert (report["progress"]["step"], report["productiveSeconds"]) == (4, 2.0)


def test_the_newest_checkpoint_is_that_of_an_earlier_attempt_until_there_is_one(view: RunView) -> None:
    assert view.update().checkpoint() is None
    write_json(view.run.checkpoint, {"step": 5, "uri": "s3://runs/tiny/step-5", "committedAt": now()})
    assert view.checkpoint().step == 5  # type: ignore[union-attr]
    saved = {"seconds": 0.1, "blocked_seconds": 0.0, "folder": "step-00000010-attempt-000002", "time": now()}
    record(view, {"kind": "checkpoint", "step": 10, **saved})
    newest = view.update().checkpoint()
    assert newest is not None
    assert (newest.step, newest.uri) == (10, "s3://runs/tiny/step-00000010-attempt-000002")


def test_a_failure_names_the_rank_that_died_first_and_where(view: RunView) -> None:
    death = {"fit": "2-1", "rank": 1, "exitCode": -9, "hang": False, "lastLogLines": ["the end"]}
    where = {"pod": "tiny-worker-1", "node": "node2"}
    raised = {"rank": 2, "exitCode": 1, "pod": "tiny-worker-2", "node": "node3", "lastLogLines": ["Connection reset"]}
    view.note_death(death | raised)  # since it misses the one that was killed, which is heard of later
    view.note_death(death | where)
    view.note_death(death | {"rank": 0, "pod": "tiny-worker-0", "node": "node1"})
    view.note_death(death | where)  # it was not heard that we have heard
    view.run.enter("Recovering", "RankFailed: A rank died. Restart 1 of 20", reason="RankFailed")
    [failure] = view.update().failures()
    assert failure.kind == "Infrastructure"
    assert (failure.attempt, failure.reason, failure.message) == (2, "RankFailed", "A rank died. Restart 1 of 20")
    assert (failure.pod, failure.node, failure.rank, failure.exit_code) == ("tiny-worker-1", "node2", 1, -9)
    assert failure.last_log_lines == ["the end"]


def test_prometheus_reads_the_same(view: RunView) -> None:
    record(view, step(1))
    view.run.enter("Running")
    text = metrics.text(view.update(), joined=2)
    assert "windlass_job_step 1.0\n" in text
    assert "windlass_job_workers_joined 2.0\n" in text
    assert 'windlass_job_phase{phase="Running"} 1.0\n' in text


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    monkeypatch.setenv("WINDLASS_TERMINATION_LOG", str(tmp_path / "termination"))
    address = {"name": "tiny-head", "ip": "127.0.0.1", "node": "node1", "http_port": 8080, "ray_port": 6379}
    return Pod(job="tiny", namespace="default", uid="uid", token="token", **address)  # type: ignore[arg-type]


def last_word(tmp_path: Path) -> dict[str, Any]:
    content = (tmp_path / "termination").read_bytes()
    assert len(content) <= MOST_BYTES
    message: dict[str, Any] = json.loads(content)
    return message


def test_the_last_word_of_a_success_is_its_result(
    view: RunView, pod: Pod, tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]
) -> None:
    job = tiny_job("checkpoints.uri=s3://runs/tiny", "checkpoints.export=HuggingFace")
    write_json(view.run.result, {"status": "Succeeded", "final": {"loss": 0.5, "validation_loss": None}})
    end = write_termination(pod, view.update(), job, 0, stopped=False)
    assert (end.exit_code, end.over) == (0, True)
    message = last_word(tmp_path)
    assert message["status"] == "Succeeded"
    assert message["result"] == {"uri": "s3://runs/tiny/export", "metrics": {"loss": 0.5}}


@pytest.mark.parametrize(("reason", "code", "over"), [("DataNotFound", 2, True), ("StorageUnavailable", 3, False)])
def test_the_last_word_of_a_failure_fits_and_workers_stay_where_another_head_will_try(
    view: RunView,
    pod: Pod,
    tmp_path: Path,
    tiny_job: Callable[..., LLMTrainingJob],
    reason: str,
    code: int,
    over: bool,
) -> None:
    for number in range(12):
        log = [f"line {line} {'äöü' * 40}" for line in range(50)]
        view.note_death({"rank": 0, "exitCode": -9, "pod": f"pod-{number}", "node": "node", "lastLogLines": log})
        view.run.enter("Recovering", f"RankFailed: {'long ' * 50}", reason="RankFailed")
    view.run.enter("Failed", f"{reason}: {'what happened ' * 500}", reason=reason)
    end = write_termination(pod, view.update(), tiny_job("checkpoints.uri=s3://runs/tiny"), code, stopped=False)
    assert (end.exit_code, end.over) == (code, over)
    message = last_word(tmp_path)
    assert (message["status"], message["reason"]) == ("Failed", reason)
    assert message["message"].startswith("what happened")


def test_a_driver_that_is_killed_while_it_stops_has_stopped(
    view: RunView, pod: Pod, tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]
) -> None:
    end = write_termination(pod, view.update(), tiny_job("checkpoints.uri=s3://runs/tiny"), -9, stopped=True)
    assert (end.exit_code, end.over) == (130, False)
    assert last_word(tmp_path)["status"] == "Stopped"
