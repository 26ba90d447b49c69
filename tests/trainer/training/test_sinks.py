"""Each sink takes the records of metrics.jsonl to where people look: checked with the readers that they use."""

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from windlass.errors import WindlassError
from windlass.spec.job import WeightsAndBiases
from windlass.training.recorder import Record, Recorder, Sink
from windlass.training.sinks import STREAM, PrometheusSink, TensorBoardSink, WandbSink, scalars


def train(step: int, **changes: Any) -> Record:
    seconds = {"total": 0.3, "data": 0.01, "forward_backward": 0.2, "optimizer": 0.05, "checkpoint": 0.0}
    return {
        "kind": "train",
        "step": step,
        "loss": 8 / (step + 1),
        "learning_rate": 1e-3,
        "gradient_norm": 1.5,
        "tokens": step * 512,
        "epoch": step / 100,
        "tokens_per_second": 1706.7,
        "mfu": None,
        "step_seconds": seconds,
        "stream": dict.fromkeys(STREAM, 0) | {"bytes_read": 1000 * step, "waited_seconds": 0.5 * step},
    } | changes


VALIDATION = {"kind": "validation", "step": 2, "loss": 3.25, "tokens": 4096, "seconds": 0.5}
SAMPLE = {"kind": "sample", "step": 2, "prompt": "def f(", "text": "x):\n    return <b>x</b>"}
SUITES = {
    "kind": "suites",
    "step": 2,
    "scores": [{"task": "arc_easy", "metric": "acc", "value": 0.25, "is_part": False}],
    "seconds": 1.5,
}
CHECKPOINT = {"kind": "checkpoint", "step": 2, "seconds": 0.75, "blocked_seconds": 0.02}
RECORDS: list[Record] = [train(1), train(2), VALIDATION, SAMPLE, SUITES, CHECKPOINT, train(3)]


def send(sink: Sink, records: list[Record] = RECORDS) -> None:
    recorder = Recorder(None, [sink])
    for record in records:
        recorder.write(record)


def test_scalars_are_a_records_numbers_by_name() -> None:
    numbers = scalars(train(3))
    assert numbers["train/loss"] == 2
    assert numbers["train/step_seconds/forward_backward"] == 0.2
    assert "train/mfu" not in numbers
    assert scalars(VALIDATION) == {"validation/loss": 3.25, "validation/tokens": 4096, "validation/seconds": 0.5}
    assert scalars(SAMPLE) == {}
    assert scalars(SUITES) == {"suites/arc_easy/acc": 0.25, "suites/seconds": 1.5}


def read_events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def steps(events: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_shows_numbers_and_samples(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    send(sink)
    sink.close()
    events = read_events(tmp_path)
    assert steps(events, "train/loss") == [(1, 4), (2, pytest.approx(8 / 3)), (3, 2)]
    assert steps(events, "validation/loss") == [(2, 3.25)]
    assert b"def f(x):" in events.Tensors("sample/text_summary")[0].tensor_proto.string_val[0]


def test_tensorboard_shows_a_step_done_again_once(tmp_path: Path) -> None:
    killed = TensorBoardSink(tmp_path)
    send(killed, [train(step, loss=1.0) for step in (1, 2, 3)])
    killed.close()
    resumed = TensorBoardSink(tmp_path)
    send(resumed, [train(step, loss=2.0) for step in (2, 3, 4)])
    send(resumed, [train(3, loss=3.0)])  # a roll-back
    resumed.close()
    assert steps(read_events(tmp_path), "train/loss") == [(1, 1), (2, 2), (3, 3)]


def test_wandb_offline_writes_files_and_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")  # whoever asks the network gets an error
    sink = WandbSink(WeightsAndBiases(project="tests", mode="offline"), "demo", tmp_path)
    send(sink)
    sink.close()
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    for text in (b"train/loss", b"validation/loss", b"def f("):
        assert text in content


def test_wandb_continues_the_same_run(tmp_path: Path) -> None:
    for _ in range(2):
        WandbSink(WeightsAndBiases(project="tests", mode="offline"), "demo", tmp_path).close()
    names = {file.name for file in tmp_path.glob("wandb/offline-run-*/*.wandb")}
    assert len(names) == 1


def test_wandb_without_a_key_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(WindlassError, match=r"WANDB_API_KEY, or spec\.logging\.wandb\.mode to offline") as caught:
        WandbSink(WeightsAndBiases(project="tests"), "demo", tmp_path)
    assert caught.value.reason == "ConfigInvalid"


@pytest.fixture
def prometheus_sink() -> Iterator[PrometheusSink]:
    sink = PrometheusSink(rank=1, job="demo")
    yield sink
    sink.close()


def fetch(address: str, path: str, **query: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}?{urllib.parse.urlencode(query)}", timeout=10) as response:
        return str(response.read().decode())


def samples(sink: PrometheusSink) -> dict[str, float]:
    lines = (line for line in fetch(sink.address, "/metrics").splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_prometheus_serves_on_this_machine_only(prometheus_sink: PrometheusSink) -> None:
    assert prometheus_sink.address.startswith("127.0.0.1:")


def test_prometheus_shows_the_last_of_everything(prometheus_sink: PrometheusSink) -> None:
    send(prometheus_sink)
    shown = samples(prometheus_sink)
    assert shown['windlass_train_step{rank="1"}'] == 3
    assert shown['windlass_train_loss{rank="1"}'] == 2
    assert shown['windlass_validation_loss{rank="1"}'] == 3.25
    assert shown['windlass_tokens_total{rank="1"}'] == 3 * 512
    assert shown['windlass_step_seconds_count{rank="1"}'] == 3
    assert shown['windlass_step_part_seconds_sum{part="forward_backward",rank="1"}'] == pytest.approx(0.6)
    assert shown['windlass_checkpoints_total{rank="1"}'] == 1
    assert shown['windlass_checkpoint_step{rank="1"}'] == 2


def test_prometheus_does_not_show_what_has_no_value_yet(prometheus_sink: PrometheusSink) -> None:
    send(prometheus_sink, [train(1)])
    names = " ".join(samples(prometheus_sink))
    assert "windlass_validation_loss" not in names
    assert "windlass_mfu_ratio" not in names
    assert "windlass_reward" not in names


def test_rewards_of_a_step_are_shown_where_pairs_are_learned_from() -> None:
    rewards = {"rewards/chosen": 0.5, "rewards/rejected": -1.0, "rewards/margins": 1.5, "rewards/accuracies": 0.75}
    record = train(1) | rewards
    assert {name: scalars(record)[f"train/{name}"] for name in rewards} == rewards
    with closing(PrometheusSink(rank=1, job="demo")) as sink:
        send(sink, [record])
        shown = samples(sink)
    names = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy_ratio")
    assert [shown[f'windlass_{name}{{rank="1"}}'] for name in names] == [0.5, -1.0, 1.5, 0.75]


def test_prometheus_counts_the_tokens_of_this_rank_s_life_only(prometheus_sink: PrometheusSink) -> None:
    send(prometheus_sink, [train(101), train(102), train(100)])  # continued at step 100, then rolled back
    assert samples(prometheus_sink)['windlass_tokens_total{rank="1"}'] == 3 * 512


def test_prometheus_counts_what_the_stream_took_though_it_begins_anew(prometheus_sink: PrometheusSink) -> None:
    send(prometheus_sink, [train(1), train(3), train(2)])  # rolled back, with a new stream
    shown = samples(prometheus_sink)
    assert shown['windlass_data_bytes_read_total{rank="1"}'] == 3000 + 2000
    assert shown['windlass_data_waited_seconds_total{rank="1"}'] == 2.5
    assert shown['windlass_data_retries_total{rank="1"}'] == 0


def test_prometheus_shows_a_loss_that_is_not_finite(prometheus_sink: PrometheusSink) -> None:
    send(prometheus_sink, [train(1, loss=math.nan)])
    assert math.isnan(samples(prometheus_sink)['windlass_train_loss{rank="1"}'])


def test_promtool_finds_nothing_wrong_with_the_metrics(prometheus_sink: PrometheusSink) -> None:
    promtool = program("promtool")
    send(prometheus_sink)
    metrics = fetch(prometheus_sink.address, "/metrics")
    check = subprocess.run([promtool, "check", "metrics"], input=metrics, capture_output=True, text=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_a_real_prometheus_scrapes_the_ranks_that_prometheus_json_lists(tmp_path: Path) -> None:
    program("prometheus")
    sinks = [PrometheusSink(rank=rank, job="demo") for rank in (0, 1)]
    for sink in sinks:
        send(sink)
    targets = [{"targets": [sink.address for sink in sinks], "labels": {"job": "demo"}}]
    (tmp_path / "prometheus.json").write_text(json.dumps(targets))
    with running_prometheus(tmp_path) as address:
        found = until_found(address, "windlass_train_loss", series=2)
    assert {(series["metric"]["job"], series["metric"]["rank"]) for series in found} == {("demo", "0"), ("demo", "1")}
    assert {series["value"][1] for series in found} == {"2"}
    for sink in sinks:
        sink.close()


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian's package prometheus has it)")
    return path


@contextmanager
def running_prometheus(folder: Path) -> Iterator[str]:
    """Address of a Prometheus that reads prometheus.json of a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        "scrape_configs: [{job_name: windlass, file_sd_configs: [{files: [prometheus.json]}]}]\n"
    )
    command = [program("prometheus"), f"--config.file={config}", f"--web.listen-address={address}"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stderr=log) as process:
        try:
            yield address
        finally:
            process.terminate()


def until_found(address: str, query: str, series: int) -> list[dict[str, Any]]:
    """The query's series, once there are so many."""
    deadline = time.monotonic() + 60
    while True:
        try:
            found = json.loads(fetch(address, "/api/v1/query", query=query))["data"]["result"]
        except OSError:  # not up yet
            found = []
        if len(found) == series:
            return list(found)
        assert time.monotonic() < deadline, f"{query} is still {found} after a minute"
        time.sleep(0.1)
