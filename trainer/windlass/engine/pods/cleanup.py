"""Deletes what a job has written to its storage, once the job is being deleted: checkpoints.onDelete: Delete.

    python -m windlass.engine.pods cleanup

That is all under checkpoints.uri that runs write there. A corpus may serve other jobs, so it stays.
"""

import logging
import os

from windlass.engine.pods.stored_run import FILES, FOLDERS
from windlass.errors import DONE, WindlassError
from windlass.lock import LEASE, LOCK
from windlass.spec.job import LLMTrainingJob
from windlass.storage import Storage, shown

logger = logging.getLogger(__name__)

WRITTEN = ("attempts/", "step-", "examples/", LEASE, LOCK, *FILES, *(f"{folder}/" for folder in FOLDERS))
"""How the names of all that a run writes under checkpoints.uri begin."""


def delete_run(uri: str) -> int:
    """Delete a run's files, and nothing else that may be there; returns how many."""
    storage = Storage(uri)
    files = [name for name in storage.list() if name.startswith(WRITTEN)]
    for name in sorted({file.split("/")[0] for file in files}):
        storage.delete(name)
    return len(files)


def main() -> int:
    """Delete; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    job = LLMTrainingJob.model_validate_json(os.environ["WINDLASS_JOB"])
    uri = job.spec.checkpoints.uri
    if uri is None:
        logger.info("The job has no storage of its own.")
        return DONE
    try:
        logger.info("Deleted %d files of the job in %s", delete_run(uri), shown(uri))
    except WindlassError as error:
        logger.error("%s: %s", error.reason, error)
        return error.exit_code
    return DONE
