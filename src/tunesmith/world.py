"""The processes that train together: which one this is, and how they meet. Started by `torchrun`, or alone."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class World:
    """rank: this process, from 0. size: how many there are. device: where this one computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.size > 1:
            dist.barrier()

    def total(self, *values: float) -> list[float]:
        """Each value summed over all processes, exactly the same on each."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def gather(self, tensor: Tensor) -> Tensor:
        """[n, ...] of each process, all of one shape, stacked in order of rank: [size * n, ...]."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def gather_arrays(self, arrays: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """The arrays of every process, of any shapes alike but for the first extent, in order of rank."""
        if self.size == 1:
            return list(arrays)
        shapes = self._lists([[len(array.shape), *array.shape] for array in arrays])
        flat = [array.ravel().tolist() for array in arrays]
        values = self._lists([[value for line in flat for value in line]])
        found: list[NDArray[np.float64]] = []
        for own_shapes, own_values in zip(shapes, values, strict=True):
            start = at = 0
            while at < len(own_shapes):
                rank = int(own_shapes[at])
                shape = [int(extent) for extent in own_shapes[at + 1 : at + 1 + rank]]
                size = int(np.prod(shape))
                found.append(np.array(own_values[start : start + size], dtype=np.float64).reshape(shape))
                start, at = start + size, at + 1 + rank
        return found

    def _lists(self, lines: Sequence[Sequence[float]]) -> list[list[float]]:
        """The numbers of each process, which need not be equally many."""
        numbers = torch.tensor([value for line in lines for value in line], dtype=torch.float64, device=self.device)
        sizes = self.gather(torch.tensor([len(numbers)], dtype=torch.int64, device=self.device)).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.float64, device=self.device)
        padded[: len(numbers)] = numbers
        parts = self.gather(padded[None, :]).tolist()
        return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def alone(device: torch.device | None = None) -> World:
    """A world of one process."""
    return World(0, 1, device or _device(0))


@contextmanager
def joined() -> Iterator[World]:
    """The world that `torchrun` describes in the environment, or a world of one; left again by whoever joined first."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield alone()
        return
    device = _device(int(os.environ.get("LOCAL_RANK", "0")))
    if dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device("cpu")
