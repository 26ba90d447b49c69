"""`windlass logs`: what a job's pods print, each line after the name of its pod; or the lines of one rank."""

import re
import threading
from typing import Any

from windlass.cli.cluster import jobs
from windlass.cli.cluster.connection import Cluster, Object
from windlass.cli.cluster.following import ENDS, phase
from windlass.cli.cluster.status import waits_for
from windlass.cli.show import printable, warn, write
from windlass.errors import DONE, WindlassError

LOOK_AGAIN_SECONDS = 2.0
"""Between looks for pods that are new, while following."""
_RANK = re.compile(r"^\[rank (\d+)\] ")
"""What a worker's supervisor writes before the lines of a rank."""


def logs(cluster: Cluster, name: str, *, rank: int | None, head: bool, follow: bool, tail: int | None) -> int:
    """Print the logs of a job's pods, or of its head or one rank; with `follow`, until the job has ended.

    Raises:
        WindlassError: JobNotFound, where there is no such job, or it has no pods.
    """
    job = jobs.get(cluster, name)
    role = "head" if head else "worker" if rank is not None else None
    reader = _Reader(cluster, rank, tail)
    while True:
        pods = [pod for pod in jobs.pods(cluster, name) if role in (None, jobs.role(pod))]
        if not pods and not follow:
            raise WindlassError("JobNotFound", f"{name} has no pods ({phase(job) or 'new'}); windlass status {name}")
        for pod in pods:
            reader.start(pod, follow=follow)
        if not follow or (reader.idle and phase(job) in (*ENDS, "Suspended")):
            reader.join()
            return DONE
        threading.Event().wait(LOOK_AGAIN_SECONDS)
        job = jobs.get(cluster, name)


class _Reader:
    """One thread for each container; each line is written whole."""

    def __init__(self, cluster: Cluster, rank: int | None, tail: int | None) -> None:
        self._cluster, self._rank = cluster, rank
        self._options = {"tailLines": tail} if tail is not None else {}
        self._threads: dict[tuple[str, int], threading.Thread] = {}
        self._lock = threading.Lock()

    @property
    def idle(self) -> bool:
        """Whether all that was started has been read to its end."""
        return not any(thread.is_alive() for thread in self._threads.values())

    def start(self, pod: Object, *, follow: bool) -> None:
        """Read a pod's main container, unless that is done already or it has not started."""
        container = jobs.role(pod)
        found = next((c for c in pod["status"].get("containerStatuses", []) if c["name"] == container), None)
        if found is None or ("waiting" in found["state"] and not found["restartCount"]):
            if not follow:
                warn(f"{pod['metadata']['name']} has not started. {waits_for(pod)}".rstrip())
            return
        key = (pod["metadata"]["uid"], found["restartCount"])
        if key in self._threads:
            return
        thread = threading.Thread(target=self._read, args=(pod["metadata"], container, follow), daemon=True)
        self._threads[key] = thread
        thread.start()
        if not follow:
            thread.join()  # one pod after the other

    def join(self) -> None:
        for thread in self._threads.values():
            thread.join()

    def _read(self, pod: Object, container: str, follow: bool) -> None:
        path = f"/api/v1/namespaces/{pod['namespace']}/pods/{pod['name']}/log"
        query: dict[str, Any] = {"container": container, "follow": str(follow).lower(), **self._options}
        short = pod["name"].removeprefix(f"{pod['labels'][jobs.JOB_LABEL]}-")
        try:
            for raw in self._cluster.lines(path, **query):
                self._write(short, raw.decode(errors="replace"))
        except WindlassError as error:
            warn(f"[{short}] {error.reason}: {error}")

    def _write(self, pod: str, line: str) -> None:
        found = _RANK.match(line)
        if self._rank is None:
            text = f"[{pod}] {line}"
        elif found and int(found[1]) == self._rank:
            text = line[found.end() :]
        else:
            return
        with self._lock:
            write(printable(text))
