"""A pod's first process, before it has loaded what it needs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("role", ["head", "worker", "cleanup"])
def test_a_pod_that_is_deleted_while_it_still_imports_ends_at_once(role: str, tmp_path: Path) -> None:
    # As process 1 of a container, it would not even see a signal without a handler.
    (tmp_path / "pydantic.py").write_text("import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "windlass.engine.pods", role],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    while not (tmp_path / "importing").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
