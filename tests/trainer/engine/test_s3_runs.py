"""A run whose corpus and checkpoints are in object storage outlives the store's bad minutes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass.engine.local import RunHandle, start_run
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob

MakeJob = Callable[..., LLMTrainingJob]


@pytest.fixture
def store(s3_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A bucket of this test's server, which it may kill; its blocks are cached in this test's folder."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WINDLASS_CACHE", str(tmp_path / "cache"))
    yield s3_server.bucket()
    s3_server.start()


def in_bucket(bucket: str) -> tuple[str, ...]:
    return (f'data.train=[{{"uri": "{bucket}/corpus"}}]', f"checkpoints.uri={bucket}/checkpoints")


def last_step(handle: RunHandle, kind: str) -> int:
    lines = read_lines(RunFolder(handle.folder).metrics)
    return max((line["step"] for line in lines if line["kind"] == kind), default=0)


def wait_for(condition: Callable[[], bool], handle: RunHandle) -> None:
    until = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < until
        assert handle.exit_code is None, (handle.folder / "logs" / "rank-0.log").read_text()
        time.sleep(0.02)


def test_the_store_dies_and_returns_in_mid_run_and_the_losses_are_those_of_a_run_on_disk(
    tmp_path: Path,
    store: str,
    s3_server: Any,
    ranks: Callable[..., Any],
    tiny_job: MakeJob,
    curve: Callable[[Path], Any],
) -> None:
    on_disk = ranks("disk", 1, "training.maxSteps=600")
    on_disk.start()
    handle = start_run(tiny_job("training.maxSteps=600", *in_bucket(store)), runs=tmp_path / "runs")
    wait_for(lambda: last_step(handle, "checkpoint") > 0, handle)
    s3_server.kill()
    down_at = last_step(handle, "train")
    wait_for(lambda: last_step(handle, "train") > down_at + 20, handle)
    saved = last_step(handle, "checkpoint")
    s3_server.start()
    wait_for(lambda: last_step(handle, "checkpoint") > saved, handle)
    handle.stop()
    stopped = handle.wait(timeout=60)
    assert stopped is not None
    assert stopped["checkpoint"] == {
        "step": stopped["steps"],
        "uri": f"{store}/checkpoints/step-{stopped['steps']:08d}-attempt-000001",
    }

    again = start_run(tiny_job("training.maxSteps=600", *in_bucket(store)), runs=tmp_path / "runs")
    result = again.wait(timeout=200)
    assert result is not None
    assert result["status"] == "Succeeded"
    on_disk.wait()
    assert curve(again.folder) == on_disk.curve()


def test_a_wrong_key_ends_the_run_with_one_clear_line(
    tmp_path: Path, store: str, tiny_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-key")
    handle = start_run(tiny_job(*in_bucket(store)), runs=tmp_path / "runs")
    with pytest.raises(WindlassError) as failure:
        handle.wait(timeout=100)
    assert failure.value.reason == "AccessDenied"
    assert handle.exit_code == 2
    assert len(str(failure.value).splitlines()) == 1
    assert store in str(failure.value)
    assert "not-the-key" not in str(failure.value)
