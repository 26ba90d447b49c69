"""What docs/decisions/0010 says about versions of the resource, on a real API server."""

import copy
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.operator.api_server import ApiServer
from tests.trainer.jobs import MERGE, Refused, ask, install

from windlass.spec.crd import crd
from windlass.spec.document import parse

JOB = """\
metadata: {name: plays}
spec:
  model: {preset: gpt2-tiny}
  data: {train: [{uri: "s3://corpora/plays"}]}
  training: {maxSteps: 100}
  checkpoints: {uri: "s3://runs/plays"}
"""


class Resource:
    """LLMTrainingJob in a group of its own, so that its versions can change."""

    def __init__(self, server: ApiServer) -> None:
        self.server, self.namespace = server, server.namespace()
        self.definition = crd()
        self.group = f"{uuid.uuid4().hex[:12]}.windlass.dev"
        self.definition["metadata"]["name"] = f"llmtrainingjobs.{self.group}"
        self.definition["spec"]["group"] = self.group
        self.definition["spec"]["names"].pop("shortNames")
        self.install()

    @property
    def versions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.definition["spec"]["versions"]
        return found

    def install(self) -> None:
        """Apply the CRD as it is now."""
        install(self.server, self.definition)

    def follow(self, *, storage: bool = False) -> dict[str, Any]:
        """Add v1beta1 with the schema of v1alpha1, and return it."""
        self.versions.append(copy.deepcopy(self.versions[0]) | {"name": "v1beta1", "storage": storage})
        self.versions[0]["storage"] = not storage
        return self.versions[-1]

    def path(self, version: str, name: str = "") -> str:
        return f"/apis/{self.group}/{version}/namespaces/{self.namespace}/llmtrainingjobs" + f"/{name}" * bool(name)

    def create(self, version: str, **spec: Any) -> dict[str, Any]:
        job = parse(JOB, "").value | {"apiVersion": f"{self.group}/{version}", "kind": "LLMTrainingJob"}
        job["spec"] |= spec
        return ask(self.server, "POST", f"{self.path(version)}?fieldValidation=Strict", job)

    def get(self, version: str) -> dict[str, Any]:
        return ask(self.server, "GET", self.path(version, "plays"))

    def patch(self, version: str, change: dict[str, Any], subresource: str = "") -> dict[str, Any]:
        return ask(self.server, "PATCH", self.path(version, "plays") + subresource, change, MERGE)

    def crd_path(self) -> str:
        return f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/llmtrainingjobs.{self.group}"


@pytest.fixture
def resource(api_server: ApiServer) -> Iterator[Resource]:
    made = Resource(api_server)
    yield made
    ask(api_server, "DELETE", made.crd_path())


def spec_of(version: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two objects differ in nothing but apiVersion, and that in the notes on who set which field."""
    plain = [json.loads(json.dumps(job)) for job in (one, other)]
    for job in plain:
        del job["apiVersion"], job["metadata"]["managedFields"]
    return bool(plain[0] == plain[1])


def test_a_job_reads_the_same_in_the_next_version_and_back(resource: Resource) -> None:
    before = resource.create("v1alpha1")
    resource.patch("v1alpha1", {"status": {"attempt": 1, "phase": "Running"}}, "/status")
    resource.follow()
    resource.install()
    old, new = resource.get("v1alpha1"), resource.get("v1beta1")
    assert new["apiVersion"].endswith("/v1beta1")
    assert same(old, new)
    assert new["spec"] == before["spec"]
    assert new["metadata"]["generation"] == 1
    resource.patch("v1beta1", {"spec": {"lifecycle": {"suspend": True}}})
    assert resource.get("v1alpha1")["spec"]["lifecycle"]["suspend"] is True
    with pytest.raises(Refused, match="cannot change once the job has started"):
        resource.patch("v1beta1", {"spec": {"training": {"maxSteps": 5}}})


def test_a_field_that_is_added_to_all_versions_survives_a_client_of_the_old_one(resource: Resource) -> None:
    resource.create("v1alpha1")
    resource.follow()
    for version in resource.versions:
        spec_of(version)["priority"] = {"type": "integer", "default": 0}
    resource.install()
    assert resource.get("v1alpha1")["spec"]["priority"] == 0, "stored jobs get the default"
    resource.patch("v1beta1", {"spec": {"priority": 7}})
    read = resource.get("v1alpha1")
    ask(resource.server, "PUT", resource.path("v1alpha1", "plays"), read)
    assert resource.get("v1beta1")["spec"]["priority"] == 7


def test_a_field_of_one_version_alone_is_lost_which_is_why_there_is_none(resource: Resource) -> None:
    resource.create("v1alpha1")
    spec_of(resource.follow(storage=True))["priority"] = {"type": "integer"}
    resource.install()
    resource.patch("v1beta1", {"spec": {"priority": 7}})
    read = resource.get("v1alpha1")
    assert "priority" not in read["spec"]
    ask(resource.server, "PUT", resource.path("v1alpha1", "plays"), read)
    assert "priority" not in resource.get("v1beta1")["spec"]


def test_a_renamed_field_is_two_fields_of_which_one_is_given(resource: Resource) -> None:
    resource.create("v1alpha1", tokenizer="bytes")
    resource.follow()
    for version in resource.versions:
        spec_of(version)["vocabulary"] = {"type": "string"}
        rules = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"]
        rules.append({"rule": "!has(self.tokenizer) || !has(self.vocabulary)", "message": "give vocabulary alone"})
    resource.install()
    with pytest.raises(Refused, match="give vocabulary alone"):
        resource.patch("v1beta1", {"spec": {"vocabulary": "gpt2"}})
    renamed = resource.patch("v1beta1", {"spec": {"vocabulary": "gpt2", "tokenizer": None}})
    assert same(renamed, resource.get("v1alpha1"))


def test_a_stricter_rule_leaves_stored_jobs_alone_and_holds_for_new_ones(resource: Resource) -> None:
    resource.create("v1alpha1", logging={"everySteps": 500})
    for version in resource.versions:
        logging = spec_of(version)["logging"]
        logging["properties"]["everySteps"]["maximum"] = 100
        logging["x-kubernetes-validations"] = [{"rule": "self.everySteps <= 100", "message": "log more often"}]
    resource.install()
    suspended = resource.patch("v1alpha1", {"spec": {"lifecycle": {"suspend": True}}})
    assert suspended["spec"]["logging"]["everySteps"] == 500
    resource.patch("v1alpha1", {"status": {"phase": "Suspended"}}, "/status")
    with pytest.raises(Refused, match="everySteps"):
        resource.patch("v1alpha1", {"spec": {"logging": {"everySteps": 400}}})
    ask(resource.server, "DELETE", resource.path("v1alpha1", "plays"))
    with pytest.raises(Refused, match="everySteps"):
        resource.create("v1alpha1", logging={"everySteps": 500})


def test_a_version_can_go_once_nothing_is_stored_in_it(resource: Resource) -> None:
    before = resource.create("v1alpha1")
    resource.follow(storage=True)
    resource.versions[0] |= {"deprecated": True, "deprecationWarning": "use v1beta1"}
    resource.install()
    gone = resource.versions.pop(0)
    with pytest.raises(Refused, match="storedVersions"):
        resource.install()

    resource.patch("v1beta1", {})  # writes it anew
    ask(resource.server, "PATCH", f"{resource.crd_path()}/status", {"status": {"storedVersions": ["v1beta1"]}}, MERGE)
    resource.install()
    after = resource.get("v1beta1")
    assert (after["spec"], after["metadata"]["uid"]) == (before["spec"], before["metadata"]["uid"])
    with pytest.raises(Refused):
        resource.get(gone["name"])
