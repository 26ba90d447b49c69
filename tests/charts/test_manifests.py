"""What is applied without helm: the operator by kustomize, and the S3 server of the samples."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.charts.chart import ROOT, parse
from tests.operator.api_server import ApiServer

MANIFESTS = ROOT / "manifests"


def test_the_operators_manifests_are_what_the_chart_makes(program: Callable[[str], Path]) -> None:
    search = f"{program('helm').parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": search}
    script = MANIFESTS / "operator/render.sh"
    made = subprocess.run([script], env=environment, capture_output=True, text=True, check=True)
    assert parse(made.stdout) == parse((MANIFESTS / "operator/operator.yaml").read_text()), "run make generate"


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not on the PATH")
@pytest.mark.parametrize("what", [("-k", "operator"), ("-f", "crd"), ("-f", "s3.yaml")], ids=lambda what: what[1])
def test_an_api_server_takes_what_kubectl_applies(api_server: ApiServer, what: tuple[str, str]) -> None:
    option, name = what
    command = ["kubectl", f"--kubeconfig={api_server.kubeconfig()}", "apply", "--server-side", "--force-conflicts"]
    applied = subprocess.run([*command, option, MANIFESTS / name], capture_output=True, text=True, check=False)
    assert applied.returncode == 0, applied.stderr
    assert "serverside-applied" in applied.stdout
