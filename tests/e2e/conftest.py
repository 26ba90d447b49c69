"""A real cluster with the chart installed: images built and loaded, an object store, and the order of the tests."""

import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import s3fs
from tests.e2e.cluster import (
    CREDENTIALS,
    NAMESPACE,
    OPERATOR_IMAGE,
    PLAY,
    RELEASE_NAMESPACE,
    ROOT,
    SCRIPT,
    TRAINER_IMAGE,
    Cluster,
    kubectl,
    run,
)

ORDER = ["test_operator", "test_waiting", "test_recovery", "test_nodes", "test_chaos", "test_commands", "test_rights"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of a job's life; what the operator was allowed and asked for is compared last."""
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else -1)


@pytest.fixture(scope="module", autouse=True)
def jobs_end_with_their_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """A job that a failed test has left would take the processors from the tests of the next module."""
    yield
    if "cluster" in request.fixturenames:
        kubectl("delete", "llmjobs", "--all", "--wait=false")


@pytest.fixture(scope="session", autouse=True)
def building(request: pytest.FixtureRequest) -> Iterator[Future[None] | None]:
    """The images, on their way: tests that need no cluster run meanwhile."""
    if not any("cluster" in item.fixturenames for item in request.session.items if isinstance(item, pytest.Function)):
        yield None
        return
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(build_images)


@pytest.fixture(scope="session")
def images(building: Future[None]) -> None:
    """Both images, on all nodes."""
    building.result()


def build_images() -> None:
    """Build both images from the Dockerfiles, and bring them to the nodes."""
    if SCRIPT:
        run(SCRIPT, "base")
        for image, folder in ((OPERATOR_IMAGE, "operator"), (TRAINER_IMAGE, "trainer")):
            run(SCRIPT, "build", image, ROOT, "-f", ROOT / f"images/{folder}/Dockerfile", timeout=900)
    elif shutil.which("kind") and shutil.which("docker"):
        for image, folder in ((OPERATOR_IMAGE, "operator"), (TRAINER_IMAGE, "trainer")):
            run("docker", "build", "-t", image, "-f", ROOT / f"images/{folder}/Dockerfile", ROOT, timeout=1800)
            run("kind", "load", "docker-image", image, timeout=600)
    else:
        pytest.skip("needs a way to build images: WINDLASS_TEST_CLUSTER, or docker and kind")


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """KUBECONFIG's cluster, else kind's."""
    if not os.environ.get("KUBECONFIG"):
        if not shutil.which("kind") or not run("kind", "get", "clusters").strip():
            pytest.skip("needs a Kubernetes cluster: set KUBECONFIG, or have one of kind")
        path = tmp_path_factory.mktemp("kind") / "kubeconfig"
        path.write_text(run("kind", "get", "kubeconfig"))
        os.environ["KUBECONFIG"] = str(path)
    missing = [program for program in ("kubectl", "helm") if not shutil.which(program)]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} on the PATH")


@pytest.fixture(scope="session")
def cluster(kubernetes: None, images: None) -> Iterator[Cluster]:
    """The chart, installed; a namespace under the restricted Pod Security Standard; a bucket with its credentials."""
    if not os.environ.get("AWS_ENDPOINT_URL"):
        pytest.skip("needs an S3 server that pods reach: set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and its secret")
    operator, _, operator_tag = OPERATOR_IMAGE.rpartition(":")
    run(
        *("helm", "upgrade", "--install", "windlass", ROOT / "charts/windlass", "--wait", "--timeout", "120s"),
        *("--namespace", RELEASE_NAMESPACE, "--create-namespace"),
        *("--set", f"image.repository={operator},image.tag={operator_tag}"),
        *("--set", f"trainerImage={TRAINER_IMAGE}"),
        *("--set", "prometheus.namespace=monitoring"),
    )
    labels = ["pod-security.kubernetes.io/enforce=restricted"]
    run("kubectl", "create", "namespace", NAMESPACE)
    run("kubectl", "label", "namespace", NAMESPACE, *labels)
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    literals = [f"--from-literal={name}={os.environ[name]}" for name in names if name in os.environ]
    kubectl("create", "secret", "generic", CREDENTIALS, *literals)
    store = s3fs.S3FileSystem(use_listings_cache=False)
    bucket = f"windlass-{uuid.uuid4().hex[:12]}"
    store.mkdir(bucket)
    store.pipe_file(f"{bucket}/raw/play.txt", PLAY)
    yield Cluster(f"s3://{bucket}", store)
    # Jobs go first, while their operator is there.
    run("kubectl", "delete", "namespace", NAMESPACE, "--timeout=180s")
    run("helm", "uninstall", "windlass", "--namespace", RELEASE_NAMESPACE, "--wait")
