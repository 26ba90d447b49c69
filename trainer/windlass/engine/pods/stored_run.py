"""A run in object storage, beside its checkpoints: what is kept of its folder, and what a new head takes back."""

import contextlib
import json

from windlass.engine.run_folder import RunFolder, write_json
from windlass.spec.job import LLMTrainingJob
from windlass.storage import PATIENCE, Storage, shown

FILES = (
    *("job.yaml", "plan.json", "base.json", "environment.json", "baseline.json", "events.jsonl", "metrics.jsonl"),
    *("result.json", "report.html"),
)
FOLDERS = ("tokenizer", "export", "tensorboard")


def keep_run(run: RunFolder, job: LLMTrainingJob, patience: float = PATIENCE) -> None:
    """Copy the run's files to the checkpoints' URI, as far as they are there yet; `patience` as of `Storage`."""
    storage = Storage(run.checkpoints_uri(job), patience)
    paths = [run.path / name for name in FILES]
    paths += [path for folder in FOLDERS for path in sorted((run.path / folder).rglob("*")) if path.is_file()]
    for path in paths:
        if path.exists():
            storage.upload(path, str(path.relative_to(run.path)))


def fetch_history(run: RunFolder, job: LLMTrainingJob) -> None:
    """Take what earlier attempts have left: the baseline, the newest checkpoint's whereabouts and its metrics."""
    from windlass.training.commits import CommitLog

    storage = Storage(run.checkpoints_uri(job))
    with contextlib.suppress(FileNotFoundError):
        write_json(run.baseline, json.loads(storage.read("baseline.json")))
    commits = CommitLog(storage).valid_commits()
    if not commits:
        return
    newest = commits[0]
    uri = f"{shown(storage.uri).rstrip('/')}/{newest.folder}"
    write_json(run.checkpoint, {"step": newest.step, "uri": uri, "committedAt": newest.time})
    if not run.metrics.exists():
        run.metrics.write_bytes(storage.read(f"{newest.folder}/metrics.jsonl"))
