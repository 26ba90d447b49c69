"""Where the records of metrics.jsonl go besides: TensorBoard, Weights & Biases, Prometheus."""

import secrets
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from windlass import __version__
from windlass.errors import WindlassError
from windlass.spec.job import WeightsAndBiases
from windlass.training.recorder import Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Buckets of the histograms of time."""


def scalars(record: Record) -> dict[str, float]:
    """A record's numbers by name: train/loss, train/step_seconds/data, suites/arc/acc, ... Without what is null."""
    numbers: dict[str, float] = {
        f"suites/{score['task']}/{score['metric']}": score["value"] for score in record.get("scores", [])
    }
    for name, value in record.items():
        parts = {f"/{part}": number for part, number in value.items()} if isinstance(value, dict) else {"": value}
        for suffix, number in parts.items():
            if isinstance(number, int | float) and name != "step":
                numbers[f"{record['kind']}/{name}{suffix}"] = number
    return numbers


class TensorBoardSink:
    """Event files that TensorBoard shows. Steps that a resumed run does again replace those written before."""

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise _missing("spec.logging.tensorboard", "tensorboard")
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._last_step = -1

    def write(self, record: Record) -> None:
        """Numbers as scalars, samples as text."""
        step = record["step"]
        if self._writer is None or step < self._last_step:
            from torch.utils.tensorboard import SummaryWriter

            self.close()
            self._writer = SummaryWriter(self._folder, purge_step=step)
        self._last_step = step
        for name, number in scalars(record).items():
            self._writer.add_scalar(name, number, step)
        if record["kind"] == "sample":
            lines = (record["prompt"] + record["text"]).splitlines()
            self._writer.add_text("sample", "\n".join(f"    {line}" for line in lines), step)  # as code, in Markdown

    def close(self) -> None:
        """Write out what is buffered; TensorBoard does so every two minutes as well."""
        if self._writer is not None:
            self._writer.close()


class WandbSink:
    """A run of Weights & Biases, the same one when the job's run continues. Offline, it writes files only."""

    def __init__(self, settings: WeightsAndBiases, name: str, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("spec.logging.wandb", "wandb") from error
        try:
            self._run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                mode=settings.mode,
                name=name,
                id=_run_id(folder),
                resume="allow" if settings.mode == "online" else None,
                dir=folder,
                # Our logs are ours; no look at the git repository, the code or the host beyond what the run reports.
                settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
            )
        except wandb.errors.Error as error:
            raise WindlassError(
                "ConfigInvalid",
                f"Weights & Biases did not start: {error}. Set WANDB_API_KEY, or spec.logging.wandb.mode to offline.",
            ) from error
        self._teardown = wandb.teardown
        self._run.define_metric("*", step_metric="step")  # not wandb's own step, which refuses to go back

    def write(self, record: Record) -> None:
        """Numbers, and samples as text."""
        values: dict[str, float | str] = {"step": record["step"], **scalars(record)}
        if record["kind"] == "sample":
            values[f"sample/{record['prompt']}"] = record["prompt"] + record["text"]
        self._run.log(values)

    def close(self) -> None:
        """Wait until what is buffered has been written or sent: finish alone comes back before it has."""
        self._run.finish()
        self._teardown()


def _run_id(folder: Path) -> str:
    """Kept in the run folder, so that a run that continues is one run there as well."""
    file = folder / "wandb" / "run-id"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text()


def _missing(field: str, extra: str) -> WindlassError:
    return WindlassError("ConfigInvalid", f"{field} needs the extra {extra}: pip install 'windlass[{extra}]'.")


GAUGES = {
    "step": ("windlass_train_step", "Optimizer steps done in the whole run."),
    "epoch": ("windlass_train_epoch", "Passes over the training corpus in the whole run."),
    "loss": ("windlass_train_loss", "Training loss of the last step, nats per token."),
    "learning_rate": ("windlass_learning_rate", "Learning rate of the last step."),
    "gradient_norm": ("windlass_gradient_norm", "Global gradient norm of the last step, before clipping."),
    "mfu": ("windlass_mfu_ratio", "Share of the devices' peak FLOPs that the model uses."),
    "rewards/chosen": ("windlass_reward_chosen", "Mean reward of the last step's chosen answers, nats."),
    "rewards/rejected": ("windlass_reward_rejected", "Mean reward of the last step's rejected answers, nats."),
    "rewards/margins": ("windlass_reward_margin", "Mean of chosen less rejected rewards in the last step, nats."),
    "rewards/accuracies": ("windlass_reward_accuracy_ratio", "Share of the last step's pairs with a margin above 0."),
}
"""Fields of a training record that are shown as they are, where it has them, with the metric's name and meaning."""


STREAM = {
    "bytes_read": ("windlass_data_bytes_read", "Bytes of training data that came from remote storage."),
    "cache_hits": ("windlass_data_cache_hits", "Blocks of training data found in the machine's cache."),
    "cache_misses": ("windlass_data_cache_misses", "Blocks of training data fetched since the cache had none."),
    "retries": ("windlass_data_retries", "Reads of training data that were tried again."),
    "hedges": ("windlass_data_hedges", "Reads of training data asked for twice, since the first answer was late."),
    "verification_failures": ("windlass_data_verification_failures", "Blocks of data that did not match their hash."),
    "waited_seconds": ("windlass_data_waited_seconds", "How long steps waited for their batches."),
}
"""Counts of a training record's `stream`, with the counter's name and meaning."""


class PrometheusSink:
    """Metrics of one rank, served on 127.0.0.1 at a free port; docs/metrics.md lists them.

    Losses, norms and tokens are those of all ranks together, and equal on every rank; times are the rank's own. A job's
    name is the label `job` that prometheus.json gives to what is scraped, as Prometheus has it.
    """

    def __init__(self, rank: int, job: str) -> None:
        self._registry = CollectorRegistry()
        self._rank = str(rank)
        self._registry.register(_RankProcess(self._rank))
        info = Info("windlass_rank", "What runs here.", registry=self._registry)
        info.info({"name": job, "rank": self._rank, "version": __version__})

        self._of_step = {field: self._gauge(*texts) for field, texts in GAUGES.items()}
        self._validation_loss = self._gauge("windlass_validation_loss", "Last validation loss, nats per token.")
        self._suite_score = Gauge(
            "windlass_suite_score",
            "Last score of a benchmark suite, 0 to 1.",
            ["rank", "task", "metric"],
            registry=self._registry,
        )
        self._tokens = self._counter("windlass_tokens", "Tokens that all ranks trained on since this one started.")
        self._tokens_before = 0
        self._seconds = self._histogram("windlass_step_seconds", "Time of a step; the mean of those logged at once.")
        self._part_seconds = self._histogram("windlass_step_part_seconds", "Time of a part of a step.", "part")
        self._saves = self._counter("windlass_checkpoints", "Checkpoints committed since this rank started.")
        self._saved_step = self._gauge("windlass_checkpoint_step", "Step of the last committed checkpoint.")
        self._saved_at = self._gauge("windlass_checkpoint_timestamp_seconds", "When the last checkpoint was committed.")
        self._save_seconds = self._histogram("windlass_checkpoint_seconds", "From a checkpoint's start to its commit.")
        self._save_blocked = self._histogram(
            "windlass_checkpoint_blocked_seconds", "How long a checkpoint held steps up."
        )
        self._stream = {name: self._counter(*texts) for name, texts in STREAM.items()}
        self._stream_before = dict.fromkeys(STREAM, 0.0)
        # A counter starts at 0; a gauge is not there before its first value.
        for counter in (self._tokens, self._saves, *self._stream.values()):
            counter.labels(self._rank)

        self._server, self._thread = start_http_server(0, "127.0.0.1", self._registry)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def write(self, record: Record) -> None:
        """Show the record's numbers from now on."""
        match record["kind"]:
            case "train":
                self._write_step(record)
            case "validation":
                self._validation_loss.labels(self._rank).set(record["loss"])
            case "suites":
                for score in record["scores"]:
                    self._suite_score.labels(self._rank, score["task"], score["metric"]).set(score["value"])
            case "checkpoint":
                self._saves.labels(self._rank).inc()
                self._saved_step.labels(self._rank).set(record["step"])
                self._saved_at.labels(self._rank).set_to_current_time()
                self._save_seconds.labels(self._rank).observe(record["seconds"])
                self._save_blocked.labels(self._rank).observe(record["blocked_seconds"])

    def _write_step(self, record: Record) -> None:
        for field, gauge in self._of_step.items():
            if record.get(field) is not None:
                gauge.labels(self._rank).set(record[field])
        tokens = record["tokens"]
        if tokens <= self._tokens_before:  # the run went back to a checkpoint
            self._tokens_before = 0
        # What a run that continues did before is not this rank's.
        self._tokens.labels(self._rank).inc(tokens - (self._tokens_before or tokens - tokens // record["step"]))
        self._tokens_before = tokens
        for name, counter in self._stream.items():
            now = record["stream"].get(name, 0)  # examples are in memory: nothing is read
            before = self._stream_before[name]
            counter.labels(self._rank).inc(now - before if now >= before else now)  # a new stream begins at 0
            self._stream_before[name] = now
        for part, seconds in record["step_seconds"].items():
            if part == "total":
                self._seconds.labels(self._rank).observe(seconds)
            else:
                self._part_seconds.labels(self._rank, part).observe(seconds)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(name, meaning, ["rank"], registry=self._registry)

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, ["rank"], registry=self._registry)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return Histogram(name, meaning, ["rank", *labels], registry=self._registry, buckets=SECONDS)


class _RankProcess(Collector):
    """Memory, CPU time and open files of this process, with the rank: several share a pod's /metrics."""

    def __init__(self, rank: str) -> None:
        self._rank = rank
        self._process = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        for metric in self._process.collect():
            metric.samples = [sample._replace(labels=sample.labels | {"rank": self._rank}) for sample in metric.samples]
            yield metric
