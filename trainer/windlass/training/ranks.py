"""This process's place among the ranks, and how ranks agree on small numbers."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """One process's view of the process group; a single process has no group."""

    rank: int
    world_size: int
    device: torch.device
    control: dist.ProcessGroup | None
    """Gloo group for numbers on the host: token counts, signals, losses."""
    saving: dist.ProcessGroup | None
    """Gloo group of the checkpoint's background thread; collectives of two threads may not share one."""

    @property
    def first(self) -> bool:
        """True on the one rank that writes the run's files."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """Each number summed over all ranks."""
        if self.control is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return [float(number) for number in total]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank, in the order of ranks."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.control is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]


def single_process(device: torch.device) -> Ranks:
    """The only rank."""
    return Ranks(rank=0, world_size=1, device=device, control=None, saving=None)


def join_ranks(device: torch.device) -> Ranks:
    """This process's place in the initialised default process group. Every rank calls it, in the same order."""
    return Ranks(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        device=device,
        control=dist.new_group(backend="gloo"),
        saving=dist.new_group(backend="gloo"),
    )
