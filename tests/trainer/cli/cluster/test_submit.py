import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.trainer.cli.cluster.conftest import JOB, Command
from tests.trainer.jobs import Jobs, Refused
from typer.testing import Result

Windlass = Callable[..., Result]
Start = Callable[..., Command]
SEEN = "2026-01-31T12:00:0{}Z"


def condition(kind: str, status: str, reason: str, message: str, second: int = 0) -> dict[str, str]:
    moment = SEEN.format(second)
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment}


def test_a_job_is_created_changed_and_left_as_it_is(windlass: Windlass, jobs: Jobs) -> None:
    created = windlass("submit", "job.yaml", "--no-watch")
    assert created.exit_code == 0, created.stderr
    assert created.stdout.splitlines() == [
        f"plays in namespace {jobs.namespace}: created",
        "  Watch it:   windlass status plays --watch",
        "  Its logs:   windlass logs plays --follow",
        "  Cancel it:  windlass cancel plays",
    ]
    assert "unchanged" in windlass("submit", "job.yaml", "--no-watch").stdout
    assert ": changed" in windlass("submit", "job.yaml", "--no-watch", "--set", "training.maxSteps=50").stdout
    assert jobs.get("plays")["spec"]["training"]["maxSteps"] == 50


def test_a_prompt_may_have_any_character(windlass: Windlass, jobs: Jobs) -> None:
    windlass("submit", "job.yaml", "--no-watch", "--set", 'evaluation.prompts=["\N{SLIGHTLY SMILING FACE}"]')
    assert jobs.get("plays")["spec"]["evaluation"]["prompts"] == ["\N{SLIGHTLY SMILING FACE}"]


def test_what_a_file_no_longer_says_goes_back_to_its_default(windlass: Windlass, jobs: Jobs) -> None:
    windlass("submit", "job.yaml", "--no-watch", "--set", "training.seed=7")
    windlass("submit", "job.yaml", "--no-watch")
    assert jobs.get("plays")["spec"]["training"]["seed"] == 1337


def test_a_dry_run_asks_the_api_server_and_changes_nothing(windlass: Windlass, jobs: Jobs) -> None:
    tried = windlass("submit", "job.yaml", "--dry-run")
    assert tried.stdout == f"plays in namespace {jobs.namespace}: would be created\n"
    with pytest.raises(Refused, match="not found"):
        jobs.get("plays")


def test_all_that_is_wrong_is_said_before_the_cluster_is_asked(
    windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "nowhere")
    refused = windlass("submit", "job.yaml", "--set", "training.maxStep=1", "--set", "checkpoints.uri=runs/a")
    assert refused.exit_code == 2
    unknown, place = refused.stderr.splitlines()
    assert unknown.endswith("spec.training.maxStep: unknown field; did you mean maxSteps?")
    assert "spec.checkpoints.uri: 'runs/a' is a place on one machine; its pods see no folder of yours" in place


def test_what_only_the_api_server_finds_has_the_line_of_the_file(windlass: Windlass, jobs: Jobs) -> None:
    windlass("submit", "job.yaml", "--no-watch")
    jobs.report("plays", attempt=1)
    (Path("job.yaml")).write_text(JOB.replace("100", "200"))
    refused = windlass("submit", "job.yaml", "--no-watch", "--set", "workers.image=other")
    assert refused.exit_code == 2
    assert refused.stderr.splitlines() == [
        "job.yaml:7: spec.training: spec.training cannot change once the job has started; make a new job",
        "--set workers.image=other: spec.workers.image: spec.workers.image cannot change once the job has started; "
        "make a new job",
    ]


def test_a_field_that_the_clusters_windlass_does_not_know_is_named(windlass: Windlass) -> None:
    from windlass.cli.cluster.refusals import refusal

    said = "failed to create typed patch object (a/plays; ...): .spec.training.warp: field not declared in schema"
    error = refusal(500, json.dumps({"message": said, "code": 500}).encode(), "https://a")
    assert str(error).startswith("spec.training.warp: the cluster's Windlass does not know this field; upgrade it")


def test_the_namespace_is_the_options_or_the_files_or_the_contexts(windlass: Windlass, jobs: Jobs) -> None:
    other = jobs.server.namespace()
    assert f"namespace {other}: would be created" in windlass("submit", "job.yaml", "--dry-run", "-n", other).stdout
    Path("job.yaml").write_text(JOB.replace("name: plays", f"name: plays, namespace: {other}"))
    assert f"namespace {other}: would be created" in windlass("submit", "job.yaml", "--dry-run").stdout
    refused = windlass("submit", "job.yaml", "--dry-run", "-n", jobs.namespace)
    assert refused.exit_code == 2
    assert f"metadata.namespace: '{other}', but --namespace says '{jobs.namespace}'; leave one out" in refused.stderr


def test_a_job_is_shown_until_it_succeeds(start: Start, jobs: Jobs) -> None:
    command = start("submit", "job.yaml")
    command.wait_for(": created")
    waiting = condition("PodsReady", "False", "Unschedulable", "0/2 nodes are available")
    jobs.report("plays", observedGeneration=1, phase="Starting", attempt=1, conditions=[waiting])
    command.wait_for("Starting: Unschedulable: 0/2 nodes are available")
    training = condition("Training", "True", "Running", "Attempt 1, 1 worker.", 1)
    progress = {"step": 10, "maxSteps": 100, "loss": 3.5, "validationLoss": 3.75, "tokensPerSecond": 1000}
    jobs.report("plays", phase="Running", conditions=[training], progress=progress)
    command.wait_for("Running: Attempt 1, 1 worker.")
    command.wait_for("step 10  validation loss 3.7500")
    checkpoint = {"step": 100, "uri": "s3://runs/plays/step-100", "committedAt": SEEN.format(3)}
    jobs.report("plays", checkpoint=checkpoint)
    command.wait_for("step 100  checkpoint saved")
    progress |= {"step": 100, "loss": 2.5, "tokens": 51200}
    jobs.report("plays", phase="Succeeded", progress=progress, result={"uri": "s3://runs/plays/export"})
    assert command.end() == 0
    assert command.seen[-5:] == [
        "plays finished after 100 steps: 51.2k tokens",
        "  training loss    2.5000",
        "  validation loss  3.7500",
        "  checkpoint       step 100, s3://runs/plays/step-100",
        "  model            s3://runs/plays/export",
    ]


def test_a_job_that_fails_ends_with_its_reason_and_the_exit_code_of_it(start: Start, jobs: Jobs) -> None:
    command = start("submit", "job.yaml")
    command.wait_for(": created")
    failure = {"time": SEEN.format(1), "attempt": 1, "kind": "User", "reason": "DataNotFound", "pod": "plays-head"}
    failure |= {"message": "no corpus", "lastLogLines": ["looking", "s3://corpora/plays: not there"]}
    failed = condition("Failed", "True", "DataNotFound", "there is no prepared corpus at s3://corpora/plays")
    jobs.report("plays", observedGeneration=1, phase="Failed", attempt=1, conditions=[failed], failures=[failure])
    assert command.end() == 2
    assert command.seen[-5:] == [
        "Error: DataNotFound: there is no prepared corpus at s3://corpora/plays",
        "  | looking",
        "  | s3://corpora/plays: not there",
        "What to do: Correct the URI.",
        "Logs: windlass logs plays",
    ]
    assert "Warning: DataNotFound on plays-head: no corpus" in command.seen


def test_ctrl_c_leaves_the_job_running(start: Start, jobs: Jobs) -> None:
    command = start("submit", "job.yaml", "--namespace", jobs.namespace)
    command.wait_for(": created")
    jobs.report("plays", observedGeneration=1, phase="Running", attempt=1)
    command.wait_for("Running")
    command.interrupt()
    assert command.end() == 130
    assert command.seen[-4:] == [
        "plays goes on.",
        f"  Watch it:   windlass status plays --watch --namespace {jobs.namespace}",
        f"  Its logs:   windlass logs plays --follow --namespace {jobs.namespace}",
        f"  Cancel it:  windlass cancel plays --namespace {jobs.namespace}",
    ]
    assert jobs.get("plays")["status"]["phase"] == "Running"


def test_an_end_of_before_a_change_is_not_taken_for_the_end_of_now(
    start: Start, windlass: Windlass, jobs: Jobs
) -> None:
    windlass("submit", "job.yaml", "--no-watch", "--set", "lifecycle.suspend=true")
    jobs.report("plays", observedGeneration=1, phase="Suspended")
    command = start("submit", "job.yaml")
    command.wait_for(": changed")
    jobs.report("plays", observedGeneration=2, phase="Queued")
    command.wait_for("Queued")
    jobs.report("plays", phase="Suspended")
    assert command.end() == 130
    assert command.seen[-1] == "plays is suspended. Continue it with: windlass resume plays"


def test_a_job_that_is_deleted_while_it_is_shown_ends_the_command(start: Start, windlass: Windlass, jobs: Jobs) -> None:
    command = start("submit", "job.yaml")
    command.wait_for(": created")
    jobs.report("plays", observedGeneration=1, phase="Running", attempt=1)
    command.wait_for("Running")
    assert windlass("cancel", "plays", "--yes").exit_code == 0
    assert command.end() == 130
    assert command.seen[-1] == "plays was deleted."
