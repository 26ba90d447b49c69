"""Where the ranks of a run are started: what the driver needs to know of it. Here: this machine."""

from typing import Protocol

from windlass.engine.machine import Machine, this_machine, threads_of_rank
from windlass.engine.rank_settings import RankSettings
from windlass.engine.ray_local import RayLocal
from windlass.engine.run_folder import RunFolder
from windlass.lock import Claim


class Places(Protocol):
    """This machine, or the pods of a job; made before data are prepared, so that they start meanwhile."""

    def check(self) -> None:
        """Raise ConfigInvalid where the job cannot run there."""

    def gather(self) -> int:
        """Wait for places; returns how many ranks to start now. Raises Stopped when the run is asked to stop."""

    def machine(self) -> Machine:
        """What those ranks train on, all together."""

    def fit(self, settings: RankSettings) -> bool:
        """Train; False where ranks have saved and stopped to be started anew. Raises WindlassError when one fails."""

    def keep(self, run: RunFolder, claim: Claim) -> None:
        """Bring what the run leaves to where people will look for it.

        Raises StorageInUse, and brings nothing, where the claim on that place is another's by now.
        """

    def close(self) -> None:
        """Let go of everything."""


class OneMachine:
    """All ranks on this machine: one in this process, or several under a Ray of their own."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._ray = RayLocal(ranks, threads_of_rank(ranks)) if ranks > 1 else None

    def check(self) -> None:
        self.machine().check_ranks(self._ranks)

    def gather(self) -> int:
        return self._ranks

    def machine(self) -> Machine:
        return this_machine()

    def fit(self, settings: RankSettings) -> bool:
        from windlass.engine.train_function import train_alone

        if self._ray is None:
            train_alone(settings)
        else:
            self._ray.fit(settings)
        return True

    def keep(self, run: RunFolder, claim: Claim) -> None:
        """It is where it belongs."""

    def close(self) -> None:
        if self._ray is not None:
            self._ray.close()
