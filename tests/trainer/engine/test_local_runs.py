"""Runs on this machine as people start them: real drivers, real Ray, real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import windlass
from windlass.engine.local import RunHandle, start_run
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob

MakeJob = Callable[..., LLMTrainingJob]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunHandle]]:
    """start_run in this test's own folder; whatever still runs at its end is killed."""
    handles: list[RunHandle] = []

    def start(job: LLMTrainingJob, **options: Any) -> RunHandle:
        handles.append(start_run(job, runs=tmp_path / "runs", **options))
        return handles[-1]

    yield start
    for handle in handles:
        handle.kill()


def wait_for_step(folder: Path, step: int) -> None:
    """Wait until a step has been logged."""
    until = time.monotonic() + 120
    while max((line["step"] for line in read_lines(RunFolder(folder).metrics)), default=-1) < step:
        assert time.monotonic() < until, log(folder)
        time.sleep(0.005)


def log(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "logs").glob("*.log")))


def rank_processes(handle: RunHandle) -> list[psutil.Process]:
    """The processes of the run's ranks under Ray."""
    mine = psutil.Process().children(recursive=True)
    return [process for process in mine if "RayTrainWorker" in "".join(process.cmdline())]


def messages(handle: RunHandle, kind: str) -> list[str]:
    return [event["message"] for event in read_lines(RunFolder(handle.folder).events) if event["kind"] == kind]


def test_a_rank_that_is_killed_is_recovered_without_being_asked_and_nothing_is_lost(
    start: Callable[..., RunHandle], ranks: Callable[..., Any], tiny_job: MakeJob, curve: Callable[[Path], Any]
) -> None:
    undisturbed = ranks("undisturbed", 2, "training.maxSteps=200")
    undisturbed.start()
    handle = start(tiny_job("workers.replicas=2", "training.maxSteps=200"))
    wait_for_step(handle.folder, 40)
    listening = [
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}, "a port is open to the network"
    rank_processes(handle)[1].kill()
    result = handle.wait(timeout=200)
    assert handle.exit_code == 0, log(handle.folder)
    assert any("RankFailed" in message for message in messages(handle, "phase"))
    undisturbed.wait()
    assert curve(handle.folder) == undisturbed.curve()
    assert result is not None
    assert result["status"] == "Succeeded"
    assert result["steps"] == 200
    assert not psutil.Process().children(recursive=True) or not rank_processes(handle)


def test_a_run_whose_every_process_is_killed_continues_with_the_same_command(
    tmp_path: Path, ranks: Callable[..., Any], tiny_job: MakeJob, curve: Callable[[Path], Any]
) -> None:
    undisturbed = ranks("undisturbed", 2, "training.maxSteps=200")
    undisturbed.start()
    (tmp_path / "job.yaml").write_text(tiny_job("workers.replicas=2", "training.maxSteps=200").to_yaml())
    command = [sys.executable, "-m", "windlass", "run", "job.yaml"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "tiny"
    wait_for_step(folder, 50)
    everyone = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in everyone:
        process.kill()
    psutil.wait_procs(everyone, timeout=20)
    first.wait()
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    undisturbed.wait()
    assert curve(folder) == undisturbed.curve()


def test_a_driver_that_is_killed_is_started_again(
    start: Callable[..., RunHandle], ranks: Callable[..., Any], tiny_job: MakeJob, curve: Callable[[Path], Any]
) -> None:
    undisturbed = ranks("undisturbed", 1, "training.maxSteps=300")
    undisturbed.start()
    handle = start(tiny_job("training.maxSteps=300"))
    wait_for_step(handle.folder, 40)
    [driver] = [child for child in psutil.Process().children() if "windlass.engine.driver" in child.cmdline()]
    driver.kill()
    handle.wait(timeout=120)
    assert handle.exit_code == 0, log(handle.folder)
    assert any("HeadLost" in message for message in messages(handle, "phase"))
    undisturbed.wait()
    assert curve(handle.folder) == undisturbed.curve()


def test_a_driver_that_hangs_is_started_again(start: Callable[..., RunHandle], tiny_job: MakeJob) -> None:
    long_steps = ("training.maxSteps=100000", "training.globalBatchSize=120")
    handle = start(tiny_job(*long_steps, "lifecycle.hangTimeoutSeconds=3"))
    wait_for_step(handle.folder, 10)
    [driver] = [child for child in psutil.Process().children() if "windlass.engine.driver" in child.cmdline()]
    driver.suspend()  # the clock of its watch goes on; the watch ends it before its next step says that it is alive
    time.sleep(4)
    driver.resume()
    until = time.monotonic() + 60
    while not any("HeadLost" in message for message in messages(handle, "phase")):
        assert time.monotonic() < until, log(handle.folder)
        time.sleep(0.05)
    handle.stop()
    assert handle.wait(timeout=60)["status"] == "Stopped"  # type: ignore[index]


def test_a_stopped_run_continues_and_a_finished_one_says_so(
    start: Callable[..., RunHandle], ranks: Callable[..., Any], tiny_job: MakeJob, curve: Callable[[Path], Any]
) -> None:
    job = tiny_job("training.maxSteps=300")
    undisturbed = ranks("undisturbed", 1, "training.maxSteps=300")
    undisturbed.start()
    handle = start(job)
    wait_for_step(handle.folder, 30)
    with pytest.raises(WindlassError, match=rf"tiny is in use by process {os.getpid()} on .*") as refused:
        start_run(job, runs=handle.folder.parent)
    assert refused.value.reason == "StorageInUse"
    handle.stop()
    stopped = handle.wait(timeout=60)
    assert stopped is not None
    assert (handle.exit_code, stopped["status"]) == (130, "Stopped")
    assert stopped["checkpoint"]["step"] == stopped["steps"] < 300

    again = start(job)
    assert again.wait(timeout=120)["status"] == "Succeeded"  # type: ignore[index]
    undisturbed.wait()
    assert curve(again.folder) == undisturbed.curve()

    assert start(job).finished_before
    with pytest.raises(WindlassError, match=r"spec\.training\.optimizer\.learningRate: was 0\.01, now 0\.5"):
        start(tiny_job("training.maxSteps=300", "training.optimizer.learningRate=0.5"))
    assert not start(tiny_job("training.maxSteps=5", "training.schedule.warmupSteps=0"), restart=True).finished_before


def test_a_second_interrupt_ends_every_process_at_once(start: Callable[..., RunHandle], tiny_job: MakeJob) -> None:
    handle = start(tiny_job("training.maxSteps=100000"))
    wait_for_step(handle.folder, 10)
    handle.kill()
    handle.wait(timeout=10)
    assert handle.exit_code == 130
    assert not [child for child in psutil.Process().children() if "windlass.engine.driver" in child.cmdline()]


def test_the_run_stops_with_a_checkpoint_when_the_process_that_started_it_is_killed(
    tmp_path: Path, tiny_job: MakeJob
) -> None:
    (tmp_path / "job.yaml").write_text(tiny_job("training.maxSteps=100000", "checkpoints.everySteps=90000").to_yaml())
    command = [sys.executable, "-m", "windlass", "run", "job.yaml"]
    starter = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "tiny"
    wait_for_step(folder, 10)
    [driver] = psutil.Process(starter.pid).children()
    starter.kill()
    starter.wait()
    psutil.wait_procs([driver], timeout=30)
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "Stopped"
    assert result["checkpoint"]["step"] == result["steps"] > 0


@pytest.mark.parametrize("file", ["*.distcp", "metrics.jsonl"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    ranks: Callable[..., Any], curve: Callable[[Path], Any], file: str
) -> None:
    undisturbed = ranks("undisturbed", 1)
    undisturbed.start()
    damaged = ranks("damaged", 1)
    damaged.start()
    damaged.stop(at_step=30)
    newest, before = sorted((damaged.folder / "checkpoints").glob("step-*"), reverse=True)[:2]
    [shard] = newest.glob(file)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    damaged.start()
    damaged.wait()
    warnings = [e["message"] for e in read_lines(RunFolder(damaged.folder).events) if e["kind"] == "warning"]
    assert any("is damaged, taking the one before" in message and "hash" in message for message in warnings)
    told = [e["message"] for e in read_lines(RunFolder(damaged.folder).events) if e["kind"] == "info"]
    assert any(f"step {int(before.name.split('-')[1])}" in message for message in told)
    undisturbed.wait()
    assert damaged.curve() == undisturbed.curve()


def test_a_full_disk_ends_the_run_with_its_reason_and_the_last_checkpoint_still_counts(
    tmp_path: Path, start: Callable[..., RunHandle], tiny_job: MakeJob
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk to fill needs root, to mount a tmpfs")
    try:
        job = tiny_job("training.maxSteps=600", f"checkpoints.uri={disk}/checkpoints", "checkpoints.keep=100")
        handle = start(job)
        with pytest.raises(WindlassError) as failure:
            handle.wait(timeout=60)
        assert failure.value.reason == "StorageFull", log(handle.folder)
        assert str(disk) in str(failure.value)
        assert handle.exit_code == 3
        assert handle.result is not None
        kept = handle.result["checkpoint"]["step"]
        assert kept > 0
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = start(job)
        told = f"Continuing from the checkpoint of step {kept}"
        assert any(told in str(event.get("message")) for event in again.events())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_two_runs_may_not_write_checkpoints_to_one_place(
    tmp_path: Path, start: Callable[..., RunHandle], tiny_job: MakeJob
) -> None:
    shared = f"checkpoints.uri={tmp_path}/shared"
    first = start(tiny_job(shared, "training.maxSteps=100000"))
    wait_for_step(first.folder, 5)
    other = tiny_job(shared)
    other.metadata.name = "other"
    with pytest.raises(WindlassError, match="shared is in use by process"):
        start(other, restart=True)
    second = start(other)
    with pytest.raises(WindlassError, match=f"shared is in use by process .* run tiny in {first.folder}"):
        second.wait(timeout=60)
    assert second.exit_code == 2


def test_a_run_does_not_continue_from_the_checkpoints_of_another_one(
    tmp_path: Path, start: Callable[..., RunHandle], tiny_job: MakeJob
) -> None:
    shared = f"checkpoints.uri={tmp_path}/shared"
    first = start(tiny_job(shared)).wait(timeout=60)
    assert first is not None
    second = start(tiny_job(shared, "metadata.name=other", "model.config.layers=1"))
    with pytest.raises(WindlassError, match=r"The run has changed .*: it was tiny, now it is other"):
        second.wait(timeout=60)
    assert second.exit_code == 2
    assert second.result is not None
    assert second.result["checkpoint"] == first["checkpoint"]


def test_other_data_than_the_checkpoint_was_trained_on_is_refused(
    tmp_path: Path, texts: Path, start: Callable[..., RunHandle], tiny_job: MakeJob
) -> None:
    own = tmp_path / "texts"
    own.mkdir()
    for file in texts.iterdir():
        (own / file.name).write_text(file.read_text())
    job = tiny_job("training.maxSteps=3000", f'data.prepare.sources=[{{"uri": "{own}/*.txt"}}]')
    handle = start(job)
    wait_for_step(handle.folder, 10)
    handle.stop()
    handle.wait(timeout=30)
    (own / "00.txt").write_text("another text " * 100)
    with pytest.raises(WindlassError, match="The corpus has changed since the checkpoint of step"):
        start(job).wait(timeout=60)


def test_a_notebook_runs_loads_and_generates(tmp_path: Path, tiny_job: MakeJob) -> None:
    job = tiny_job("checkpoints.export=HuggingFace")
    handle = windlass.run(job, runs=tmp_path / "runs")
    steps = [record["step"] for record in handle.events() if record["kind"] == "train"]
    assert steps == list(range(1, 61))
    assert handle.latest is not None
    assert handle.latest["step"] == 60
    assert handle.result is not None
    assert handle.result["status"] == "Succeeded"
    assert handle.generate("the ", max_new_tokens=8, seed=1) == handle.generate("the ", max_new_tokens=8, seed=1)
    model, tokenizer = windlass.load(handle.folder)
    assert model.config.layers == 2
    assert tokenizer.name == "bytes"
    assert (handle.folder / "export" / "model.safetensors").exists()
    assert (handle.folder / "report.html").exists()


def test_the_driver_stops_on_sigterm_with_a_checkpoint(start: Callable[..., RunHandle], tiny_job: MakeJob) -> None:
    handle = start(tiny_job("training.maxSteps=100000", "checkpoints.everySteps=90000"))
    wait_for_step(handle.folder, 10)
    [driver] = [child for child in psutil.Process().children() if "windlass.engine.driver" in child.cmdline()]
    driver.send_signal(signal.SIGTERM)
    result = handle.wait(timeout=30)
    assert result is not None
    assert result["status"] == "Stopped"
    assert result["checkpoint"]["step"] == result["steps"] > 0
