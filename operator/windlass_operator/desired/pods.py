"""The pods of a job: the head, a worker for each seat, and the one that deletes the job's storage.

The job's template is merged over Windlass's defaults, and over both goes what the operator depends on: names, labels,
owner, restartPolicy, command, the token, and the variables WINDLASS_*, RAY_AUTH_*, POD_NAME, POD_IP and NODE_NAME.
"""

from windlass.spec.job import PodTemplate, Resources
from windlass_operator.desired.merge import merge
from windlass_operator.desired.metadata import (
    HTTP_PORT,
    SERVICE_ACCOUNT,
    Role,
    head_name,
    metadata,
    selector,
    token_name,
)
from windlass_operator.desired.quantity import number
from windlass_operator.job import ATTEMPT_LABEL, WORKER_LABEL, Job, Object
from windlass_operator.settings import Settings

GPU = "nvidia.com/gpu"
USER = 10001
"""User and group of the images."""
GRACE_SECONDS = 120
"""From SIGTERM to SIGKILL: long enough for a checkpoint."""
TOKEN_FOLDER = "/var/run/windlass"
TOKEN_FILE = f"{TOKEN_FOLDER}/token"
HEAD_REQUESTS = {"cpu": "500m", "memory": "2Gi"}
"""Ray's control store and the driver need about 2 GB."""
WORKER_REQUESTS = {"cpu": "500m", "memory": "1Gi"}
CLEANUP_REQUESTS = {"cpu": "100m", "memory": "256Mi"}
SHARED_MEMORY = 2**30
"""Bytes of /dev/shm without a memory limit; with one, half of it."""


def head_pod(job: Job, settings: Settings, attempt: int, restarts: int) -> Object:
    """The head of an attempt, after so many infrastructure restarts. Raises ConfigInvalid for a malformed template."""
    head = job.spec.head
    own = _own(job, "head", head_name(job), _identity(job) + _token_env() + _document(job))
    own["metadata"]["labels"][ATTEMPT_LABEL] = str(attempt)
    _container(own)["env"] += _env(WINDLASS_ATTEMPT=attempt, WINDLASS_RESTARTS=restarts)
    _mount_token(job, own)
    defaults = _defaults(job, settings, "head", head.resources, HEAD_REQUESTS)
    _container(defaults).update(_probes())
    return _layered(own, defaults, head.template, "spec.head.template")


def worker_pod(job: Job, settings: Settings, index: int) -> Object:
    """The worker of a seat, from 0. Raises ConfigInvalid for a malformed template."""
    workers = job.spec.workers
    own = _own(job, "worker", f"{job.name}-worker-{index}", _identity(job) + _token_env())
    own["metadata"]["labels"][WORKER_LABEL] = str(index)
    own["spec"]["restartPolicy"] = "OnFailure"  # in its seat; the head's restarts are attempts, and the operator's
    resources = _with_gpus(workers.resources, workers.gpus_per_worker)
    ranks = workers.gpus_per_worker or 1
    _container(own)["env"] += _env(
        WINDLASS_WORKER_INDEX=index,
        WINDLASS_HEAD=f"http://{head_name(job)}.{job.namespace}.svc:{HTTP_PORT}",
        WINDLASS_CPUS=ranks,
        WINDLASS_GPUS=resources.limits.get(GPU, 0),
    )
    _mount_token(job, own)
    defaults = _defaults(job, settings, "worker", resources, WORKER_REQUESTS)
    _container(defaults).update(_probes())
    if "cpu" in resources.limits:
        _container(defaults)["env"] += _env(OMP_NUM_THREADS=max(1, int(number(resources.limits["cpu"]) / ranks)))
    defaults["spec"]["topologySpreadConstraints"] = [_over_nodes(job)]
    return _layered(own, defaults, workers.template, "spec.workers.template")


def cleanup_pod(job: Job, settings: Settings) -> Object:
    """The pod that deletes the storage of a job that is being deleted. Raises ConfigInvalid for a malformed template.

    The head's template gives it the head's access to storage. It needs no token, whose Secret may be gone before it.
    """
    own = _own(job, "cleanup", f"{job.name}-cleanup", _identity(job) + _document(job))
    # A foreground deletion of the job would take it along with the other objects.
    own["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = False
    defaults = _defaults(job, settings, "cleanup", Resources(), CLEANUP_REQUESTS)
    _container(own)["name"] = _container(defaults)["name"] = "head"  # what the template calls it
    pod = _layered(own, defaults, job.spec.head.template, "spec.head.template")
    next(container for container in pod["spec"]["containers"] if container["name"] == "head")["name"] = "cleanup"
    return pod


def _layered(own: Object, defaults: Object, template: PodTemplate | None, path: str) -> Object:
    """The pod; its own variables come first, since the template's may refer to them."""
    pod: Object = merge(merge(own, defaults, path), template or {}, path)
    return dict(merge(pod, own, path))


def _own(job: Job, role: Role, name: str, env: list[Object]) -> Object:
    """What no template changes."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(job, name, role),
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": role, "command": ["python", "-m", "windlass.engine.pods", role], "env": env}],
        },
    }


def _defaults(job: Job, settings: Settings, role: Role, resources: Resources, requests: dict[str, str]) -> Object:
    """What a template may change: a pod that the restricted Pod Security Standard admits."""
    container = {
        "name": role,
        "image": job.spec.workers.image or settings.trainer_image,
        "imagePullPolicy": "IfNotPresent",
        "env": _env(HOME="/tmp", TMPDIR="/tmp", RAY_TMPDIR="/tmp", PYTHONUNBUFFERED=1),
        "resources": _requests_and_limits(resources, requests),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    spec = {
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": _shared_memory(resources)}},
        ],
    }
    return {"spec": spec}


def _container(pod: Object) -> Object:
    """Of a layer: the only one."""
    container: Object = pod["spec"]["containers"][0]
    return container


def _env(**values: object) -> list[Object]:
    return [{"name": name, "value": str(value)} for name, value in values.items()]


def _identity(job: Job) -> list[Object]:
    downward = {"POD_NAME": "metadata.name", "POD_IP": "status.podIP", "NODE_NAME": "spec.nodeName"}
    return [
        *_env(WINDLASS_JOB_NAME=job.name, WINDLASS_NAMESPACE=job.namespace, WINDLASS_JOB_UID=job.uid),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in downward.items()),
    ]


def _token_env() -> list[Object]:
    return _env(WINDLASS_TOKEN_FILE=TOKEN_FILE, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=TOKEN_FILE)


def _document(job: Job) -> list[Object]:
    """The job as JSON, without what it leaves at its default."""
    text = job.document.model_dump_json(exclude_unset=True)
    return _env(WINDLASS_JOB=text.replace("$", "$$"))  # Kubernetes would fill in a $(NAME) of a prompt


def _mount_token(job: Job, pod: Object) -> None:
    pod["spec"]["volumes"] = [{"name": "token", "secret": {"secretName": token_name(job), "defaultMode": 0o440}}]
    _container(pod)["volumeMounts"] = [{"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True}]


def _probes() -> Object:
    """Ready is looked at often, since a start waits for it; a busy machine alone makes no pod unhealthy."""

    def probe(path: str, period: int, failures: int) -> Object:
        get = {"path": path, "port": HTTP_PORT}
        return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}

    return {
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "readinessProbe": probe("/readyz", period=2, failures=3),
        "livenessProbe": probe("/healthz", period=10, failures=6),
    }


def _with_gpus(resources: Resources, gpus: int | None) -> Resources:
    """gpusPerWorker as a resource; without it, what the resources say themselves."""
    asked: dict[str, int | str] = {GPU: gpus} if gpus else {}
    return Resources(requests=resources.requests | asked, limits=resources.limits | asked)


def _requests_and_limits(resources: Resources, requests: dict[str, str]) -> Object:
    """With default requests for what has neither request nor limit: a limit alone is its request as well."""
    defaults = {name: value for name, value in requests.items() if name not in resources.limits}
    asked = {"requests": defaults | resources.requests, "limits": resources.limits}
    return {kind: {name: str(value) for name, value in found.items()} for kind, found in asked.items() if found}


def _shared_memory(resources: Resources) -> str:
    limit = resources.limits.get("memory")
    size = SHARED_MEMORY if limit is None else int(number(limit) / 2)
    return f"{size // 2**20}Mi"


def _over_nodes(job: Job) -> Object:
    """Workers on as many nodes as there are, but rather together than not at all."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(job, "worker")},
    }
