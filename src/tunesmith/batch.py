"""Encoded rows kept flat, and rectangular batches made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Column:
    """How one column of encoded rows becomes a tensor.

    per: "token" columns are padded to the longest row with `pad`; "row" columns have one length for all.
    role: "input" columns are arguments of the model; "target" columns only of the loss.
    """

    pad: float
    per: Literal["token", "row"] = "token"
    role: Literal["input", "target"] = "input"


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded row. cut: how many tokens of the text did not fit."""

    row: int
    columns: Mapping[str, Sequence[float]]
    cut: int = 0


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is values[offsets[i]:offsets[i + 1]]."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Encoded:
    """The encoded rows of a split, in the split's order.

    columns: by name; `input_ids` is always among them. rows: [N] row numbers. cut: [N] tokens that did not fit.
    """

    columns: Mapping[str, Ragged]
    rows: NDArray[np.int64]
    cut: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, [N]."""
        return self.columns["input_ids"].lengths


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length. inputs: the model's arguments, [B, T]. targets: the loss's. rows: row numbers."""

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    rows: tuple[int, ...]
    tokens: int = 0

    def to(self, device: torch.device) -> "Batch":
        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return Batch(moved(self.inputs), moved(self.targets), self.rows, self.tokens)


@dataclass(frozen=True)
class Padding:
    """How rows are made equally long, and which positions a left-padded model needs to be told.

    positions: True for models that count positions themselves from the left edge, padding included.
    multiple: widths are rounded up to it, up to `longest`: fewer shapes, for which libraries keep prepared code.
    """

    columns: Mapping[str, Column]
    side: Literal["left", "right"] = "right"
    positions: bool = False
    multiple: int = 1
    longest: int | None = None


def padding_for(columns: Mapping[str, Column], pad: int | None, **more: Any) -> Padding:
    """How rows of a task with these columns are padded; `pad` is the tokenizer's padding token. more: of Padding."""
    return Padding({"input_ids": Column(float(pad or 0)), "token_type_ids": Column(0), **columns}, **more)


def encoded(examples: Sequence[Example]) -> Encoded:
    """The examples in flat arrays: integers as int32, other numbers as float64."""
    names = list(examples[0].columns) if examples else ["input_ids"]
    columns = {}
    for name in names:
        rows = [example.columns[name] for example in examples]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        flat = [value for row in rows for value in row]
        whole = all(isinstance(value, int) for value in flat)
        columns[name] = Ragged(np.array(flat, dtype=np.int32 if whole else np.float64), offsets)
    rows_ = np.array([example.row for example in examples], dtype=np.int64)
    return Encoded(columns, rows_, np.array([example.cut for example in examples], dtype=np.int64))


def collate(data: Encoded, index: Sequence[int], padding: Padding) -> Batch:
    """Rows `index` of `data` as one rectangular batch, with an attention mask."""
    lengths = data.lengths[list(index)]
    width = int(lengths.max())
    rounded = width + -width % padding.multiple
    width = max(width, min(rounded, padding.longest or rounded))
    inputs: dict[str, Tensor] = {}
    targets: dict[str, Tensor] = {}
    for name, ragged in data.columns.items():
        column = padding.columns[name]
        tensor = (
            _padded(ragged, index, width, column.pad, padding.side)
            if column.per == "token"
            else torch.from_numpy(np.stack([ragged[i] for i in index]))
        )
        tensor = tensor.to(torch.int64) if tensor.dtype == torch.int32 else tensor
        (inputs if column.role == "input" else targets)[name] = tensor
    spans = torch.arange(width)[None, :]
    held = torch.from_numpy(lengths)[:, None]
    mask = spans < held if padding.side == "right" else spans >= width - held
    inputs["attention_mask"] = mask.to(torch.int64)
    if padding.positions and padding.side == "left":
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return Batch(inputs, targets, tuple(int(row) for row in data.rows[list(index)]), int(lengths.sum()))


def _padded(ragged: Ragged, index: Sequence[int], width: int, pad: float, side: str) -> Tensor:
    out = np.full((len(index), width), pad, dtype=ragged.values.dtype)
    for place, row in enumerate(index):
        values = ragged[row]
        if side == "right":
            out[place, : len(values)] = values
        else:
            out[place, width - len(values) :] = values
    return torch.from_numpy(out)
