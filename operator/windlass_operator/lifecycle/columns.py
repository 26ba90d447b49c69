"""The texts of `kubectl get`'s columns."""

from windlass.spec.status import Columns, JobStatus


def columns(status: JobStatus) -> Columns:
    """Rounded for people. Speed and time left are those of a job that trains now."""
    progress, goodput, workers = status.progress, status.goodput, status.workers
    texts = Columns(
        workers=f"{workers.ready}/{workers.desired}",
        restarts=str(status.restarts.infrastructure + status.restarts.user),
        goodput=None if goodput is None else f"{goodput.ratio:.0%}",
    )
    if progress is None:
        return texts
    if progress.max_steps:
        texts.progress = f"{min(100, 100 * progress.step // progress.max_steps)}%"
    if progress.loss is not None:
        texts.loss = f"{progress.loss:.3f}"
    if status.phase == "Running":
        texts.tokens_per_second = None if progress.tokens_per_second is None else _count(progress.tokens_per_second)
        texts.remaining = None if progress.remaining_seconds is None else _duration(progress.remaining_seconds)
        texts.mfu = None if progress.mfu is None else f"{progress.mfu:.0%}"
    return texts


def _count(number: float) -> str:
    """In three digits: 950, 31.2k, 1.64M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.3g}"


def _duration(seconds: float) -> str:
    """In the two largest units: 42s, 3m05s, 2h10m, 4d03h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
