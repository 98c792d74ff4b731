"""What a data file seems to be for, judged by its columns and first rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError, named, shown
from tunesmith.prepare.columns import Column
from tunesmith.prepare.layouts import BY_COLUMNS, as_asked, by_names
from tunesmith.prepare.sources import is_plain_text, read_source

ROWS_LOOKED_AT = 1000
KINDS = ("classification", "regression")
"""Of tasks that columns are judged for."""
KNOWN = (*KINDS, "prompted", *BY_COLUMNS)
"""Of tasks that one data file can be for."""
ORDINAL = 10
"""Whole numbers with at most this many different values are taken for classes."""
TEXT_NAMES = (
    "text",
    "input",
    "sentence",
    "review",
    "message",
    "content",
    "body",
    "question",
    "comment",
    "description",
    "title",
)
PAIR_NAMES = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text", "text_pair"),
)
LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "intent",
    "sentiment",
    "target",
    "topic",
    "kategorie",
    "tag",
    "output",
)
SCORE_NAMES = ("score", "rating", "stars", "similarity", "target", "urgency", "value")


@dataclass(frozen=True)
class Detection:
    """What was found. options: the task's, by name. notes: sentences that say what was found and why."""

    rows: int
    kind: str
    options: Mapping[str, Any]
    notes: tuple[str, ...]


def detect(path: Path, kind: str | None = None) -> Detection:
    """What the rows of `path` can be used to learn. kind: of task that is wanted, whatever the rows look like.

    Tasks with columns of their own are known by the names of these; all others are judged by text and answer. The kind
    that is wanted is the one that is found.
    Raises UserError when there is no text, or nothing to learn, unless a task of another kind is wanted: what that one
    needs is not known here.
    """
    if kind == "multi_task":
        raise UserError(
            "--task multi_task", "is several tasks, which columns do not name", "see docs/recipe.md for how"
        )
    if kind == "prompted":
        return _prompted(detect(path, "classification"))
    rows, bad = _rows(path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [
        Column(name, tuple(row[name] for row in rows if row.get(name) not in (None, "")), len(rows)) for name in names
    ]
    there = ", ".join(shown(name) for name in names)
    looked_at = f"{len(rows)} rows looked at, columns {there}"
    unread = [f"{len(bad)} rows cannot be read; the first: {bad[0]}"] if bad else []
    texts = _texts(columns)
    if kind is None or kind in BY_COLUMNS:
        layout = by_names(columns) if kind is None else as_asked(kind, columns, texts)
        if layout is not None:
            return Detection(len(rows), layout.kind, layout.options, (looked_at, *unread, layout.why))
    if kind is None and is_plain_text(str(path), Path()):
        return Detection(len(rows), "language", {"text": "text"}, (looked_at, *unread, "language: a text a line"))
    rest = [column for column in columns if column not in texts and not _is_identity(column)]
    found = _target(rest, kind) or _likeliest(rest, kind)
    own = None if kind in KINDS else kind
    asked = f"; or name what is to be learned with --task KIND ({', '.join(KNOWN)})" if kind is None else ""
    if not texts and (own is None or own in BY_COLUMNS):
        raise UserError(named(path), "has no column of texts", f"its columns: {there}{asked}")
    if found is None and own is None:
        reasons = "".join(f"; {reason}" for column in rest if (reason := _unfit(column)))
        what = "has no column that looks like a label or a number to learn"
        raise UserError(named(path), what, f"its columns: {there}{reasons}{asked}")
    options: dict[str, Any] = {key: text.name for key, text in zip(("text", "text_b"), texts, strict=False)}
    notes = [looked_at, *_seen(texts), *unread]
    if found is None:
        return Detection(len(rows), str(own), options, tuple(notes))
    seen, target, why = found
    options["target" if (kind or seen) == "regression" else "label"] = target.name
    if (kind or seen) == "classification" and target.is_list:
        options["multi_label"] = True
    said = () if kind in (None, seen) else (f"task: {kind}, as you say, instead of {seen}",)
    return Detection(len(rows), kind or seen, options, (*notes, why, *said))


def _prompted(found: Detection) -> Detection:
    """The same rows for a task that puts their texts into a sentence."""
    options = {key: value for key, value in found.options.items() if key in ("text", "text_b", "label")}
    if "text_b" in options:
        options["template"] = "{text} {text_b} It was {label}."
    return replace(found, kind="prompted", options=options)


def _rows(path: Path) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The first rows, and of those that cannot be read where each is and why."""
    found = list(islice(read_source(str(path), Path()), ROWS_LOOKED_AT))
    bad = [f"{named(row.where)}: {row.problem}" for row in found if row.problem is not None]
    if len(bad) == len(found):
        raise UserError(named(path), "holds no readable rows", (*bad, "a data file needs rows below its header")[0])
    return [row.fields for row in found if row.problem is None], bad


def _seen(texts: Sequence[Column]) -> list[str]:
    """What is said of the texts."""
    if len(texts) == 2:
        return [f"text: the pair {shown(texts[0].name)} and {shown(texts[1].name)}, by their names"]
    return [f"text: {shown(text.name)}, {text.words:.0f} words a row" for text in texts]


def _texts(columns: Sequence[Column]) -> list[Column]:
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


def _is_identity(column: Column) -> bool:
    """Whether the values only tell rows apart."""
    name = column.name.strip().lower()
    one_word = column.words < 1.5
    if name in ("id", "uuid", "index", "key") or name.endswith(("_id", " id")):
        return column.different > 0.9 * len(column.values) and one_word
    return not column.called((*LABEL_NAMES, *SCORE_NAMES)) and _counts_rows(column)


def _counts_rows(column: Column) -> bool:
    """Whether the values are whole numbers of which each follows the other."""
    numbers = sorted(column.numbers) if column.is_number else []
    return len(numbers) > ORDINAL and all(after == before + 1 for before, after in pairwise(numbers))


def _target(columns: Sequence[Column], wanted: str | None) -> tuple[str, Column, str] | None:
    """What to learn of which column, and why it was taken for that. No names are taken where numbers are wanted."""
    for column in sorted((column for column in columns if column.is_filled), key=_rank):
        name = shown(column.name)
        if column.is_list and column.is_labels:
            return "classification", column, f"labels: {name} holds lists, so a row may have several labels"
        if column.is_number:
            whole = all(number.is_integer() for number in column.numbers)
            if whole and 2 <= column.different <= ORDINAL:
                why = f"label: {name} holds {column.different} different whole numbers, taken for classes"
                return "classification", column, f"{why}; for a scale use `kind: regression` with `target`"
            if column.different > 2:
                why = f"target: {name} holds {column.different} different numbers"
                if column.others:
                    odd = f"{len(column.others)} of {len(column.values)} values are none, such as"
                    why = f"{why}; {odd} {shown(column.others[0])}: mend them, or set data.on_bad_row=skip"
                return "regression", column, why
            continue
        names = not column.has_commas and all(isinstance(value, str | bool) for value in column.values)
        if names and wanted != "regression" and 2 <= column.different <= column.most_labels:
            return "classification", column, f"label: {name} has {column.different} different values"
    return None


def _likeliest(columns: Sequence[Column], wanted: str | None) -> tuple[str, Column, str] | None:
    """The column to take for a task that is wanted although none looks fit for it."""
    if wanted is None or not columns:
        return None
    numbers = [column for column in columns if column.is_number or column.has_commas]
    column = min((wanted == "regression" and numbers) or columns, key=_rank)
    why = f"answer: {shown(column.name)}, the likeliest of those that are left"
    reason = _unfit(column, wanted)
    return wanted, column, f"{why}; {reason}" if reason else why


def _rank(column: Column) -> tuple[bool, bool, bool]:
    """The likeliest answer first."""
    unique = column.different == len(column.values)  # such as the number of a customer
    return not column.called(LABEL_NAMES), not column.called(SCORE_NAMES), unique


def _unfit(column: Column, wanted: str | None = None) -> str:
    """Why a column cannot be an answer, where that can be said."""
    name = shown(column.name)
    if not column.is_filled:
        return f"{name} is empty in most rows"
    if column.different == 1:
        return f"{name} always holds {shown(column.values[0])}"
    if any(isinstance(value, list | dict) for value in column.values):
        return f"{name} holds lists or objects of no known form"
    if column.has_commas:
        return f"{name} holds numbers with commas, write them like 1234.5"
    if wanted == "regression" and not column.is_number:
        return f"{name} holds no numbers"
    if column.different > column.most_labels and all(isinstance(value, str) for value in column.values):
        return f"{name} has {column.different} different values in {len(column.values)} rows, too many for labels"
    return ""
