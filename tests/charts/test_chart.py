"""The chart: what it installs with which values, and which values it refuses."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from docs.hooks import values as values_table
from ruamel.yaml import YAML
from tests.charts.chart import CHART, ROOT, Helm, Object, Render, parse, rights

EVERYTHING = (
    "watchNamespaces={team-a,team-b}",
    "key.existingSecret=mine",
    "imagePullSecrets[0].name=registry",
    "podLabels.team=ml",
    "podAnnotations.note=hello",
    "serviceAccount.annotations.note=hello",
    "nodeSelector.disk=ssd",
    "tolerations[0].operator=Exists",
    "affinity.podAffinity.x=y",
    "topologySpreadConstraints[0].maxSkew=1",
    "priorityClassName=high",
    "env[0].name=HTTPS_PROXY",
    "env[0].value=http://proxy",
    "prometheus.namespace=monitoring",
    "prometheus.podLabels.app=prometheus",
    "monitoring.serviceMonitor.create=true",
    "monitoring.podMonitor.create=true",
    "monitoring.prometheusRule.create=true",
    "monitoring.dashboards.create=true",
)
JOB_RIGHTS = {
    ("windlass.dev", "llmtrainingjobs"): {"list", "watch", "patch", "delete"},
    ("windlass.dev", "llmtrainingjobs/status"): {"patch"},
    ("", "pods"): {"list", "watch", "create", "delete"},
    ("", "secrets"): {"create", "patch"},
    ("", "services"): {"create", "patch"},
    ("", "serviceaccounts"): {"create", "patch"},
    ("networking.k8s.io", "networkpolicies"): {"create", "patch"},
    ("", "events"): {"create", "list"},
}
EXPECTED_RIGHTS = {(*resource, verb) for resource, verbs in JOB_RIGHTS.items() for verb in verbs}


@pytest.mark.parametrize("values", [(), EVERYTHING], ids=["defaults", "everything"])
def test_helm_lint_finds_nothing(helm: Helm, values: tuple[str, ...]) -> None:
    linted = helm("lint", "--strict", "--quiet", CHART, *(f"--set={value}" for value in values))
    assert (linted.returncode, linted.stdout) == (0, ""), linted.stdout + linted.stderr


def container(deployment: Object) -> Object:
    [only] = deployment["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_the_operator_runs_under_the_restricted_pod_security_standard(render: Render) -> None:
    deployment = render().one("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(deployment)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [set(volume) - {"name"} for volume in pod["volumes"]] == [{"secret"}, {"emptyDir"}]


def test_two_replicas_prefer_different_nodes_and_are_evicted_one_at_a_time(render: Render) -> None:
    objects = render()
    spec = objects.one("Deployment")["spec"]
    assert spec["replicas"] == 2
    [spread] = spec["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    budget = objects.one("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == spec["selector"]
    assert not render("replicas=1").of("PodDisruptionBudget"), "it would block the drain of a node for ever"


@pytest.mark.parametrize("values", [(), EVERYTHING], ids=["defaults", "everything"])
def test_the_operator_takes_the_options_and_its_labels_are_those_of_its_pods(
    render: Render, values: tuple[str, ...], tmp_path: Path
) -> None:
    from windlass_operator.main import parse as options_of
    from windlass_operator.main import settings_of

    deployment = render(*values).one("Deployment")
    arguments = [text.replace("$(POD_NAMESPACE)", "operators") for text in container(deployment)["args"]]
    options = options_of(arguments)
    options.key_file = tmp_path / "key"
    options.key_file.write_bytes(os.urandom(32))
    settings = settings_of(options)
    assert options.leader_elect
    assert settings.namespace == "operators"
    assert settings.operator_labels == deployment["spec"]["selector"]["matchLabels"]
    assert settings.watched_namespaces == (("team-a", "team-b") if values else ())
    assert settings.prometheus_namespace == ("monitoring" if values else None)
    assert settings.prometheus_labels == ({"app": "prometheus"} if values else {})


def test_the_rights_are_these_and_no_more(render: Render) -> None:
    objects = render("rbac.userRoles=false")
    assert rights([objects.one("ClusterRole")]) == EXPECTED_RIGHTS
    assert rights([objects.one("ClusterRole", "windlass-operator-nodes")]) == {
        ("", "nodes", "list"),
        ("", "nodes", "watch"),
    }
    assert len(objects.of("ClusterRole")) == 2
    leases = [("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "patch")]
    assert rights(objects.of("Role")) == set(leases)
    assert [role["metadata"]["namespace"] for role in objects.of("Role")] == ["operators"]


def test_with_namespaces_the_rights_on_jobs_end_there(render: Render) -> None:
    objects = render("watchNamespaces={team-a,team-b}", "rbac.userRoles=false")
    assert rights(objects.of("ClusterRole")) == {("", "nodes", "list"), ("", "nodes", "watch")}
    roles = [role for role in objects.of("Role") if role["metadata"]["name"] == "windlass-operator"]
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert all(rights([role]) == EXPECTED_RIGHTS for role in roles)
    bindings = [item["metadata"]["namespace"] for item in objects.of("RoleBinding")]
    assert bindings == ["team-a", "team-b", "operators"]


def test_who_has_no_rights_on_the_cluster_can_install_what_lies_in_namespaces(render: Render) -> None:
    objects = render("watchNamespaces={team-a}", "crds.install=false", "rbac.nodes=false", "rbac.userRoles=false")
    assert all("namespace" in item["metadata"] for item in objects)


def test_people_get_their_rights_on_jobs_through_the_clusters_own_roles(render: Render) -> None:
    objects = render()
    edit, view = (objects.one("ClusterRole", f"windlass-operator-jobs-{name}") for name in ("edit", "view"))
    assert {"create", "delete", "patch"} <= {verb for _, _, verb in rights([edit])}
    assert {verb for _, _, verb in rights([view])} == {"get", "list", "watch"}
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"


def test_the_key_is_random_kept_and_left_out_where_there_is_one(render: Render) -> None:
    secrets = [render(values).one("Secret", "windlass-operator-key") for values in ("replicas=1", "replicas=2")]
    first, second = (base64.b64decode(secret["data"]["key"]) for secret in secrets)
    assert len(first) == len(second) == 32
    assert first != second
    assert secrets[0]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"

    objects = render("key.existingSecret=mine")
    assert not objects.of("Secret")
    assert objects.one("Deployment")["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"] == "mine"


def test_the_crd_is_that_of_the_spec_and_stays_when_the_release_goes(render: Render) -> None:
    [made] = render().of("CustomResourceDefinition")
    [generated] = parse((ROOT / "manifests/crd/llmtrainingjobs.windlass.dev.yaml").read_text())
    assert made["spec"] == generated["spec"], "run make generate"
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in render("crds.keep=false").of("CustomResourceDefinition")[0]["metadata"]
    assert not render("crds.install=false").of("CustomResourceDefinition")


def test_only_prometheus_reaches_the_operator_and_it_reaches_only_what_it_asks(render: Render) -> None:
    closed = render().one("NetworkPolicy")["spec"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
    assert {port["port"] for port in closed["egress"][0]["ports"]} == {443, 6443, 53}
    assert closed["egress"][1]["ports"] == [{"port": 8080}]

    values = ("prometheus.namespace=monitoring", "prometheus.podLabels.app=prometheus")
    [ingress] = render(*values).one("NetworkPolicy")["spec"]["ingress"]
    assert ingress["ports"] == [{"port": "http"}]
    assert ingress["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
            "podSelector": {"matchLabels": {"app": "prometheus"}},
        }
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("replicaCount=3", "additional properties 'replicaCount' not allowed"),
        ("image.registry=a", "additional properties 'registry' not allowed"),
        ("image.tag=", "at '/image/tag'"),
        ("image.pullPolicy=Sometimes", "must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("replicas=-1", "at '/replicas'"),
        ("watchNamespaces=team-a", "at '/watchNamespaces': got string, want array"),
        ("watchNamespaces={Team}", "at '/watchNamespaces/0'"),
        ("logLevel=info", "must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ("key.existingSecret=Not_A_Name", "at '/key/existingSecret'"),
        ("env[0].value=x", "missing property 'name'"),
        ("networkPolicy.apiServerPorts[0]=70000", "at '/networkPolicy/apiServerPorts/0'"),
        ("monitoring.podMonitor.interval=15", "at '/monitoring/podMonitor/interval'"),
        ("monitoring.podMonitors.create=true", "additional properties 'podMonitors' not allowed"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(helm: Helm, value: str, message: str) -> None:
    made = helm("template", "windlass", CHART, "--kube-version", "1.34", f"--set={value}")
    assert made.returncode != 0
    assert message in made.stderr


def test_every_value_has_a_schema_and_every_schema_a_value() -> None:
    values = YAML(typ="safe").load(CHART / "values.yaml")
    schema = json.loads((CHART / "values.schema.json").read_text())
    schema["properties"].pop("global")

    def compare(value: Any, described: Any, path: str) -> None:
        if "properties" in described:
            assert described["additionalProperties"] is False, path
            optional = {"claims"} if path == ".resources" else set()
            assert set(value) == set(described["properties"]) - optional, path
            for name, inner in value.items():
                compare(inner, described["properties"][name], f"{path}.{name}")

    compare(values, schema, "")


def test_every_value_is_explained() -> None:
    explained = {row.split("`")[1] for row in values_table() if row.startswith("| `")}
    for name, value in YAML(typ="safe").load(CHART / "values.yaml").items():
        parts = value if isinstance(value, dict) else ()
        assert name in explained or {f"{name}.{part}" for part in parts} <= explained, name
