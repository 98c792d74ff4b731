"""Which rows each update sees: a function of the seed, the step and nothing else."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.seeds import mix

STEP_COST_TOKENS = {"cpu": 256, "cuda": 4096}
"""What one more forward pass costs, in padded tokens that take as long; measured on small models."""


REPLAYED = 1_902_10486
"""Sets the order of replayed rows apart from that of the others."""


class Order:
    """The rows of each optimiser batch. The same on every process, whatever their number.

    weights: how often each row is drawn relative to the others (drawn with replacement); None: each once an epoch.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, weights: Sequence[float] | None = None) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self._weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Row numbers of the update that follows `step` updates; the last of an epoch may be shorter."""
        per_epoch = -(-self.rows // self.batch_size)
        epoch, place = divmod(step, per_epoch)
        start = place * self.batch_size
        return np.asarray(self._epoch(epoch)[start : start + self.batch_size])

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        if self._weights is None:
            return torch.randperm(self.rows, generator=generator).numpy()
        drawn = torch.multinomial(self._weights, self.rows, replacement=True, generator=generator)
        return drawn.numpy()


class Mixed:
    """The rows of an order, and beside them in each optimiser batch earlier rows, which stand behind the others.

    So many are added that they are `share` of all rows drawn so far, but for less than one; each is drawn once before
    any is drawn again.
    """

    def __init__(self, own: Order, rows: int, share: float) -> None:
        self.own, self.rows = own, rows
        part = Fraction(share).limit_denominator(1_000_000)
        self._beside = part / (1 - part)
        self._pass = lru_cache(maxsize=2)(self._permutation)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Row numbers of the update that follows `step` updates: those of the order, then those added."""
        added = range(self._added(step), self._added(step + 1))
        earlier = [self.own.rows + int(self._pass(place // self.rows)[place % self.rows]) for place in added]
        return np.concatenate([self.own.batch(step), np.array(earlier, dtype=np.int64)])

    def _added(self, step: int) -> int:
        """How many were added before `step` updates were done."""
        epoch, place = divmod(step, -(-self.own.rows // self.own.batch_size))
        drawn = epoch * self.own.rows + min(place * self.own.batch_size, self.own.rows)
        return math.floor(drawn * self._beside)

    def _permutation(self, turn: int) -> NDArray[np.int64]:
        generator = torch.Generator().manual_seed(mix(self.own.seed, REPLAYED, turn))
        return torch.randperm(self.rows, generator=generator).numpy()


def share(index: NDArray[np.int64], lengths: NDArray[np.int64], rank: int, size: int) -> NDArray[np.int64]:
    """The rows of an optimiser batch that process `rank` of `size` computes: dealt out by length, to and fro."""
    ordered = index[np.argsort(-lengths[index], kind="stable")]
    turn = np.arange(len(ordered)) % (2 * size)
    return np.asarray(ordered[np.where(turn < size, turn, 2 * size - 1 - turn) == rank])


def runs(index: NDArray[np.int64], lengths: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
    """`index` in its order, cut into groups of at most `most` tokens where a single row has no more."""
    group = np.zeros(len(index), dtype=np.int64)
    filled = 0
    for place, length in enumerate(lengths[index].tolist()):
        fits = place > 0 and filled + length <= most
        filled = filled + length if fits else length
        group[place] = group[place - 1] + (not fits) if place else 0
    return [index[group == number] for number in range(int(group[-1]) + 1)]


def micro_batches(
    index: NDArray[np.int64], lengths: NDArray[np.int64], most: int, cost: int
) -> list[NDArray[np.int64]]:
    """`index` in groups of like length, each at most `most` padded tokens, at the least total cost.

    A group costs its padded tokens and `cost` besides. The cheapest division of the rows sorted by length is found
    by dynamic programming over the place of the last cut; rows of a group are neighbours in that order.
    """
    ordered = index[np.argsort(lengths[index], kind="stable")]
    widths = lengths[ordered]
    best = np.zeros(len(ordered) + 1)
    cut = np.zeros(len(ordered) + 1, dtype=np.int64)
    for end in range(1, len(ordered) + 1):
        starts = np.arange(end)
        padded = (end - starts) * widths[end - 1]
        total = best[:end] + padded + cost
        total[(padded > most) & (starts < end - 1)] = np.inf
        cut[end] = int(total.argmin())
        best[end] = total[cut[end]]
    groups: list[NDArray[np.int64]] = []
    end = len(ordered)
    while end > 0:
        groups.append(ordered[cut[end] : end])
        end = int(cut[end])
    return groups[::-1]
