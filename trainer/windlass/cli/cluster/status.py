"""`windlass status`: the jobs of a cluster in a table, or all that is known of one."""

from collections.abc import Iterator
from datetime import UTC, datetime

from windlass.cli.cluster import jobs
from windlass.cli.cluster.connection import Cluster, Object
from windlass.cli.cluster.following import failure_line, status, telling
from windlass.cli.show import count, duration, loss, printable, table
from windlass.spec.reasons import REASONS

LOG_LINES = 10
"""Of each failure."""


def list_lines(cluster: Cluster, *, everywhere: bool, wide: bool) -> list[str]:
    """The jobs as `kubectl get llmjobs` prints them: the API server makes the columns."""
    found = jobs.table(cluster, everywhere=everywhere)
    if not found["rows"]:
        return ["No jobs on the cluster." if everywhere else f"No jobs in namespace {cluster.namespace}."]
    columns = found["columnDefinitions"]
    shown = [index for index, column in enumerate(columns) if wide or column["priority"] == 0]
    header = [columns[index]["name"].upper() for index in shown]
    rows = [
        ["" if row["cells"][index] is None else str(row["cells"][index]) for index in shown] for row in found["rows"]
    ]
    if everywhere:
        header.insert(0, "NAMESPACE")
        rows = [
            [row["object"]["metadata"]["namespace"], *cells] for row, cells in zip(found["rows"], rows, strict=True)
        ]
    return table(header, rows)


def job_lines(job: Object, pods: list[Object], now: datetime) -> Iterator[str]:
    """One job: phase, progress, conditions, pods, failures."""
    found, metadata = status(job), job["metadata"]
    yield f"{metadata['name']}  {found.get('phase') or 'not seen by an operator yet'}"
    why = telling(job)
    if why and (why["status"] != "True" or why["type"] == "Failed"):
        yield f"  {why['reason']}: {why['message']}"
        if why["reason"] in REASONS:
            yield f"  What to do: {REASONS[why['reason']].remedy}"
    yield from (f"  {name:<12} {value}" for name, value in _facts(job, now) if value)
    yield from _section("Conditions", ("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"), _conditions(found, now))
    yield from _section("Pods", ("NAME", "PHASE", "READY", "RESTARTS", "NODE", "AGE", "WAITS FOR"), _pods(pods, now))
    if failures := found.get("failures"):
        yield from ["", "Failures"]
        for failure in failures:
            yield f"  {_ago(failure['time'], now)}, attempt {failure['attempt']}: {failure_line(failure)}"
            yield from (f"    | {printable(line)}" for line in failure.get("lastLogLines", [])[-LOG_LINES:])


def _facts(job: Object, now: datetime) -> Iterator[tuple[str, str]]:
    spec, found, metadata = job["spec"], status(job), job["metadata"]
    progress, workers, model = found.get("progress") or {}, found.get("workers") or {}, spec["model"]
    yield "namespace", metadata["namespace"]
    yield "task", f"{spec.get('task', '')} {model.get('preset') or model.get('from') or model.get('custom') or ''}"
    yield "age", _ago(metadata["creationTimestamp"], now).removesuffix(" ago")
    yield "attempt", str(found.get("attempt") or "")
    if progress:
        total = f"/{progress['maxSteps']}" if progress.get("maxSteps") else ""
        left = f", {duration(progress['remainingSeconds'])} left" if progress.get("remainingSeconds") else ""
        yield "step", f"{progress.get('step', 0)}{total}{left}"
        yield "loss", f"{loss(progress.get('loss'))}, validation {loss(progress.get('validationLoss'))}"
        mfu = f", MFU {progress['mfu']:.0%}" if progress.get("mfu") is not None else ""
        yield "speed", f"{count(progress['tokensPerSecond'])} tokens/s{mfu}" if progress.get("tokensPerSecond") else ""
    if workers:
        yield "workers", f"{workers.get('ready', 0)} of {workers.get('desired', 0)} ready"
    yield "checkpoint", _checkpoint(found.get("checkpoint"), now)
    yield "restarts", _restarts(found.get("restarts") or {}, spec.get("lifecycle", {}).get("restarts", {}))
    if goodput := found.get("goodput"):
        yield "goodput", f"{goodput['ratio']:.0%} of {duration(goodput['totalSeconds'])}"
    yield "model", (found.get("result") or {}).get("uri") or ""


def _checkpoint(checkpoint: Object | None, now: datetime) -> str:
    if not checkpoint:
        return ""
    return f"step {checkpoint['step']}, {_ago(checkpoint['committedAt'], now)}, {checkpoint['uri']}"


def _restarts(used: Object, budget: Object) -> str:
    return ", ".join(f"{kind} {used[kind]} of {budget.get(kind, '?')}" for kind in used if used[kind])


def _section(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield from ["", title, *(f"  {line}" for line in table(header, rows))]


def _conditions(found: Object, now: datetime) -> list[tuple[str, ...]]:
    return [
        (
            condition["type"],
            condition["status"],
            condition["reason"],
            _ago(condition["lastTransitionTime"], now),
            condition.get("message", ""),
        )
        for condition in found.get("conditions", [])
    ]


def _pods(pods: list[Object], now: datetime) -> list[tuple[str, ...]]:
    return [
        (
            pod["metadata"]["name"],
            "Terminating" if pod["metadata"].get("deletionTimestamp") else pod["status"].get("phase", ""),
            "yes" if _is_true(pod, "Ready") else "no",
            str(sum(container["restartCount"] for container in pod["status"].get("containerStatuses", []))),
            pod["spec"].get("nodeName", "-"),
            _ago(pod["metadata"]["creationTimestamp"], now).removesuffix(" ago"),
            waits_for(pod),
        )
        for pod in pods
    ]


def _is_true(pod: Object, kind: str) -> bool:
    return any(found["type"] == kind and found["status"] == "True" for found in pod["status"].get("conditions", []))


def waits_for(pod: Object) -> str:
    """Why a pod does not run, in the scheduler's or the kubelet's words; empty for one that does."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    for container in pod["status"].get("containerStatuses", []):
        for state, facts in container.get("state", {}).items():
            ended_badly = state == "terminated" and facts.get("exitCode")
            if (state == "waiting" and facts.get("reason") != "ContainerCreating") or ended_badly:
                return ": ".join(part for part in (facts.get("reason"), facts.get("message")) if part)
    return ""


def _ago(moment: str, now: datetime) -> str:
    return f"{duration((now - datetime.fromisoformat(moment)).total_seconds())} ago"


def show_lines(cluster: Cluster, name: str) -> Iterator[str]:
    """All that is known of the job of this name. Raises JobNotFound."""
    job = jobs.get(cluster, name)
    return job_lines(job, jobs.pods(cluster, name), datetime.now(UTC))
