"""What a data file seems to be for, judged by its columns and first rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError, named, shown
from tunesmith.prepare.sources import read_source

ROWS_LOOKED_AT = 1000
MOST_LABELS = 200
ORDINAL = 10
"""Whole numbers with at most this many different values are taken for classes."""
TEXT_NAMES = ("text", "sentence", "review", "message", "content", "body", "question", "comment", "description", "title")
PAIR_NAMES = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text", "text_pair"),
)
LABEL_NAMES = ("label", "labels", "class", "category", "intent", "sentiment", "target", "topic", "kategorie", "tag")
SCORE_NAMES = ("score", "rating", "stars", "similarity", "target", "urgency", "value")


@dataclass(frozen=True)
class Detection:
    """What was found. options: the task's, by name. labels: the label names in the rows looked at.

    notes: sentences that say what was found and why.
    """

    columns: tuple[str, ...]
    rows: int
    kind: str
    options: Mapping[str, Any]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Column:
    """A column's values where there are any."""

    name: str
    values: tuple[Any, ...]
    rows: int

    @property
    def different(self) -> int:
        return len({str(value) for value in self.values})

    @property
    def words(self) -> float:
        return sum(len(str(value).split()) for value in self.values) / max(1, len(self.values))

    @property
    def characters(self) -> float:
        return sum(len(str(value)) for value in self.values) / max(1, len(self.values))

    @property
    def is_text(self) -> bool:
        return bool(self.values) and all(isinstance(value, str) for value in self.values) and not self.is_number

    @property
    def is_list(self) -> bool:
        return bool(self.values) and all(
            isinstance(value, list) and all(isinstance(part, str) for part in value) for value in self.values
        )

    @property
    def numbers(self) -> tuple[float, ...] | None:
        try:
            return tuple(float(value) for value in self.values if not isinstance(value, bool | list | dict))
        except (TypeError, ValueError, OverflowError):
            return None

    @property
    def is_number(self) -> bool:
        found = self.numbers
        return bool(found) and len(found or ()) == len(self.values)

    def called(self, names: Sequence[str]) -> bool:
        return self.name.strip().lower() in names


def detect(path: Path) -> Detection:
    """What the rows of `path` can be used to learn. Raises UserError when there is no text, or nothing to learn."""
    rows = list(islice(_rows(path), ROWS_LOOKED_AT))
    if not rows:
        raise UserError(named(path), "holds no readable rows", "a data file needs rows below its header")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [
        _Column(name, tuple(row[name] for row in rows if row.get(name) not in (None, "")), len(rows)) for name in names
    ]
    texts = _texts(columns)
    if not texts:
        there = ", ".join(shown(name) for name in names)
        raise UserError(named(path), "has no column of texts", f"its columns: {there}")
    rest = [column for column in columns if column not in texts and not _is_identity(column)]
    found = _target(rest)
    if found is None:
        there = ", ".join(shown(column.name) for column in columns)
        raise UserError(
            named(path), "has no column that looks like a label or a number to learn", f"its columns: {there}"
        )
    kind, target, why = found
    options: dict[str, Any] = {"text": texts[0].name}
    notes = [f"{len(rows)} rows looked at, columns {', '.join(shown(name) for name in names)}"]
    if len(texts) == 2:
        options["text_b"] = texts[1].name
        notes.append(f"text: the pair {shown(texts[0].name)} and {shown(texts[1].name)}, by their names")
    else:
        notes.append(f"text: {shown(texts[0].name)}, {texts[0].words:.0f} words a row")
    options["target" if kind == "regression" else "label"] = target.name
    labels: tuple[str, ...] = ()
    if kind == "classification" and target.is_list:
        options["multi_label"] = True
        labels = tuple(sorted({part for value in target.values for part in value}))
    elif kind == "classification":
        labels = tuple(sorted({str(value) for value in target.values}))
    notes.append(why)
    return Detection(tuple(names), len(rows), kind, options, labels, tuple(notes))


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    return (row.fields for row in read_source(str(path), Path()) if row.problem is None)


def _texts(columns: Sequence[_Column]) -> list[_Column]:
    """One column of texts, or two that are a known pair."""
    by_name = {column.name.strip().lower(): column for column in columns}
    for first, second in PAIR_NAMES:
        if first in by_name and second in by_name and by_name[first].is_text and by_name[second].is_text:
            return [by_name[first], by_name[second]]
    texts = [column for column in columns if column.is_text and not _is_identity(column)]
    named_so = [column for column in texts if column.called(TEXT_NAMES)]
    others = [column for column in texts if not column.called(LABEL_NAMES)] or texts
    long = sorted(named_so or [c for c in others if c.words >= 2 or c.characters >= 12], key=lambda c: -c.characters)
    if not long and len(texts) > 1:  # short texts: the one with the most different values
        long = sorted(texts, key=lambda column: -column.different)
    return long[:1]


def _is_identity(column: _Column) -> bool:
    """Whether the values only tell rows apart."""
    name = column.name.strip().lower()
    one_word = column.words < 1.5
    if name in ("id", "uuid", "index", "key") or name.endswith(("_id", " id")):
        return column.different > 0.9 * len(column.values) and one_word
    return not column.called((*LABEL_NAMES, *SCORE_NAMES)) and _counts_rows(column)


def _counts_rows(column: _Column) -> bool:
    """Whether the values are whole numbers of which each follows the other."""
    numbers = sorted(column.numbers or ()) if column.is_number else []
    return len(numbers) > ORDINAL and all(after == before + 1 for before, after in pairwise(numbers))


def _target(columns: Sequence[_Column]) -> tuple[str, _Column, str] | None:
    """What to learn of which column, and why it was taken for that."""
    usable = [column for column in columns if len(column.values) > 0.5 * column.rows]
    usable.sort(
        key=lambda column: (
            not column.called(LABEL_NAMES),
            not column.called(SCORE_NAMES),
            column.different == len(column.values),  # such as the number of a customer
        )
    )
    for column in usable:
        name = shown(column.name)
        if column.is_list:
            return "classification", column, f"labels: {name} holds lists, so a row may have several labels"
        if column.is_number:
            numbers = column.numbers or ()
            whole = all(number.is_integer() for number in numbers)
            if whole and column.different <= ORDINAL:
                why = f"label: {name} holds {column.different} different whole numbers, taken for classes"
                return "classification", column, f"{why}; for a scale use `kind: regression` with `target`"
            if column.different > 2:
                return "regression", column, f"target: {name} holds {column.different} different numbers"
            continue
        if all(isinstance(value, str | bool) for value in column.values) and 2 <= column.different <= _most(column):
            return "classification", column, f"label: {name} has {column.different} different values"
    return None


def _most(column: _Column) -> int:
    """A label must come again: fewer different values than this."""
    return min(MOST_LABELS, max(2, len(column.values) // 2))
