"""The head's last word: how the run ended, for the operator, in the container's termination message."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.engine.pods.pod import Pod
from windlass.engine.pods.progress import RunView, plain
from windlass.engine.run_folder import read_json
from windlass.errors import DONE, FAILED, INTERRUPTED
from windlass.spec.job import LLMTrainingJob
from windlass.spec.reasons import REASONS

MOST_BYTES = 4096
"""What Kubernetes keeps of a termination message."""


@dataclass(frozen=True)
class End:
    """How this pod's part of the run ended."""

    exit_code: int
    over: bool
    """Whether no other head will go on with it."""


def write_termination(pod: Pod, view: RunView, job: LLMTrainingJob, code: int, *, stopped: bool) -> End:
    """Write the message; `code` is the driver's exit code, `stopped` whether it was asked to stop."""
    result = read_json(view.run.result) or {}
    status = {DONE: "Succeeded", INTERRUPTED: "Stopped"}.get(code, "Stopped" if stopped and code < 0 else "Failed")
    failure = view.phase if status == "Failed" else {}
    reason = failure.get("reason", "HeadLost") if status == "Failed" else None
    uri = view.run.checkpoints_uri(job).rstrip("/")
    final = {"loss": "loss", "validationLoss": "validation_loss"}
    metrics = {
        name: result["final"][key] for name, key in final.items() if result.get("final", {}).get(key) is not None
    }
    message = {
        "status": status,
        "reason": reason,
        "message": failure.get("message", "").removeprefix(f"{reason}: ") or None,
        "result": {"uri": f"{uri}/export" if job.spec.checkpoints.export == "HuggingFace" else uri, "metrics": metrics}
        if status == "Succeeded"
        else None,
        "checkpoint": plain(view.checkpoint()),
        "progress": plain(view.progress()),
        "restarts": view.restarts,
        "failures": [plain(failure) for failure in view.failures()],
    }
    Path(os.environ.get("WINDLASS_TERMINATION_LOG", "/dev/termination-log")).write_bytes(_fitted(message))
    infrastructure = reason is not None and REASONS[reason].kind == "Infrastructure"
    exit_code = {"Succeeded": DONE, "Stopped": INTERRUPTED}.get(status, code if code > 0 else FAILED)
    return End(exit_code, over=status == "Succeeded" or (status == "Failed" and not infrastructure))


def _fitted(message: dict[str, Any]) -> bytes:
    """The message as JSON, with what matters least left out until it is short enough."""
    while len(text := json.dumps(message, ensure_ascii=False).encode()) > MOST_BYTES:
        failures = message["failures"]
        if lines := [failure for failure in failures if failure.get("lastLogLines")]:
            longest = max(lines, key=lambda failure: len(str(failure["lastLogLines"])))
            longest["lastLogLines"] = longest["lastLogLines"][(len(longest["lastLogLines"]) + 1) // 2 :]
        elif failures:
            del failures[0]
        else:
            message["message"] = message["message"][: len(message["message"]) // 2]
    return text
