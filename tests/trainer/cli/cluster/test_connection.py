import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.trainer.jobs import Jobs, ask
from typer.testing import Result

from windlass.cli.cluster.connection import connect
from windlass.errors import WindlassError

Windlass = Callable[..., Result]


def test_without_a_kubeconfig_the_ways_to_one_are_said(windlass: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "nowhere")
    result = windlass("status")
    assert result.exit_code == 2
    assert (
        "Error: ClusterUnavailable: no cluster to connect to: no kubeconfig at nowhere; name one with" in result.stderr
    )


def test_a_context_that_is_not_there_gets_the_near_name(windlass: Windlass) -> None:
    result = windlass("status", "--context", "tset")
    assert result.exit_code == 2
    assert "no context 'tset'; there are test; did you mean test?" in result.stderr


def test_a_kubeconfig_that_is_no_yaml_is_one_line(windlass: Windlass, here: Path) -> None:
    (here / "kubeconfig").write_text("{")
    result = windlass("status")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ClusterUnavailable: no cluster to connect to: ")


def test_an_api_server_that_does_not_answer_is_named(windlass: Windlass, here: Path, jobs: Jobs) -> None:
    text = (here / "kubeconfig").read_text()
    (here / "kubeconfig").write_text(text.replace(jobs.server.url, "https://127.0.0.1:1"))
    result = windlass("status")
    assert result.exit_code == 2
    assert "ClusterUnavailable: the API server at https://127.0.0.1:1 cannot be reached: " in result.stderr
    assert "Connection refused" in result.stderr


def test_wrong_credentials_are_said(windlass: Windlass, here: Path, jobs: Jobs) -> None:
    text = (here / "kubeconfig").read_text()
    (here / "kubeconfig").write_text(text.replace(jobs.server.token, "wrong"))
    result = windlass("status")
    assert result.exit_code == 2
    assert "Error: AccessDenied: https://" in result.stderr
    assert "does not accept the kubeconfig's credentials" in result.stderr
    assert "wrong" not in result.stderr


def test_a_right_that_is_missing_is_named(windlass: Windlass, here: Path, jobs: Jobs) -> None:
    accounts = f"/api/v1/namespaces/{jobs.namespace}/serviceaccounts"
    ask(jobs.server, "POST", accounts, {"metadata": {"name": "bob"}})
    token = ask(jobs.server, "POST", f"{accounts}/bob/token", {"spec": {}})["status"]["token"]
    text = (here / "kubeconfig").read_text()
    (here / "kubeconfig").write_text(text.replace(jobs.server.token, token))
    result = windlass("status")
    assert result.exit_code == 2
    assert 'cannot list resource "llmtrainingjobs" in API group "windlass.dev"' in result.stderr
    assert "ask whoever looks after the cluster for that right" in result.stderr


def test_a_cluster_without_windlass_is_told_from_one_without_the_job(here: Path) -> None:
    with pytest.raises(WindlassError, match="knows no LLMTrainingJob; install Windlass there: helm install") as caught:
        connect().request("GET", "/apis/none.dev/v1/namespaces/default/llmtrainingjobs/plays")
    assert caught.value.reason == "ClusterUnavailable"


def test_a_job_that_is_not_there_gets_the_near_name_and_the_other_namespace(
    windlass: Windlass, jobs: Jobs, here: Path
) -> None:
    other = jobs.server.namespace()
    job = here / "job.yaml"  # of a name that no other test's has, in all namespaces
    job.write_text(job.read_text().replace("name: plays", "name: tragedies"))
    windlass("submit", "job.yaml", "--no-watch")
    assert windlass("status", "tragedy").stderr == (
        f"Error: JobNotFound: no job 'tragedy' in namespace {jobs.namespace}; did you mean tragedies?\n"
    )
    assert windlass("cancel", "tragedies", "-n", other).stderr == (
        f"Error: JobNotFound: no job 'tragedies' in namespace {other}; there is one with --namespace {jobs.namespace}\n"
    )
    assert "no namespace 'nowhere'" in windlass("submit", "job.yaml", "-n", "nowhere").stderr


def test_without_the_package_the_extra_is_named() -> None:
    # None is what the import system keeps for a module that cannot be imported.
    script = "import sys; sys.modules['kubernetes'] = None; from windlass.cli.main import app; app(['status'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "This command needs kubernetes, which is not installed: pip install 'windlass[cluster]'\n"


def test_several_kubeconfigs_are_one(windlass: Windlass, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((here / "kubeconfig").read_text())
    (here / "contexts").write_text(
        json.dumps({"apiVersion": "v1", "kind": "Config", "contexts": config.pop("contexts")})
    )
    (here / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", f"{here}/kubeconfig:{here}/contexts:{here}/gone")
    assert windlass("status").exit_code == 0
