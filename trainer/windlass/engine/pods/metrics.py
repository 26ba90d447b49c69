"""The job's progress as Prometheus reads it, from the head."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from windlass.engine.pods.progress import RunView

GAUGES = {
    "step": ("windlass_job_step", "Optimizer steps done."),
    "max_steps": ("windlass_job_max_steps", "Optimizer steps at the end."),
    "tokens": ("windlass_job_tokens", "Training tokens seen."),
    "loss": ("windlass_job_loss", "Training loss of the last logged step, nats per token."),
    "validation_loss": ("windlass_job_validation_loss", "Last validation loss, nats per token."),
    "tokens_per_second": ("windlass_job_tokens_per_second", "Speed of all ranks together."),
    "mfu": ("windlass_job_mfu_ratio", "Share of the devices' peak FLOPs that the model uses."),
    "step_seconds": ("windlass_job_step_seconds", "Seconds a step takes."),
    "remaining_seconds": ("windlass_job_remaining_seconds", "Estimate of the seconds until the end."),
}


def text(view: RunView, joined: int) -> str:
    """All gauges, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Gauges(view, joined))
    return generate_latest(registry).decode()


class _Gauges(Collector):
    def __init__(self, view: RunView, joined: int) -> None:
        self._view = view
        self._joined = joined

    def collect(self) -> Iterator[GaugeMetricFamily]:
        view = self._view
        progress, checkpoint = view.progress(), view.checkpoint()
        for field, (name, meaning) in GAUGES.items():
            if (value := getattr(progress, field, None)) is not None:
                yield GaugeMetricFamily(name, meaning, value=value)
        if checkpoint is not None:
            yield GaugeMetricFamily("windlass_job_checkpoint_step", "Step of the newest checkpoint.", checkpoint.step)
        yield GaugeMetricFamily("windlass_job_workers_joined", "Workers that are there.", self._joined)
        yield GaugeMetricFamily("windlass_job_restarts", "Restarts within this attempt.", view.restarts)
        phase = GaugeMetricFamily("windlass_job_phase", "1 for the phase that the job is in.", labels=["phase"])
        phase.add_metric([view.phase["phase"]], 1)
        yield phase
