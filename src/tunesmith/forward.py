"""Forward passes: in which number format, and over a whole split in any order that is fast."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tunesmith.batch import DRAWN, Batch, Encoded, Example, Padding, collate, encoded
from tunesmith.contracts import Task, parts_of
from tunesmith.given import Outputs
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
    """What a forward pass over a split gave. values: as in `Outputs`.

    sums: of each part of the task (of one that is whole, under no name) its loss and targets over the whole split.
    """

    data: Encoded
    values: list[NDArray[np.float64]]
    sums: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def losses(self) -> dict[str, float]:
        """The loss per supervised target of each part that has any."""
        return {name: loss / targets for name, (loss, targets) in self.sums.items() if targets}

    @property
    def mean_loss(self) -> float | None:
        """The loss per supervised target, of several parts the mean of theirs; None for rows without targets."""
        return sum(self.losses.values()) / len(self.losses) if self.losses else None

    @cached_property
    def outputs(self) -> Outputs:
        return Outputs(self.values, self.data)


def batch_of(task: Task, data: Encoded, index: Sequence[int], padding: Padding, seed: int) -> Batch:
    """Rows `index` as a batch, with what the task draws anew of each from the seed and the row's place alone.

    Of a task with parts, all rows must be of one.
    """
    if task.parts:
        number = int(data.part_of[index[0]])
        name = list(task.parts)[number]
        places = np.searchsorted(np.flatnonzero(data.part_of == number), np.asarray(index)).tolist()
        part = task.parts[name]
        own = replace(padding, columns={**padding.columns, **part.columns()})
        return replace(batch_of(part, data.part(number, name), places, own, seed), part=name)
    if DRAWN not in data.columns:
        return collate(data, index, padding)
    examples = []
    for place in index:
        columns = {name: ragged[place] for name, ragged in data.columns.items()}
        examples.append(Example(int(data.rows[place]), task.vary(columns, mix(seed, place)), int(data.cut[place])))
    return collate(encoded(examples), range(len(examples)), padding)


def forward(model: nn.Module, task: Task, batch: Batch) -> Tensor:
    """What the task keeps of one forward pass: [B, ...], or [B, T, ...]."""
    return task.outputs(called(model, task, batch), batch)


def called(model: nn.Module, task: Task, batch: Batch, **more: bool) -> Any:
    """All that the model gives for a batch. more: what it is asked for besides.

    Rows that stand in one line are kept apart by their positions alone, which a cache would undo.
    """
    packed = {} if "attention_mask" in batch.inputs else {"use_cache": False}
    return model(**task.arguments(batch), **packed, **more)


def all_outputs(model: nn.Module, task: Task, data: Encoded, padding: Padding, run: Inference) -> Passed:
    """The outputs of every example of `data`, in its order, and their loss. Rows of one length meet in a batch.

    The model is left in the mode that it was in. In a world of several, each computes its share.
    """
    was_training = model.training
    model.eval()
    world = run.world
    order = np.lexsort((data.lengths, data.part_of))
    mine = order[world.rank :: world.size]
    values: list[NDArray[np.float64]] = []
    sums = dict.fromkeys(parts_of(task), (0.0, 0.0))
    with torch.inference_mode(), autocast(run.precision, world.device):
        for index in _by_tokens(mine, data, run.tokens):
            batch = batch_of(task, data, index, padding, JUDGED).to(world.device)
            outputs = forward(model, task, batch)
            if task.graded(batch):
                loss, targets = sums[batch.part]
                sums[batch.part] = (loss + float(task.loss(outputs, batch)), targets + task.count(batch))
            values += _by_row(outputs.to(torch.float64).cpu(), task, batch)
    model.train(was_training)
    gathered = world.gather_arrays(values)
    places = np.concatenate([order[rank :: world.size] for rank in range(world.size)])
    in_order = [gathered[place] for place in np.argsort(places, kind="stable")]
    totals = world.total(*(value for pair in sums.values() for value in pair))
    return Passed(data, in_order, dict(zip(sums, zip(totals[::2], totals[1::2], strict=True), strict=True)))


def _by_row(outputs: Tensor, task: Task, batch: Batch) -> list[NDArray[np.float64]]:
    """The outputs of each row: of its tokens without padding, or of its sequences."""
    if parts_of(task)[batch.part].outputs_per == "token":
        masks = batch.inputs["attention_mask"].cpu().bool()
        return [line[mask].numpy() for line, mask in zip(outputs, masks, strict=True)]
    if batch.pieces:
        return [part.numpy() for part in torch.split(outputs, list(batch.pieces))]
    return list(outputs.numpy())


def _by_tokens(order: NDArray[np.int64], data: Encoded, most: int) -> list[list[int]]:
    """Runs of rows, in order of length, whose padded size stays within `most` tokens; all of one part."""
    groups: list[list[int]] = []
    lengths, parts = data.lengths, data.part_of
    for row in order.tolist():
        width = int(lengths[row])
        if groups and (len(groups[-1]) + 1) * width <= most and parts[row] == parts[groups[-1][0]]:
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
