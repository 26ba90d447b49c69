"""The pod that this process is in, as the operator describes it in the environment."""

import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from windlass.engine.run_folder import RunFolder


@dataclass(frozen=True)
class Pod:
    """One pod of a job. Several can share a machine for tests: with addresses, folders and ports of their own."""

    job: str
    namespace: str
    uid: str
    """The job's."""
    name: str
    ip: str
    node: str
    token: str
    """What requests to the head must show, and Ray's processes to each other."""
    http_port: int
    ray_port: int
    """Of Ray's control store, in the head."""

    @classmethod
    def here(cls) -> "Pod":
        get = os.environ.get
        token_file = Path(get("WINDLASS_TOKEN_FILE", "/var/run/windlass/token"))
        return cls(
            job=os.environ["WINDLASS_JOB_NAME"],
            namespace=os.environ["WINDLASS_NAMESPACE"],
            uid=os.environ["WINDLASS_JOB_UID"],
            name=get("POD_NAME") or socket.gethostname(),
            ip=os.environ["POD_IP"],
            node=get("NODE_NAME", ""),
            token=token_file.read_text(encoding="utf-8").strip(),
            http_port=int(get("WINDLASS_HTTP_PORT", "8080")),
            ray_port=int(get("WINDLASS_RAY_PORT", "6379")),
        )

    @property
    def run(self) -> RunFolder:
        """The run's folder in this pod. The head's is the run's; a worker's has one for each start of its ranks."""
        return RunFolder(Path(tempfile.gettempdir()) / "run" / self.job)

    @property
    def interface(self) -> str | None:
        """The network interface that has the pod's address."""
        if self.ip.startswith("127."):
            return "lo"
        addresses = psutil.net_if_addrs().items()
        return next((name for name, its in addresses if any(one.address == self.ip for one in its)), None)


def fit_folder(run: RunFolder, fit: str) -> RunFolder:
    """The folder of one start of the ranks, in a worker's run folder."""
    return RunFolder(run.path / "fits" / fit)
