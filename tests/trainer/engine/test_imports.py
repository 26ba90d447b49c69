"""What processes import that a run waits for."""

import subprocess
import sys

import pytest

FIRST = [
    "windlass.cli.main",
    "windlass.engine.driver",
    "windlass.engine.ray_local",
    "windlass.engine.pods.driver",
    "windlass.engine.pods.head",
    "windlass.engine.pods.ray_node",
    "windlass.engine.pods.server",
    "windlass.engine.pods.worker",
    "windlass.engine.pods.worker_server",
]


@pytest.mark.parametrize("module", FIRST)
def test_processes_that_start_a_run_import_no_pytorch(module: str) -> None:
    """It takes two seconds of a core each time, and there may be one core for ten of them."""
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
