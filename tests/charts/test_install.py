"""The chart in a real API server: it takes all objects, what must stay stays, and the rights are those of the roles."""

import json
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.charts.chart import CHART, Helm
from tests.operator.api_server import ApiServer

PLACEMENT = {
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
    ],
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
    "prometheus": {"namespace": "monitoring", "podLabels": {"app": "prometheus"}},
}


@dataclass
class Release:
    """An installation in a namespace of its own."""

    server: ApiServer
    helm: Helm
    name: str
    namespace: str

    def run(self, *arguments: Any) -> "subprocess.CompletedProcess[str]":
        """Helm, in this cluster and namespace."""
        place = ("--namespace", self.namespace, "--kubeconfig", self.server.kubeconfig())
        done = self.helm(*arguments, *place)
        assert done.returncode == 0, done.stderr
        return done

    def upgrade(self, **values: Any) -> None:
        """Install or upgrade with these values."""
        given = [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]
        # Another test may have applied the CRD by hand.
        self.run("upgrade", "--install", self.name, CHART, "--take-ownership", *given)

    def get(self, path: str) -> dict[str, Any]:
        return dict(json.loads(self.server.ask(path)))

    def key(self) -> str:
        """The Secret that the jobs' tokens are made with."""
        return str(self.get(f"/api/v1/namespaces/{self.namespace}/secrets/{self.name}-operator-key")["data"]["key"])

    def may(self, verb: str, resource: str, namespace: str | None = None, *, group: str = "", name: str = "") -> bool:
        """Whether the operator may do this; without a namespace, everywhere."""
        where = {"verb": verb, "group": group, "resource": resource, "namespace": namespace, "name": name}
        review = {"spec": {"user": self.user, "resourceAttributes": where}}
        answer = self.server.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", "POST", review)
        return bool(json.loads(answer)["status"]["allowed"])

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}-operator"

    def as_operator(self, method: str, path: str, body: Any = None) -> int:
        """The status of a request that the operator makes."""
        headers = {
            "Authorization": f"Bearer {self.server.token}",
            "Impersonate-User": self.user,
            "Content-Type": "application/apply-patch+yaml",
        }
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.server.tls()) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def new_release(api_server: ApiServer, helm: Helm) -> Iterator[Callable[[], Release]]:
    """A function that makes a release, not installed yet; it is uninstalled in the end."""
    made: list[Release] = []

    def new() -> Release:
        made.append(Release(api_server, helm, f"windlass-{uuid.uuid4().hex[:6]}", api_server.namespace()))
        return made[-1]

    yield new
    for release in made:
        release.run("uninstall", release.name, "--ignore-not-found")


@pytest.fixture(scope="module")
def release(new_release: Callable[[], Release]) -> Release:
    """With the chart's defaults, cluster-wide."""
    installed = new_release()
    installed.upgrade()
    return installed


def test_every_choice_of_placement_and_security_is_accepted(new_release: Callable[[], Release]) -> None:
    new_release().upgrade(**PLACEMENT)


def test_the_pods_pass_the_restricted_pod_security_standard(release: Release) -> None:
    place = f"/apis/apps/v1/namespaces/{release.namespace}/deployments/{release.name}-operator"
    template = release.get(place)["spec"]["template"]
    namespace = f"restricted-{uuid.uuid4().hex[:12]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    release.server.ask("/api/v1/namespaces", "POST", {"metadata": {"name": namespace, "labels": labels}})
    pod = {"metadata": {"name": "operator"}, "spec": template["spec"]}
    pods = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
    assert json.loads(release.server.ask(pods, "POST", pod))["spec"]["containers"]
    del pod["spec"]["containers"][0]["securityContext"]["capabilities"]
    with pytest.raises(urllib.error.HTTPError, match="Forbidden"):
        release.server.ask(pods, "POST", pod)


def test_the_key_stays_over_upgrades_and_the_crd_and_the_key_when_the_release_goes(
    new_release: Callable[[], Release],
) -> None:
    release = new_release()
    release.upgrade()
    key = release.key()
    release.upgrade(replicas=3)
    assert release.key() == key
    assert (
        release.get(f"/apis/apps/v1/namespaces/{release.namespace}/deployments/{release.name}-operator")["spec"][
            "replicas"
        ]
        == 3
    )

    release.run("uninstall", release.name)
    assert release.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/llmtrainingjobs.windlass.dev")
    release.upgrade()
    assert release.key() == key, "running jobs are asked with tokens that were made with it"


def test_a_secret_can_be_applied_again_and_again_and_not_read(release: Release) -> None:
    secrets = f"/api/v1/namespaces/{release.server.namespace()}/secrets"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "stringData": {"token": "a"}}
    apply = f"{secrets}/token?fieldManager=windlass-operator&force=true"
    assert [release.as_operator("PATCH", apply, secret) for _ in range(2)] == [201, 200]
    assert [release.as_operator("GET", path) for path in (secrets, f"{secrets}/token")] == [403, 403]


def test_leases_are_the_operators_own_only(release: Release) -> None:
    group = "coordination.k8s.io"
    assert release.may("create", "leases", release.namespace, group=group)
    assert release.may("patch", "leases", release.namespace, group=group, name="windlass-operator")
    assert not release.may("patch", "leases", release.namespace, group=group, name="other")
    assert not release.may("create", "leases", "default", group=group)


def test_rights_end_with_the_watched_namespaces(new_release: Callable[[], Release], release: Release) -> None:
    own = new_release()
    team, other = own.server.namespace(), own.server.namespace()
    own.upgrade(watchNamespaces=[team], crds={"install": False})
    assert own.may("create", "pods", team)
    assert own.may("list", "nodes")
    assert not own.may("create", "pods", other)
    assert not own.may("list", "llmtrainingjobs", group="windlass.dev")
    assert release.may("create", "pods", other)
    assert release.may("list", "llmtrainingjobs", group="windlass.dev")
