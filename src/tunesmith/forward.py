"""Forward passes: in which number format, and over a whole split in any order that is fast."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tunesmith.batch import DRAWN, Batch, Encoded, Example, Padding, collate, encoded
from tunesmith.contracts import Outputs, Task
from tunesmith.seeds import mix
from tunesmith.world import World

JUDGED = 0
"""The seed of what is drawn when rows are judged: the same each time."""
PACKING_ROWS = 4
PACKING_LIMIT = 1e-4
"""Above this the loss of packed rows differs by more than rounding in float32 does."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Inference:
    """How to compute outputs. tokens: most padded tokens in one batch."""

    world: World
    precision: str = "float32"
    tokens: int = 16384


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in `precision`; weights keep their own format. float32 and float64 change nothing."""
    dtype = DTYPES.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision in DTYPES)


@dataclass(frozen=True)
class Passed:
    """What a forward pass over a split gave. values: as in `Outputs`. loss, targets: sums over the whole split."""

    data: Encoded
    values: list[NDArray[np.float64]]
    loss: float | None = None
    targets: float = 0.0

    @property
    def mean_loss(self) -> float | None:
        """The loss per supervised target; None for rows without targets."""
        return self.loss / self.targets if self.loss is not None and self.targets else None

    @cached_property
    def outputs(self) -> Outputs:
        return Outputs(self.values, self.data)


def batch_of(task: Task, data: Encoded, index: Sequence[int], padding: Padding, seed: int) -> Batch:
    """Rows `index` as a batch, with what the task draws anew of each from the seed and the row's place alone."""
    if DRAWN not in data.columns:
        return collate(data, index, padding)
    examples = []
    for place in index:
        columns = {name: ragged[place] for name, ragged in data.columns.items()}
        examples.append(Example(int(data.rows[place]), task.vary(columns, mix(seed, place)), int(data.cut[place])))
    return collate(encoded(examples), range(len(examples)), padding)


def forward(model: nn.Module, task: Task, batch: Batch) -> Tensor:
    """What the task keeps of one forward pass: [B, ...], or [B, T, ...].

    Rows that stand in one line are kept apart by their positions alone, which a cache would undo.
    """
    packed = {} if "attention_mask" in batch.inputs else {"use_cache": False}
    return task.outputs(model(**task.arguments(batch), **packed), batch)


def all_outputs(model: nn.Module, task: Task, data: Encoded, padding: Padding, run: Inference) -> Passed:
    """The outputs of every example of `data`, in its order, and their loss. Rows of one length meet in a batch.

    The model is left in the mode that it was in. In a world of several, each computes its share.
    """
    was_training = model.training
    model.eval()
    world = run.world
    order = np.argsort(data.lengths, kind="stable")
    mine = order[world.rank :: world.size]
    values: list[NDArray[np.float64]] = []
    loss = targets = 0.0
    with torch.inference_mode(), autocast(run.precision, world.device):
        for index in _by_tokens(mine, data.lengths, run.tokens):
            batch = batch_of(task, data, index, padding, JUDGED).to(world.device)
            outputs = forward(model, task, batch)
            if task.graded(batch):
                loss += float(task.loss(outputs, batch))
                targets += task.count(batch)
            values += _by_row(outputs.to(torch.float64).cpu(), task, batch)
    model.train(was_training)
    gathered = world.gather_arrays(values)
    places = np.concatenate([order[rank :: world.size] for rank in range(world.size)])
    in_order = [gathered[place] for place in np.argsort(places, kind="stable")]
    loss, targets = world.total(loss, targets)
    return Passed(data, in_order, loss if targets else None, targets)


def _by_row(outputs: Tensor, task: Task, batch: Batch) -> list[NDArray[np.float64]]:
    """The outputs of each row: of its tokens without padding, or of its sequences."""
    if task.outputs_per == "token":
        masks = batch.inputs["attention_mask"].cpu().bool()
        return [line[mask].numpy() for line, mask in zip(outputs, masks, strict=True)]
    if batch.pieces:
        return [part.numpy() for part in torch.split(outputs, list(batch.pieces))]
    return list(outputs.numpy())


def _by_tokens(order: NDArray[np.int64], lengths: NDArray[np.int64], most: int) -> list[list[int]]:
    """Runs of rows, in order of length, whose padded size stays within `most` tokens."""
    groups: list[list[int]] = []
    for row in order.tolist():
        width = int(lengths[row])
        if groups and (len(groups[-1]) + 1) * width <= most:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def packing_gap(model: nn.Module, task: Task, data: Encoded, padding: Padding) -> float:
    """How much the loss of some rows differs, per target, when they stand in one line instead of a line each."""
    index = np.argsort(data.lengths, kind="stable")[:PACKING_ROWS].tolist()
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    losses = []
    with torch.inference_mode():
        for laid in (padding, replace(padding, pack=None)):
            batch = batch_of(task, data, index, laid, JUDGED).to(device)
            losses.append(float(task.loss(forward(model, task, batch), batch)))
    model.train(was_training)
    return abs(losses[0] - losses[1]) / max(1.0, task.count(batch))
