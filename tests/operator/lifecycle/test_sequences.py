"""Whatever happens to a job, in whatever order, and wherever the operator is killed: what holds always, and the end.

The operator here sees caches that lag behind the truth, with its own writes in them, as informers do.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.lifecycle.simulation import NAME, Cluster, Conflict, failure

from windlass.spec.reasons import REASONS
from windlass.spec.status import JobStatus
from windlass_operator.job import STORAGE_FINALIZER, Job
from windlass_operator.lifecycle.attempts import UNSEEN
from windlass_operator.lifecycle.decision import Action, CreateCleanup, CreateHead, CreateWorker, Decision, DeletePod
from windlass_operator.lifecycle.failures import identity
from windlass_operator.lifecycle.machine import decide
from windlass_operator.lifecycle.observed import Observed, Pod, Verdict, Waiting

HEAD = f"{NAME}-head"
BUDGET = {"infrastructure": 2, "user": 1, "backoffSeconds": 10, "maxBackoffSeconds": 60}


class World(Cluster):
    """A cluster whose operator lags, and whose nodes and people do as they please."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(**({"lifecycle": {"restarts": BUDGET}, "workers": {"replicas": 2, "minReplicas": 1}} | spec))
        self.cache: dict[str, Pod] = {}
        self.cached_job: dict[str, Any] = dict(self.job or {})
        self.ran: dict[int, str] = {}
        """The head that ran under each attempt's number."""
        self.step, self.pace = 0, 1

    # What happens.

    def tick(self, _: int = 0) -> None:
        """Kubelets and heads do what they should: pods start, run, and end when they are told to."""
        for name, pod in list(self.pods.items()):
            if pod.deleting:
                if pod.role == "head" and not pod.ended:
                    self.end_head(Verdict("Stopped"), exit_code=130)
                self._remove(name)
            elif pod.phase == "Pending" and pod.waiting is None:
                self.run(name)
        if (head := self.pods.get(HEAD)) and head.phase == "Running":
            self._train(head)
        if (cleanup := self.pods.get(f"{NAME}-cleanup")) and cleanup.phase == "Running":
            self.set(cleanup.name, phase="Succeeded", exit_code=0)

    def _train(self, head: Pod) -> None:
        assert head.attempt is not None
        assert self.ran.setdefault(head.attempt, head.uid) == head.uid, "two heads of one number have run"
        assert head.attempt == max(self.ran), "an older attempt runs"
        workers = [pod for pod in self.pods.values() if pod.role == "worker" and pod.phase == "Running"]
        if not workers:
            self.say("Starting")
            return
        self.step += self.pace
        self.say("Running", workers=len(workers), step=min(self.step, 1000))
        if self.step >= 1000:
            self.end_head(Verdict("Succeeded"), exit_code=0)

    def rank_dies(self, number: int) -> None:
        """The driver restarts its ranks, within the budget that the head was given."""
        head = self.pods.get(HEAD)
        if head is None or head.phase != "Running" or self.status.head is None:
            return
        restarts = (self.report.restarts if self.report else 0) + 1
        if self.status.head.restarts_before + restarts > BUDGET["infrastructure"]:
            self.end_head(Verdict("Failed", "RestartsExhausted", "the ranks die"))
        else:
            dead = failure("RankFailed", attempt=head.attempt, rank=number, time=f"2026-01-31T12:00:{restarts:02}Z")
            unheard = frozenset({number % 2}) if number % 3 == 0 else frozenset[int]()
            self.say("Recovering", restarts=restarts, failures=(dead,), lost=unheard)

    def head_is_not_heard(self, _: int) -> None:
        if HEAD in self.pods:
            self.fall_silent()

    def head_ends(self, number: int) -> None:
        if HEAD in self.pods and self.pods[HEAD].phase == "Running":
            ends: list[dict[str, Any]] = [
                {"verdict": None, "exit_code": 137},
                {"verdict": None, "exit_code": 137, "reason": "OOMKilled"},
                {"verdict": Verdict("Failed", "StorageUnavailable", "no answer")},
                {"verdict": Verdict("Failed", "UserError", "KeyError")},
                {"verdict": Verdict("Stopped"), "exit_code": 130},
            ]
            self.end_head(**ends[number % len(ends)])

    def node_is_lost(self, number: int) -> None:
        if pod := self._any(number):
            self.set(pod.name, node_lost=True, ready=False)

    def pod_vanishes(self, number: int) -> None:
        if pod := self._any(number):
            self._remove(pod.name)

    def pod_is_deleted(self, number: int) -> None:
        if (pod := self._any(number)) and (pod.phase == "Running" or pod.role != "head"):
            self.delete(pod.name)

    def worker_fails(self, number: int) -> None:
        if (pod := self.pods.get(f"{NAME}-worker-{number % 2}")) and not pod.ended:
            self.set(pod.name, phase="Failed", ready=False, reason="Evicted", message="low on memory")

    def pod_waits(self, number: int) -> None:
        if (pod := self._any(number)) and pod.phase == "Pending":
            self.set(pod.name, waiting=Waiting("Unschedulable", "0/2 nodes are available"))

    def user_suspends(self, number: int) -> None:
        if self.job is not None:
            self.edit("lifecycle", suspend=number % 2 == 0)

    def user_scales(self, number: int) -> None:
        if self.job is not None:
            self.edit("workers", replicas=(1, 2, 4)[number % 3])

    def user_deletes(self, number: int) -> None:
        if self.job is not None and number == 0:
            self.delete_job()

    def time_passes(self, number: int) -> None:
        self.now += (number**3 + 1) * self.now.resolution * 1_000_000

    def _any(self, number: int) -> Pod | None:
        return list(self.pods.values())[number % len(self.pods)] if self.pods else None

    def _remove(self, name: str) -> None:
        """A head that the operator never saw is only ever removed after a while: by Kubernetes, from a lost node."""
        seen = self.status.head.uid if self.job and self.status.head else None
        if name == HEAD and seen != self.pods[HEAD].uid:
            self.now += 2 * UNSEEN
        self.vanish(name)

    # What the operator makes of it.

    def operator_learns_all(self, _: int = 0) -> None:
        """Its caches catch up: by the events, or by a new list, as after a restart."""
        self.cache, self.cached_job = dict(self.pods), dict(self.job or {})

    def operator_learns_of_a_pod(self, number: int) -> None:
        names = sorted({*self.pods, *self.cache})
        if names:
            self._copy(names[number % len(names)])

    def operator_works(self, number: int = 9) -> None:
        """A reconcile with what the caches hold; below 5, the operator is killed after so many writes and restarted."""
        if self.job is None or not self.cached_job:
            return
        seen = Job(self.cached_job)
        report = self.report if HEAD in self.cache and self.cache[HEAD].uid == self._uid_of(HEAD) else None
        observed = Observed(tuple(self.cache.values()), report, self.silent)
        decision = decide(seen, observed, self.now)
        check_decision(seen, observed, decision)
        before = self.status
        try:
            self.carry_out(decision, seen, writes=number if number < 5 else None)
        except Conflict:
            self.operator_learns_all()  # sooner or later
        if number < 5:
            self.operator_learns_all()
        if self.job is not None:
            check_history(before, self.status)

    def _uid_of(self, name: str) -> str | None:
        return self.pods[name].uid if name in self.pods else None

    def _write_status(self, status: JobStatus, seen: Job) -> None:
        super()._write_status(status, seen)
        self.cached_job = dict(self.job or {})

    def act(self, action: Action) -> None:
        super().act(action)
        match action:
            case CreateHead():
                self._copy(HEAD)
            case CreateWorker(index):
                self._copy(f"{NAME}-worker-{index}")
            case CreateCleanup():
                self._copy(f"{NAME}-cleanup")
            case DeletePod(name, uid) if name in self.cache and self.cache[name].uid == uid:
                self.cache[name] = dataclasses.replace(self.cache[name], deleting=True)
            case _:
                self.cached_job = dict(self.job or {})

    def _copy(self, name: str) -> None:
        if name in self.pods:
            self.cache[name] = self.pods[name]
        else:
            self.cache.pop(name, None)


EVENTS: list[Callable[[World, int], None]] = [
    World.tick,
    World.rank_dies,
    World.head_is_not_heard,
    World.head_ends,
    World.node_is_lost,
    World.pod_vanishes,
    World.pod_is_deleted,
    World.worker_fails,
    World.pod_waits,
    World.user_suspends,
    World.user_scales,
    World.user_deletes,
    World.time_passes,
    World.operator_learns_all,
    World.operator_learns_of_a_pod,
    World.operator_works,
]
NUMBERS = st.integers(0, 9)
HAPPENING = st.tuples(st.sampled_from(EVENTS), NUMBERS, NUMBERS)
"""An event, which of its kinds, and how far the operator gets after it."""


def check_decision(job: Job, observed: Observed, decision: Decision) -> None:
    """What holds for every single decision."""
    assert not job.invalid
    status, head = decision.status, observed.head
    kinds = [type(action) for action in decision.actions]
    assert kinds.count(CreateHead) <= 1
    if CreateHead in kinds:
        assert head is None, "a second head beside one that is there"
        assert not job.spec.lifecycle.suspend
    finished = job.status.phase in ("Succeeded", "Failed")
    if finished or job.deleting:
        assert CreateHead not in kinds
        assert CreateWorker not in kinds
    if finished:
        assert (status.phase, status.attempt, status.result) == (
            job.status.phase,
            job.status.attempt,
            job.status.result,
        )
    trains = next((item.status for item in status.conditions if item.type == "Training"), None)
    assert (status.phase == "Running") == (trains == "True")
    if status.phase == "Running" and not job.deleting:
        assert head is not None
        assert head.phase == "Running" or head.verdict is not None
    again = decide(job, observed, job.created)
    assert isinstance(again, Decision)  # whatever the clock says


def check_history(before: JobStatus, after: JobStatus) -> None:
    """What holds from one status to the next."""
    assert after.attempt in (before.attempt, before.attempt + 1)
    if after.attempt > before.attempt and before.head is not None and before.head.uid is not None:
        assert after.restarts != before.restarts, "an attempt that no budget paid for"
    assert before.restarts.infrastructure <= after.restarts.infrastructure <= BUDGET["infrastructure"]
    assert before.restarts.user <= after.restarts.user <= BUDGET["user"]
    assert after.suspended_seconds >= before.suspended_seconds
    told = [identity(item) for item in after.failures]
    assert len(told) == len(set(told)) <= 10
    assert all(item.reason in REASONS for item in after.failures)
    assert len({item.type for item in after.conditions}) == len(after.conditions)


@settings(max_examples=60, deadline=None)
@given(
    happenings=st.lists(HAPPENING, min_size=20, max_size=60),
    on_delete=st.sampled_from(["Keep", "Delete"]),
)
def test_a_job_ends_however_it_is_treated_when_that_stops(
    happenings: list[tuple[Callable[[World, int], None], int, int]], on_delete: str
) -> None:
    world = World(checkpoints={"uri": "s3://runs/play", "onDelete": on_delete})
    for event, number, work in happenings:
        event(world, number)
        world.operator_works(work)
        world.time_passes(2)
        if number % 2:
            world.tick()
    settle(world)
    world.pace = 250
    world.user_suspends(1)
    for _ in range(60):
        world.tick()
        world.operator_learns_all()
        world.operator_works()
        world.time_passes(3)
        if world.job is None or world.phase in ("Succeeded", "Failed"):
            break
    else:
        raise AssertionError(f"no end: {world.phase} {world.pods}")
    if world.job is not None:
        check_end(world)


def settle(world: World) -> None:
    """No more faults: nodes come back, or their pods are gone; there is room."""
    for name, pod in world.pods.items():
        world.set(name, waiting=None, node_lost=pod.node_lost and pod.deleting)


def check_end(world: World) -> None:
    """Nothing is created after the end, what still runs is cleared away, and deletion leaves nothing."""
    for _ in range(12):
        world.now += world.now.resolution * 10_000_000
        world.tick()
        world.operator_learns_all()
        world.operator_works()
    if world.job is None:
        return
    assert all(pod.ended for pod in world.pods.values())
    status = world.status
    world.operator_works()
    assert world.status == status
    world.delete_job()
    for _ in range(30):
        if world.job is None:
            return
        world.operator_learns_all()
        world.operator_works()
        world.tick()
    assert world.job["metadata"].get("finalizers", []) != [STORAGE_FINALIZER]
