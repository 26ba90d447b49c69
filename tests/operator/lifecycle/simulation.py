"""A job on a cluster that exists in memory: the API server's part, the kubelets' part, and the operator's loop."""

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from windlass.spec.status import CheckpointStatus, Failure, JobStatus, Progress
from windlass_operator.job import STORAGE_FINALIZER, Job
from windlass_operator.lifecycle.decision import (
    Action,
    CreateCleanup,
    CreateHead,
    CreateWorker,
    Decision,
    DeleteJob,
    DeletePod,
    SetFinalizer,
)
from windlass_operator.lifecycle.draft import stamp
from windlass_operator.lifecycle.machine import decide
from windlass_operator.lifecycle.observed import HeadPhase, HeadReport, Observed, Pod, Refusal, Verdict

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
NAME = "play"
SPEC: dict[str, Any] = {
    "model": {"preset": "gpt2-small"},
    "data": {"train": [{"uri": "s3://corpora/shakespeare"}]},
    "training": {"maxSteps": 1000},
    "checkpoints": {"uri": "s3://runs/play"},
    "workers": {"replicas": 2},
}


class Conflict(Exception):
    """The API server's 409."""


class Cluster:
    """`job` and `pods` are the truth; a reconcile sees them unless it is given something older."""

    def __init__(self, **spec: Any) -> None:
        self.now = START
        self.pods: dict[str, Pod] = {}
        self.report: HeadReport | None = None
        self.silent = False
        self.refuses = ""
        """Why the API server makes no pods; empty: it does."""
        self.refusal: Refusal | None = None
        """Of the pod that was asked for last."""
        self.events: list[str] = []
        """Their reasons, in order."""
        self.done: list[Action] = []
        self.writes = 0
        """Of the status."""
        self._uids = itertools.count(1)
        self.job: dict[str, Any] | None = {
            "apiVersion": "windlass.dev/v1alpha1",
            "kind": "LLMTrainingJob",
            "metadata": {
                "name": NAME,
                "namespace": "team",
                "uid": "uid-of-job",
                "generation": 1,
                "resourceVersion": 1,
                "creationTimestamp": stamp(START),
            },
            "spec": SPEC | spec,
        }

    @property
    def status(self) -> JobStatus:
        assert self.job is not None
        return Job(self.job).status

    @property
    def observed(self) -> Observed:
        return Observed(tuple(self.pods.values()), self.report, self.silent, self.refusal)

    @property
    def phase(self) -> str | None:
        return self.status.phase

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        return next(((item.status, item.reason) for item in self.status.conditions if item.type == kind), ("", ""))

    def message(self, kind: str) -> str:
        return next(item.message for item in self.status.conditions if item.type == kind)

    # The operator.

    def reconcile(self) -> list[Action]:
        """Decide and act until nothing more is to do; returns what was done."""
        done: list[Action] = []
        for _ in range(20):
            if self.job is None:
                return done
            before = self.job
            decision = decide(Job(self.job), self.observed, self.now)
            self.carry_out(decision, Job(self.job))
            done += decision.actions
            if self.refusal is not None or (self.job == before and not decision.actions):
                return done  # a pod that was refused is asked for again later
        raise AssertionError(f"no rest: {done}")

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass; the operator looks only when it asked to be woken."""
        until, done = self.now + timedelta(seconds=seconds), self.reconcile()
        while self.job is not None:
            again = decide(Job(self.job), self.observed, self.now).again_after
            if again is None or self.now + timedelta(seconds=again) > until:
                break
            self.now += timedelta(seconds=again)
            done += self.reconcile()
        self.now = until
        return done

    def carry_out(self, decision: Decision, seen: Job, writes: int | None = None) -> None:
        """Write the status, act, tell; an operator that is killed after so many `writes` does no more."""
        budget = itertools.count() if writes is None else iter(range(writes))
        if decision.status != seen.status:
            if next(budget, None) is None:
                return
            self._write_status(decision.status, seen)
        for action in decision.actions:
            if next(budget, None) is None:
                return
            self.act(action)
        self.events += [event.reason for event in decision.events]

    def _write_status(self, status: JobStatus, seen: Job) -> None:
        assert self.job is not None
        if seen.resource["metadata"]["resourceVersion"] != self.job["metadata"]["resourceVersion"]:
            raise Conflict
        self.update(status=status.model_dump(mode="json", by_alias=True, exclude_none=True))
        self.writes += 1

    def act(self, action: Action) -> None:
        self.done.append(action)
        match action:
            case CreateHead(attempt):
                self._create(Pod(f"{NAME}-head", self._uid(), "head", attempt=attempt))
            case CreateWorker(index):
                self._create(Pod(f"{NAME}-worker-{index}", self._uid(), "worker", worker=index))
            case CreateCleanup():
                self._create(Pod(f"{NAME}-cleanup", self._uid(), "cleanup"))
            case DeletePod(name, uid, force):
                if (pod := self.pods.get(name)) and pod.uid == uid:
                    self.delete(name, force=force)
            case DeleteJob():
                self.delete_job()
            case SetFinalizer(present):
                self._set_finalizer(present)

    def _uid(self) -> str:
        return f"uid-{next(self._uids)}"

    # The API server and the kubelets.

    def _create(self, pod: Pod) -> None:
        self.refusal = Refusal(pod.role, self.refuses, final=False) if self.refuses else None
        if self.refusal is not None:
            return
        if pod.name in self.pods:
            raise Conflict
        self.pods[pod.name] = dataclasses.replace(pod, created=self.now.replace(microsecond=0))

    def delete(self, name: str, *, force: bool = False) -> None:
        """As `kubectl delete pod`: one that runs has its time to end."""
        pod = self.pods[name]
        if force or pod.ended or pod.phase == "Pending":
            self.vanish(name)
        else:
            self.set(name, deleting=True, disrupted=pod.disrupted or self.now)

    def vanish(self, name: str) -> None:
        """Remove a pod."""
        if self.pods.pop(name).role == "head":
            self.report, self.silent = None, False

    def set(self, name: str, **changes: Any) -> None:
        """Change a pod."""
        pod = self.pods[name] = dataclasses.replace(self.pods[name], **changes)
        if pod.role == "head" and pod.ended:
            self.report, self.silent = None, False

    def update(self, **changes: Any) -> None:
        """Change the job: its spec, its metadata, its status."""
        assert self.job is not None
        metadata = self.job["metadata"] | changes.pop("metadata", {})
        metadata["resourceVersion"] = self.job["metadata"]["resourceVersion"] + 1
        metadata["generation"] += "spec" in changes
        self.job = self.job | changes | {"metadata": metadata}
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            self.job, self.pods, self.report = None, {}, None

    def edit(self, part: str, **changes: Any) -> None:
        """Change a part of the spec, as a user does."""
        assert self.job is not None
        spec = self.job["spec"]
        self.update(spec=spec | {part: spec.get(part, {}) | changes})

    def delete_job(self) -> None:
        self.update(metadata={"deletionTimestamp": stamp(self.now)})

    def _set_finalizer(self, present: bool) -> None:
        self.update(metadata={"finalizers": [STORAGE_FINALIZER] if present else []})

    # The pods' own doing.

    def run(self, *names: str) -> None:
        """Pods start and become ready; all of them when none is named."""
        for name in names or tuple(self.pods):
            self.set(name, phase="Running", ready=True, node=self.pods[name].node or "node1")

    def say(self, phase: HeadPhase, *, workers: int = 2, step: int | None = None, **more: Any) -> None:
        """The head answers."""
        head = self.pods[f"{NAME}-head"]
        assert head.attempt is not None
        same = self.report is not None and self.report.phase == phase and self.report.workers == workers
        self.silent = False
        self.report = HeadReport(
            attempt=head.attempt,
            phase=phase,
            message=more.pop("message", phase),
            since=self.report.since if same and self.report else self.now,
            received=self.now,
            workers=workers,
            progress=None if step is None else Progress(step=step, max_steps=1000, loss=3.0, tokens_per_second=1200.0),
            **more,
        )

    def fall_silent(self) -> None:
        """The head answers no more."""
        self.silent = True

    def end_head(self, verdict: Verdict | None, exit_code: int = 1, **changes: Any) -> None:
        """The head's container ends."""
        phase = "Succeeded" if exit_code == 0 else "Failed"
        self.set(f"{NAME}-head", phase=phase, ready=False, verdict=verdict, exit_code=exit_code, **changes)

    def train(self, step: int = 10) -> None:
        """From nothing to a job that trains."""
        self.reconcile()
        self.run()
        self.say("Running", step=step)
        self.reconcile()
        assert self.status.phase == "Running"


def failure(reason: str, **fields: Any) -> Failure:
    """A failure as a head tells of it."""
    defaults: dict[str, Any] = {"kind": "Infrastructure", "time": stamp(START), "attempt": 1, "last_log_lines": []}
    return Failure(reason=reason, **(defaults | fields))


def checkpoint(step: int) -> CheckpointStatus:
    return CheckpointStatus(step=step, uri=f"s3://runs/play/{step}", committed_at=stamp(START))
