"""result.json and report.html: how a run ended."""

import logging
from typing import Any

from windlass.engine.run_folder import RunFolder, last, read_json, read_lines, write_json
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob
from windlass.storage import Storage, shown
from windlass.training.commits import CommitLog

logger = logging.getLogger(__name__)


def write_result(
    run: RunFolder, job: LLMTrainingJob, status: str, seconds: float, error: WindlassError | None = None
) -> dict[str, Any]:
    """Write result.json and report.html from the run folder's other files; returns the result.

    `seconds` are those of this start of the run; earlier ones are added from the result they left.
    """
    plan = read_json(run.plan) or {}
    records = list(read_lines(run.metrics))
    train, validation = last(records, "train"), last(records, "validation")
    before = read_json(run.result) or {}
    result = {
        "name": run.name,
        "status": status,
        "reason": error.reason if error else None,
        "message": str(error) if error else None,
        "steps": train.get("step", 0),
        "total_steps": plan.get("steps"),
        "tokens": train.get("tokens", 0),
        "seconds": round(seconds + before.get("seconds", 0.0), 1),
        "final": {"loss": train.get("loss"), "validation_loss": validation.get("loss")},
        "baseline": read_json(run.baseline),
        "checkpoint": _newest_checkpoint(run.checkpoints_uri(job)),
        "classification": {
            split: {name: value for name, value in found.items() if name not in ("kind", "time")}
            for split in ("validation", "test")
            if (found := last([record for record in records if record.get("split") == split], "classification"))
        }
        or None,
        "preference": {
            name: value for name, value in last(records, "preference").items() if name not in ("kind", "time")
        }
        or None,
        "suites": last(records, "suites").get("scores"),
        "samples": [
            {key: record[key] for key in ("step", "prompt", "text")} for record in records if record["kind"] == "sample"
        ],
        "base": _base(run),
        "parameters": plan.get("parameters"),
        "strategy": plan.get("strategy"),
        "precision": plan.get("precision"),
        "world_size": plan.get("batching", {}).get("world_size"),
        "environment": read_json(run.environment),
    }
    write_json(run.result, result)
    from windlass.evaluation.report import write_report  # its charts take most of a second to import

    write_report(run.path)
    return result


def _base(run: RunFolder) -> dict[str, Any] | None:
    base = read_json(run.base)
    return base and {name: base[name] for name in ("uri", "checkpoint", "identity")}


def _newest_checkpoint(uri: str) -> dict[str, Any] | None:
    try:
        commits = CommitLog(Storage(uri, patience=10)).valid_commits()
    except WindlassError as error:
        logger.warning("Cannot list the checkpoints: %s", error)
        return None
    return {"step": commits[0].step, "uri": f"{shown(uri)}/{commits[0].folder}"} if commits else None
