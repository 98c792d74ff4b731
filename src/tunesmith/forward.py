"""Forward passes: in which number format, and over a whole split in any order that is fast."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tunesmith.batch import Batch, Encoded, Padding, collate
from tunesmith.contracts import Task
from tunesmith.world import World

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


def forward(model: nn.Module, task: Task, batch: Batch) -> Tensor:
    """What the task keeps of one forward pass: [B, ...]."""
    return task.outputs(model(**batch.inputs), batch)


def all_outputs(model: nn.Module, task: Task, data: Encoded, padding: Padding, run: Inference) -> NDArray[np.float64]:
    """The outputs of every row of `data`, in its order: [N, ...]. Rows of one length meet in a batch.

    The model is left in the mode that it was in. In a world of several, each computes its share.
    """
    was_training = model.training
    model.eval()
    world = run.world
    order = np.argsort(data.lengths, kind="stable")
    each = -(-len(order) // world.size)
    mine = np.resize(order, each * world.size)[world.rank :: world.size]
    parts: list[Tensor] = []
    with torch.inference_mode(), autocast(run.precision, world.device):
        for index in _by_tokens(mine, data.lengths, run.tokens):
            batch = collate(data, index, padding).to(world.device)
            parts.append(forward(model, task, batch).to(torch.float64))
    model.train(was_training)
    if not parts:
        return np.zeros((0,), dtype=np.float64)
    found = world.gather(torch.cat(parts)).cpu().numpy()
    places = np.concatenate([np.resize(order, each * world.size)[rank :: world.size] for rank in range(world.size)])
    out = np.empty((len(order), *found.shape[1:]), dtype=np.float64)
    out[places] = found
    return out


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


def mean_loss(task: Task, outputs: NDArray[np.float64], data: Encoded, padding: Padding, rows: int = 512) -> float:
    """The loss of a whole split per supervised target, from outputs that `all_outputs` gave."""
    total = count = 0.0
    for start in range(0, len(data), rows):
        index = list(range(start, min(start + rows, len(data))))
        batch = collate(data, index, padding)
        total += float(task.loss(torch.from_numpy(outputs[start : start + rows]), batch))
        count += task.count(batch)
    return total / count
