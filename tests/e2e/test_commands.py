"""The commands for clusters on a real one: a job is submitted, looked at, suspended, resumed, read and cancelled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.cluster import NAMESPACE, Cluster, small_job, wait_for

pytestmark = pytest.mark.timeout(900)
JOB = "commands"
STEPS = 400
"""So many that the job still trains when it is suspended, and when it is resumed."""


@pytest.fixture(scope="module")
def file(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job file; JSON is YAML."""
    path = tmp_path_factory.mktemp("commands") / "job.yaml"
    path.write_text(json.dumps(small_job(cluster, JOB, maxSteps=STEPS)))
    return path


def windlass(*arguments: str, exit_code: int = 0) -> str:
    """What a command prints, errors included, until it ends."""
    command = [sys.executable, "-m", "windlass", *arguments, "--namespace", NAMESPACE]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False
    )
    assert done.returncode == exit_code, done.stdout
    return done.stdout


def test_a_job_goes_from_submit_to_its_end_by_the_commands_alone(cluster: Cluster, file: Path) -> None:
    assert f"{JOB} in namespace {NAMESPACE}: would be created" in windlass("submit", str(file), "--dry-run")
    assert "created" in windlass("submit", str(file), "--no-watch")
    cluster.wait_for_phase(JOB, "Running")
    wait_for("the first step", lambda: cluster.steps(JOB))  # in the status it may be 10 s later

    suspended = windlass("suspend", JOB)
    assert f"{JOB} is suspended at step" in suspended
    saved = cluster.status(JOB)["checkpoint"]["step"]
    assert saved > 0
    wait_for("the pods are gone", lambda: not cluster.pods(JOB))
    assert "trains again" in windlass("resume", JOB)

    wait_for("rank 1 has printed something", lambda: windlass("logs", JOB, "--rank", "1").strip())
    assert "[worker-0] " in windlass("logs", JOB)
    assert "[head] " in windlass("logs", JOB, "--head")
    shown = windlass("status", JOB)
    for part in ("Conditions", f"{JOB}-head", f"{JOB}-worker-1"):
        assert part in shown, shown

    watched = windlass("submit", str(file))
    assert "unchanged" in watched
    assert f"{JOB} finished after {STEPS} steps" in watched
    status = cluster.status(JOB)
    assert status["attempt"] == 2
    assert status["restarts"]["infrastructure"] == 0, "a pause is no failure"
    metrics = cluster.store.cat_file(f"{cluster.bucket}/runs/{JOB}/metrics.jsonl").decode()
    steps = [record["step"] for record in map(json.loads, metrics.splitlines()) if record["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1)), "nothing is done twice"
    assert f"{JOB}  " in windlass("status")


def test_a_wrong_job_is_refused_with_the_line_of_its_file(cluster: Cluster, file: Path) -> None:
    refused = windlass("submit", str(file), "--set", "data.train.0.uri=corpora/plays", exit_code=2)
    assert "spec.data.train[0].uri: 'corpora/plays' is a place on one machine" in refused


def test_cancel_deletes_job_and_pods_and_keeps_the_checkpoints(cluster: Cluster) -> None:
    uri = cluster.job(JOB)["spec"]["checkpoints"]["uri"]
    assert f"{uri} is kept" in windlass("cancel", JOB, "--yes")
    wait_for("the pods are gone", lambda: not cluster.pods(JOB))
    assert f"no job '{JOB}'" in windlass("status", JOB, exit_code=2)
    assert cluster.store.ls(uri.removeprefix("s3://"))
