"""Encoded rows kept flat, and rectangular batches made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Column:
    """How one column of encoded rows becomes a tensor.

    per: "token" columns are padded to the longest row with `pad`, "reply" columns to the longest reply (what a
    decoder behind an encoder reads and writes), or like tokens where there is none; "row" columns have one length
    for all.
    role: "input" columns are arguments of the model, "target" columns only of the loss; "note" columns stay with the
    encoded rows and help to read outputs.
    """

    pad: float
    per: Literal["token", "reply", "row"] = "token"
    role: Literal["input", "target", "note"] = "input"


REPLY = "decoder_input_ids"
"""The column that a decoder behind an encoder reads."""
SHARED = ("input_ids", REPLY)
"""The columns that the parts of a task have in common; the names of all others begin with the part's."""
REPLY_PIECES = "reply_pieces"
"""The same of what a decoder behind an encoder reads, where each sequence has its own."""
IGNORED = -100
"""The label of a token that is not graded, as in `torch` and `transformers`."""
DRAWN = "drawn"
"""The column that a row has of whose tokens some are drawn anew, to be hidden, each time that it is trained on."""
PART = "part"
"""The column that says which of a task's parts a row is for, by number, where a task is made of several."""
PIECES = "pieces"
"""The column that says how many tokens each sequence of a row has, where a row is several (choices, pairs)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded row, or one window of it. cut: how many tokens of the text did not fit.

    refused: why there is nothing to learn from the row as it is encoded; such an example has no columns.
    """

    row: int
    columns: Mapping[str, Sequence[float]]
    cut: int = 0
    refused: str = ""


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
    """The encoded rows of a split, in the split's order; a row of several windows has as many examples.

    columns: by name; `input_ids` is always among them. rows: [N] row numbers. cut: [N] tokens that did not fit.
    refused: why a row has no example, by row number.
    """

    columns: Mapping[str, Ragged]
    rows: NDArray[np.int64]
    cut: NDArray[np.int64]
    refused: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, [N], with those that a decoder behind an encoder reads."""
        read = self.columns["input_ids"].lengths
        return read + self.columns[REPLY].lengths if REPLY in self.columns else read

    def take(self, index: NDArray[np.int64]) -> "Encoded":
        """The examples at `index`, in that order."""
        columns = {name: _taken(ragged, index) for name, ragged in self.columns.items()}
        return Encoded(columns, self.rows[index], self.cut[index])

    @cached_property
    def part_of(self) -> NDArray[np.int64]:
        """[N] the number of the part that each example is for; 0 for all where the task is whole."""
        if PART not in self.columns:
            return np.zeros(len(self), dtype=np.int64)
        return self.columns[PART].values.astype(np.int64)

    def part(self, number: int, name: str) -> "Encoded":
        """The examples of one part, as its task encoded them; in the order that they have here."""
        if number not in self._parts:
            index = np.flatnonzero(self.part_of == number)
            prefix = f"{name}."
            found = {}
            for key in self.columns:
                if key in SHARED or key.startswith(prefix):
                    ragged = _taken(self.columns[key], index)
                    if key == "input_ids" or len(ragged.values):
                        found[key.removeprefix(prefix)] = ragged
            self._parts[number] = Encoded(found, self.rows[index], self.cut[index])
        return self._parts[number]

    @cached_property
    def _parts(self) -> "dict[int, Encoded]":
        return {}

    def places(self) -> dict[int, list[int]]:
        """The examples of each row number, in order of appearance."""
        found: dict[int, list[int]] = {}
        for place, row in enumerate(self.rows.tolist()):
            found.setdefault(row, []).append(place)
        return found


def _taken(ragged: Ragged, index: NDArray[np.int64]) -> Ragged:
    rows = [ragged[int(place)] for place in index]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Ragged(np.concatenate(rows) if rows else ragged.values[:0], offsets)


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length. inputs: the model's arguments, [B, T]. targets: the loss's. rows: row numbers.

    pieces: of rows that are several sequences how many each is; the tensors then have a line a sequence.
    part: the name of the task's part that all rows are for, where it has parts.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    rows: tuple[int, ...]
    tokens: int = 0
    pieces: tuple[int, ...] = ()
    part: str = ""

    def to(self, device: torch.device) -> "Batch":
        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return replace(self, inputs=moved(self.inputs), targets=moved(self.targets))


@dataclass(frozen=True)
class Padding:
    """How rows are made equally long, and which positions a left-padded model needs to be told.

    positions: True for models that count positions themselves from the left edge, padding included.
    multiple: widths are rounded up to it, up to `longest`: fewer shapes, for which libraries keep prepared code.
    pack: rows stand behind one another in lines of at most so many tokens, each with positions of its own, for models
    that keep them apart by that (arXiv:2407.09105); None: a line a row.
    """

    columns: Mapping[str, Column]
    side: Literal["left", "right"] = "right"
    positions: bool = False
    multiple: int = 1
    longest: int | None = None
    pack: int | None = None


def padding_for(columns: Mapping[str, Column], pad: int | None, **more: Any) -> Padding:
    """How rows of a task with these columns are padded; `pad` is the tokenizer's padding token. more: of Padding."""
    padded, note = Column(float(pad or 0)), Column(0, per="row", role="note")
    given = {"input_ids": padded, "token_type_ids": Column(0), REPLY: replace(padded, per="reply")}
    return Padding({**given, PIECES: note, REPLY_PIECES: note, **columns}, **more)


def encoded(examples: Sequence[Example]) -> Encoded:
    """The examples in flat arrays: integers as int32, other numbers as float64."""
    refused = {example.row: example.refused for example in examples if example.refused}
    examples = [example for example in examples if not example.refused]
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
    return Encoded(columns, rows_, np.array([example.cut for example in examples], dtype=np.int64), refused)


def concatenated(found: Sequence[Encoded]) -> Encoded:
    """The examples of several encodings behind one another."""
    refused = {row: reason for part in found for row, reason in part.refused.items()}
    parts = [part for part in found if len(part)] or list(found[:1])
    names = dict.fromkeys(name for part in parts for name in part.columns)
    columns = {name: _joined(name, parts) for name in names}
    rows, cut = np.concatenate([p.rows for p in parts]), np.concatenate([p.cut for p in parts])
    return Encoded(columns, rows, cut, refused)


def _joined(name: str, parts: Sequence[Encoded]) -> Ragged:
    """A column of all parts; rows of a part that lacks it, since none is for a task that has it, are empty in it."""
    values = [part.columns[name].values for part in parts if name in part.columns]
    lengths = [
        part.columns[name].lengths if name in part.columns else np.zeros(len(part), dtype=np.int64) for part in parts
    ]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return Ragged(np.concatenate(values), offsets)


def collate(data: Encoded, index: Sequence[int], padding: Padding) -> Batch:
    """Rows `index` of `data` as one rectangular batch, with an attention mask (packed: with positions instead)."""
    rows = tuple(int(row) for row in data.rows[list(index)])
    tokens = int(data.lengths[list(index)].sum())
    lines, pieces = _lines(data, index)
    if padding.pack is not None:
        return _packed(data, lines, padding, rows, tokens)
    widths = {"token": _width([end - start for _, start, end in lines], padding)}
    if REPLY in data.columns:
        replies = _pieces(data, index, REPLY_PIECES, REPLY)
        widths["reply"] = max(end - start for _, start, end in replies)
    inputs: dict[str, Tensor] = {}
    targets: dict[str, Tensor] = {}
    for name, ragged in data.columns.items():
        column = padding.columns[name]
        if column.role == "note":
            continue
        if column.per == "row":
            tensor = torch.from_numpy(np.stack([ragged[i] for i in index]))
        elif column.per == "token" or "reply" not in widths:
            parts = [ragged[i][start:end] for i, start, end in lines]
            tensor = _padded(parts, widths["token"], column.pad, padding.side)
        else:
            parts = [ragged[i][start:end] for i, start, end in replies]
            tensor = _padded(parts, widths["reply"], column.pad, "right")
        (inputs if column.role == "input" else targets)[name] = _whole(tensor)
    held = torch.tensor([end - start for _, start, end in lines])[:, None]
    spans = torch.arange(widths["token"])[None, :]
    mask = spans < held if padding.side == "right" else spans >= widths["token"] - held
    inputs["attention_mask"] = mask.to(torch.int64)
    if padding.positions and padding.side == "left":
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return Batch(inputs, targets, rows, tokens, pieces)


def _lines(data: Encoded, index: Sequence[int]) -> tuple[list[tuple[int, int, int]], tuple[int, ...]]:
    """Each sequence as (example, start, end) in its tokens, and how many sequences each row is, if they are several."""
    lines = _pieces(data, index, PIECES, "input_ids")
    return lines, tuple(len(data.columns[PIECES][i]) for i in index) if PIECES in data.columns else ()


def _pieces(data: Encoded, index: Sequence[int], sizes: str, column: str) -> list[tuple[int, int, int]]:
    """Each sequence of a column as (example, start, end), by the column that holds their sizes, if there is one."""
    if sizes not in data.columns:
        lengths = data.columns[column].lengths
        return [(i, 0, int(lengths[i])) for i in index]
    lines = []
    for i in index:
        ends = np.cumsum(data.columns[sizes][i]).tolist()
        lines += [(i, start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return lines


def _width(lengths: Sequence[int], padding: Padding) -> int:
    width = max(lengths)
    rounded = width + -width % padding.multiple
    return max(width, min(rounded, padding.longest or rounded))


def _packed(
    data: Encoded, lines: Sequence[tuple[int, int, int]], padding: Padding, rows: tuple[int, ...], tokens: int
) -> Batch:
    """The lines laid behind one another, the longest first where there is room; padding is a row of its own."""
    assert padding.pack is not None
    bins: list[list[tuple[int, int, int]]] = []
    room: list[int] = []
    for line in sorted(lines, key=lambda line: line[1] - line[2]):
        size = line[2] - line[1]
        place = next((place for place, left in enumerate(room) if left >= size), None)
        if place is None:
            bins.append([])
            room.append(max(padding.pack, size))
            place = len(bins) - 1
        bins[place].append(line)
        room[place] -= size
    width = _width([sum(end - start for _, start, end in line) for line in bins], padding)
    inputs: dict[str, Tensor] = {}
    targets: dict[str, Tensor] = {}
    for name, ragged in data.columns.items():
        column = padding.columns[name]
        if column.role != "note" and column.per != "row":
            parts = [np.concatenate([ragged[i][start:end] for i, start, end in line]) for line in bins]
            tensor = _whole(_padded(parts, width, column.pad, "right"))
            (inputs if column.role == "input" else targets)[name] = tensor
    positions = [np.concatenate([np.arange(end - start) for _, start, end in line]) for line in bins]
    filled = [np.concatenate([line, np.arange(width - len(line))]) for line in positions]
    inputs["position_ids"] = torch.from_numpy(np.stack(filled))
    return Batch(inputs, targets, rows, tokens)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.to(torch.int64) if tensor.dtype == torch.int32 else tensor


def _padded(parts: Sequence[NDArray[Any]], width: int, pad: float, side: str) -> Tensor:
    out = np.full((len(parts), width), pad, dtype=parts[0].dtype)
    for place, values in enumerate(parts):
        if side == "right":
            out[place, : len(values)] = values
        else:
            out[place, width - len(values) :] = values
    return torch.from_numpy(out)
