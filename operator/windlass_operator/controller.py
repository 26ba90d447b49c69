"""The loop between the API server and the state machine: observe a job, decide, write the status, act, tell."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from windlass.errors import WindlassError
from windlass.spec.job import GROUP, KIND, PLURAL, VERSION
from windlass.spec.status import JobStatus
from windlass_operator.desired.objects import support_objects
from windlass_operator.desired.pods import cleanup_pod, head_pod, worker_pod
from windlass_operator.events import event_object
from windlass_operator.job import JOB_LABEL, ROLE_LABEL, STORAGE_FINALIZER, Job, Key, Object, parse_time
from windlass_operator.kubernetes.client import Client
from windlass_operator.kubernetes.errors import ApiError, NotLeading, Unreachable
from windlass_operator.kubernetes.informer import Informer
from windlass_operator.kubernetes.queue import WorkQueue
from windlass_operator.kubernetes.resources import EVENTS, NODES, PODS, Resource, resource_of
from windlass_operator.lifecycle.decision import (
    Action,
    CreateCleanup,
    CreateHead,
    CreateWorker,
    DeleteJob,
    DeletePod,
    SetFinalizer,
)
from windlass_operator.lifecycle.machine import decide
from windlass_operator.lifecycle.observed import HeadReport, Observed, Refusal, Role
from windlass_operator.metrics import Metrics
from windlass_operator.observe import (
    is_blind,
    is_creating,
    is_silent,
    job_of,
    observe_pod,
    owned_by,
    still_trains,
    trim_node,
    trim_pod,
)
from windlass_operator.progress import ProgressPoller
from windlass_operator.settings import Settings

logger = logging.getLogger(__name__)

JOBS = Resource(group=GROUP, version=VERSION, plural=PLURAL, kind=KIND)
MANAGER = "windlass-operator"
RECONCILERS = 4
"""Jobs that are looked at side by side. More would only wait in the API server, with heartbeats of nodes behind them:
on a control plane of two cores, 16 and a thousand new jobs made nodes look lost."""
STUCK_SECONDS = 120.0
"""No look at a job takes this long: its requests time out before."""
COMING_SECONDS = 0.5
"""A pod that comes up is looked at after this time, with the others of its job that do."""
GATHER_SECONDS = 5.0
"""A status that tells of nothing but pods that come and go is written after this time, all of them at once."""
PROGRESS_WRITES_A_SECOND = 5
"""Of status that tells nothing but progress, over all jobs; with more than 50, each is written less often.

A write costs the API server 16 ms of a processor."""
DOUBT_SECONDS = 1.0
"""Between looks at a job with a pod on a node that is silent, and perhaps not lost."""
MOUNT_GRACE_SECONDS = 3.0
"""A container that is being created for longer may wait for a volume: the kubelet's events are asked."""


class Controller:
    """Looks after all jobs. `run_informers` in every replica; `run` in the one that leads."""

    def __init__(self, client: Client, settings: Settings, instance: str, registry: CollectorRegistry) -> None:
        """`instance` names this process in events; metrics go to `registry`."""
        self._client = client
        self._settings = settings
        self._instance = instance
        self.queue: WorkQueue[Key] = WorkQueue(registry=registry)
        namespaces = settings.watched_namespaces
        self.jobs = Informer(client, JOBS, namespaces=namespaces, on_change=self._job_changed)
        self.pods = Informer(
            client,
            PODS,
            namespaces=namespaces,
            labels=JOB_LABEL,
            trim=trim_pod,
            on_change=self._pod_changed,
            index=job_of,
        )
        self.nodes = Informer(client, NODES, trim=trim_node, on_change=self._node_changed)
        self._informers = (self.jobs, self.pods, self.nodes)
        self.heads = ProgressPoller(self.queue.add, self._progressed)
        self.metrics = Metrics(registry, self.jobs.all)
        self._in_hand: dict[Key, float] = {}
        """Jobs that are being looked at, and since when (monotonic)."""
        self._silent: set[str] = set()
        """Names of the nodes that the control plane does not hear of."""
        self._refusals: dict[str, Refusal] = {}
        """By the job's UID: why the pods that were asked for last were not made."""
        self._put_off: dict[str, float] = {}
        """By the job's UID: until when its status can wait (monotonic)."""
        self._accounts: set[str] = set()
        """Namespaces that have the jobs' ServiceAccount."""
        self._mount_failures: dict[str, tuple[float, str]] = {}
        """By pod UID: when the kubelet's events were asked (monotonic), and what they said."""

    @property
    def synced(self) -> bool:
        """Whether the caches hold what the API server has."""
        return all(informer.synced.is_set() for informer in self._informers)

    @property
    def healthy(self) -> bool:
        """Whether no reconciler is stuck. An API server that is away is no illness: a restart does not heal it."""
        return all(time.monotonic() - since < STUCK_SECONDS for since in self._in_hand.values())

    async def run_informers(self) -> None:
        """Keep the caches up to date, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())

    async def run(self) -> None:
        """Look after the jobs until cancelled."""
        for informer in self._informers:
            await informer.synced.wait()
        for job in self.jobs.all():
            self.queue.add((job["metadata"]["namespace"], job["metadata"]["name"]))
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(RECONCILERS):
                    tasks.create_task(self._reconcile_for_ever())
        finally:
            await self.heads.close()

    def _job_changed(self, old: Object | None, new: Object | None) -> None:
        metadata = (new or old or {})["metadata"]
        if new is None:
            self._refusals.pop(metadata["uid"], None)
            self._put_off.pop(metadata["uid"], None)
        is_new = old is None  # what has begun is brought on first: of many new jobs, some run early, and none late
        self.queue.add((metadata["namespace"], metadata["name"]), last=is_new)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        if not self.synced:
            return  # every job is looked at when all is known
        pod = new or old
        assert pod is not None
        if new is None:
            self._mount_failures.pop(pod["metadata"]["uid"], None)
        if new is None or new["status"].get("phase") in {"Succeeded", "Failed"}:
            self.queue.add(job_of(pod))
        else:
            self.queue.add_after(job_of(pod), COMING_SECONDS)

    @property
    def _progress_every(self) -> timedelta:
        return max(Observed.progress_every, timedelta(seconds=len(self.heads) / PROGRESS_WRITES_A_SECOND))

    def _progressed(self, key: Key) -> None:
        """Look at the job when its progress is to be written again."""
        status = (self.jobs.get(*key) or {}).get("status") or {}
        written = status.get("progress", {}).get("updatedAt")
        due = parse_time(written) + self._progress_every if written else datetime.now(UTC)
        self.queue.add_after(key, max(0.0, (due - datetime.now(UTC)).total_seconds()))

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        """The jobs with a pod on a node that is gone, silent, or back."""
        node = new or old
        assert node is not None
        name = node["metadata"]["name"]
        if new is not None and is_silent(new):
            self._silent.add(name)
        else:
            self._silent.discard(name)
        if old is None or (new is not None and is_silent(old) == is_silent(new)):
            return  # pods of a new node tell of themselves
        for pod in self.pods.all():
            if pod["spec"]["nodeName"] == name:
                self.queue.add(job_of(pod))

    async def _reconcile_for_ever(self) -> None:
        while True:
            key = await self.queue.get()
            start = self._in_hand[key] = time.monotonic()
            outcome = "error"
            try:
                outcome = await self._reconcile(key)
            except ApiError as error:
                # A conflict is a stale cache: its update is on the way and would wake this job by itself.
                level = logging.DEBUG if error.status == 409 else logging.WARNING
                logger.log(level, "%s/%s: %s; trying again", *key, error)
                self.queue.add_backoff(key)
            except (Unreachable, NotLeading) as error:
                logger.warning("%s/%s: %s; trying again", *key, error)
                self.queue.add_backoff(key)
            except Exception:
                logger.exception("%s/%s could not be looked after; trying again", *key)
                self.queue.add_backoff(key)
            else:
                if outcome == "refused":
                    self.queue.add_backoff(key)
                else:
                    self.queue.reset(key)
            finally:
                self.queue.done(key)
                del self._in_hand[key]
                self.metrics.reconcile_seconds.labels(outcome).observe(time.monotonic() - start)

    async def _reconcile(self, key: Key) -> str:
        """Bring one job a step further; returns what was done, for the metrics."""
        resource = self.jobs.get(*key)
        if resource is None:
            self.heads.leave(key)
            return "gone"
        job = Job(resource)
        observed = await self._observe(job)
        now = datetime.now(UTC)
        decision = decide(job, observed, now)
        told, events = decision.status != job.status, decision.events
        if told and decision.can_wait and (seconds := self._still_waits(job)):
            self.queue.add_after(key, seconds)
            told, events = False, ()
        writes: list[Awaitable[Any]] = [self._write_status(job, decision.status, now)] if told else []
        if head := next((action for action in decision.actions if isinstance(action, CreateHead)), None):
            writes.append(self._ensure_support(job, new=head.attempt == 1))
        written = await _all(writes)
        if told:
            job = written[0]
        refused = await self._act(job, decision.actions)
        for event in events:
            await self._client.create(EVENTS, event_object(job, event, now, self._instance))
        if decision.again_after is not None:
            self.queue.add_after(key, decision.again_after)
        if refused:
            return "refused"
        return "wrote" if told or decision.actions else "nothing"

    def _still_waits(self, job: Job) -> float:
        """Seconds for which a status that can wait is not written yet."""
        now = time.monotonic()
        return max(0.0, self._put_off.setdefault(job.uid, now + GATHER_SECONDS) - now)

    async def _observe(self, job: Job) -> Observed:
        pods = [pod for pod in self.pods.indexed(job.key) if owned_by(pod, job.uid)]
        for pod in pods:
            await self._ask_for_mount_failure(job.key, pod)
        head = next((pod for pod in pods if pod["metadata"]["name"] == f"{job.name}-head"), None)
        self._follow(job, head)
        words = {uid: message for uid, (_, message) in self._mount_failures.items()}
        report, silent = self.heads.report(job.key), self.heads.silent(job.key)
        lost = await self._lost_nodes(job, pods, None if silent else report)
        return Observed(
            tuple(observe_pod(pod, node_lost=pod["spec"]["nodeName"] in lost, mount_failures=words) for pod in pods),
            report,
            silent,
            self._refusals.get(job.uid),
            self._progress_every,
        )

    async def _lost_nodes(self, job: Job, pods: Sequence[Object], report: HeadReport | None) -> set[str]:
        """The nodes of these pods that are gone, or silent without anything that speaks for their life."""
        names = {pod["spec"]["nodeName"] for pod in pods} - {None}
        gone = {name for name in names if self.nodes.get(None, name) is None and not await self._exists(name)}
        silent = names & self._silent
        if not silent:
            return gone
        workers = sum(pod["metadata"]["labels"][ROLE_LABEL] == "worker" for pod in pods)
        blind = is_blind(len(self._silent), len(self.nodes.all()))
        if blind or still_trains(report, workers, datetime.now(UTC)):
            self.queue.add_after(job.key, DOUBT_SECONDS)
            return gone
        return gone | silent

    async def _exists(self, node: str) -> bool:
        """Whether a node that is not in the cache is there: a new one's pods may be heard of before it is."""
        found, _ = await self._client.list(NODES, fields=f"metadata.name={node}")
        return bool(found)

    def _follow(self, job: Job, head: Object | None) -> None:
        """Ask the head for its progress while it runs."""
        status = head["status"] if head else {}
        if head is None or status.get("phase") in {"Succeeded", "Failed"}:
            self.heads.leave(job.key)
        elif address := status.get("podIP"):
            token, replicas = self._settings.token(job.uid), job.resource["spec"]["workers"]["replicas"]
            self.heads.ask(job.key, head["metadata"]["uid"], address, token, replicas)

    async def _ask_for_mount_failure(self, key: Key, pod: Object) -> None:
        """Learn why a container is not created: the pod itself does not say, only the kubelet's events do."""
        metadata = pod["metadata"]
        if not is_creating(pod):
            self._mount_failures.pop(metadata["uid"], None)
            return
        asked, message = self._mount_failures.get(metadata["uid"], (time.monotonic(), ""))
        self._mount_failures[metadata["uid"]] = asked, message
        self.queue.add_after(key, MOUNT_GRACE_SECONDS)
        if time.monotonic() - asked < MOUNT_GRACE_SECONDS:
            return
        fields = f"involvedObject.uid={metadata['uid']},reason=FailedMount"
        events, _ = await self._client.list(EVENTS, metadata["namespace"], fields=fields)
        newest = max(events, key=lambda event: event.get("lastTimestamp") or "", default={})
        self._mount_failures[metadata["uid"]] = time.monotonic(), newest.get("message", "")

    async def _write_status(self, job: Job, status: JobStatus, now: datetime) -> Job:
        """Write the whole status; a 409 says that it was decided on an older state of the job than there is."""
        metadata = job.resource["metadata"]
        self._put_off.pop(job.uid, None)
        written = await self._client.apply(
            JOBS,
            {
                "apiVersion": job.resource["apiVersion"],
                "kind": job.resource["kind"],
                "metadata": {name: metadata[name] for name in ("name", "namespace", "resourceVersion")},
                "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
            },
            manager=MANAGER,
            subresource="status",
        )
        self.jobs.remember(written)
        # Own writes wake nobody: what follows from the new status is seen at the next look, with the pods that come.
        self.queue.add_after(job.key, COMING_SECONDS)
        self.metrics.count(job, status, now)
        return Job(written)

    async def _act(self, job: Job, actions: Sequence[Action]) -> bool:
        """Do everything that was decided, side by side. Returns whether a pod was refused."""
        creates = any(isinstance(action, CreateHead | CreateWorker | CreateCleanup) for action in actions)
        if creates:
            self._refusals.pop(job.uid, None)
        await _all([self._do(job, action) for action in actions])
        return creates and job.uid in self._refusals

    async def _do(self, job: Job, action: Action) -> None:
        match action:
            case CreateHead(attempt, restarts):
                await self._create(job, "head", lambda: head_pod(job, self._settings, attempt, restarts))
            case CreateWorker(index):
                await self._create(job, "worker", lambda: worker_pod(job, self._settings, index))
            case CreateCleanup():
                await self._create(job, "cleanup", lambda: cleanup_pod(job, self._settings))
            case DeletePod(name, uid, force):
                await self._delete_pod(job, name, uid, grace_seconds=0 if force else None)
            case SetFinalizer(present):
                await self._set_finalizer(job, present)
            case DeleteJob():
                await self._client.delete(JOBS, job.namespace, job.name, uid=job.uid, propagation="Background")

    async def _ensure_support(self, job: Job, *, new: bool) -> None:
        """See that what the head and workers need is there; the ServiceAccount is the namespace's, and seen to once."""
        objects = [
            item
            for item in support_objects(job, self._settings)
            if item["kind"] != "ServiceAccount" or job.namespace not in self._accounts
        ]
        await _all([self._ensure(item, new=new and item["kind"] != "ServiceAccount") for item in objects])
        self._accounts.add(job.namespace)

    async def _ensure(self, item: Object, *, new: bool) -> None:
        """Apply an object; one that is probably new is created, which costs the API server two thirds of that."""
        if new:
            try:
                await self._client.create(resource_of(item), item)
                return
            except ApiError as error:
                if error.status not in {403, 409}:  # it is there; a quota may be asked before
                    raise
        await self._client.apply(resource_of(item), item, manager=MANAGER)

    async def _create(self, job: Job, role: Role, make: Callable[[], Object]) -> None:
        """Create a pod, or remember why it could not be, for the next look at the job."""
        try:
            self.pods.remember(await self._client.create(PODS, make()))
        except WindlassError as error:  # the user's template cannot be merged
            self._refusals[job.uid] = Refusal(role, str(error), final=True)
        except ApiError as error:
            if error.status not in {400, 403, 422}:
                raise
            self._accounts.discard(job.namespace)  # it was deleted, perhaps
            self._refusals[job.uid] = Refusal(role, error.message, final=error.status != 403)

    async def _delete_pod(self, job: Job, name: str, uid: str, grace_seconds: int | None) -> None:
        try:
            deleted = await self._client.delete(PODS, job.namespace, name, uid=uid, grace_seconds=grace_seconds)
        except ApiError as error:
            if error.status not in {404, 409}:  # gone, or another pod of that name: the cache learns it soon
                raise
        else:
            if deleted.get("kind") == "Pod":
                self.pods.remember(deleted)

    async def _set_finalizer(self, job: Job, present: bool) -> None:
        finalizers = [name for name in job.finalizers if name != STORAGE_FINALIZER] + [STORAGE_FINALIZER] * present
        metadata = {"finalizers": finalizers, "resourceVersion": job.resource["metadata"]["resourceVersion"]}
        patched = await self._client.merge_patch(JOBS, job.namespace, job.name, {"metadata": metadata})
        if patched["metadata"].get("deletionTimestamp") is None or present:
            self.jobs.remember(patched)
            self.queue.add(job.key)


async def _all(steps: Sequence[Awaitable[Any]]) -> list[Any]:
    """Take steps side by side; their results, or the first error once all of them have ended."""
    done = await asyncio.gather(*steps, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return done
