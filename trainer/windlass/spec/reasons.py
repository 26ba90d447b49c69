"""Why a job waits, retries or fails: the one table of reasons, used in conditions, events, metrics and exit messages.

To add a reason, add a row here; the documentation page and the exit codes follow from it.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["Infrastructure", "User", "Waiting", "End"]


@dataclass(frozen=True)
class Reason:
    """What one reason means and what a person does about it."""

    kind: Kind
    meaning: str
    remedy: str
    bad_input: bool = False
    """True where the job file, its data or its access is wrong (exit code 2); False where training failed (3)."""


REASONS: dict[str, Reason] = {
    # Infrastructure: retried from the last checkpoint.
    "RankFailed": Reason(
        "Infrastructure", "A rank died by a signal or lost its connection.", "Retried by itself; see logs/rank-N.log."
    ),
    "HeadLost": Reason("Infrastructure", "The driver's process or pod is gone.", "Retried by itself."),
    "NodeLost": Reason("Infrastructure", "A machine stopped answering.", "Retried by itself on another one."),
    "Evicted": Reason("Infrastructure", "A pod was evicted.", "Retried by itself after a checkpoint."),
    "Preempted": Reason("Infrastructure", "A job of higher priority took the place.", "Continues when there is room."),
    "Hang": Reason("Infrastructure", "No step for hangTimeoutSeconds.", "Stacks are in the logs; retried by itself."),
    "StorageUnavailable": Reason(
        "Infrastructure", "The storage did not answer for minutes.", "Check endpoint and network, then run again."
    ),
    "CheckpointCorrupt": Reason(
        "Infrastructure", "A checkpoint's files are damaged.", "The one before it is taken by itself."
    ),
    # User: fails with the message a person needs.
    "ConfigInvalid": Reason("User", "The job file is wrong.", "Correct the fields that the message names.", True),
    "DataNotFound": Reason("User", "A source, corpus or file is not there.", "Correct the URI.", True),
    "DataCorrupt": Reason("User", "Data does not match its hash or cannot be read.", "Prepare the corpus again.", True),
    "AccessDenied": Reason(
        "User", "The storage or the cluster refused the credentials.", "Check the keys and the policy.", True
    ),
    "StorageFull": Reason("User", "No space is left where the run writes.", "Free space and run again."),
    "OutOfMemory": Reason("User", "A process needed more memory than there is.", "Lower microBatchSize."),
    "GpuOutOfMemory": Reason(
        "User", "The GPU's memory is too small.", "Lower microBatchSize or use activationCheckpointing."
    ),
    "NonFiniteLoss": Reason("User", "The loss became NaN or infinite.", "Lower learningRate or use BF16."),
    "UserError": Reason("User", "The job's own code raised an error.", "See the traceback in logs/."),
    "StorageInUse": Reason("User", "Another run writes there.", "Wait for it, stop it, or use another name.", True),
    "JudgeUnavailable": Reason(
        "User", "The model that judges answers was not to be reached for minutes.", "Run again; judgements are kept."
    ),
    # User, of commands for clusters only.
    "JobNotFound": Reason("User", "The cluster has no job of this name.", "Check name, namespace and context.", True),
    "ClusterUnavailable": Reason(
        "User", "No cluster with Windlass answers.", "Check kubeconfig and network; install the chart.", True
    ),
    # Waiting: neither failed nor retried.
    "Unschedulable": Reason("Waiting", "No node has room for a pod.", "Ask for less or add nodes."),
    "ImagePullFailed": Reason("Waiting", "An image cannot be pulled.", "Check its name and the pull secret."),
    "PodRefused": Reason(
        "Waiting", "The cluster does not allow a pod: a quota or a security policy.", "Ask for less, or have it raised."
    ),
    "ReferenceMissing": Reason("Waiting", "A Secret, ConfigMap or volume is missing.", "Create it."),
    # The end.
    "DeadlineExceeded": Reason("End", "activeDeadlineSeconds are over.", "Raise the deadline."),
    "RestartsExhausted": Reason("End", "The budget of restarts is used up.", "Read the last failures."),
}
