"""What is wrong or odd about the rows, before anything is learned from them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.catalog import Catalog
from tunesmith.contracts import Corpus, Finding, Record, Task, parts_of
from tunesmith.errors import BadRow, shown
from tunesmith.given import PredictionKind
from tunesmith.prepare.split import text_key

MARKS = re.compile(r"[\W_]+")
CHECKS = Catalog(
    "check",
    repeats="tunesmith.prepare.audit:repeats",
    conflicts="tunesmith.prepare.audit:conflicts",
    leaks="tunesmith.prepare.audit:leaks",
    near="tunesmith.prepare.audit:near",
    spellings="tunesmith.prepare.audit:spellings",
    header="tunesmith.prepare.audit:header",
    balance="tunesmith.prepare.audit:balance",
    absent="tunesmith.prepare.audit:absent",
    characters="tunesmith.prepare.audit:characters",
    constant="tunesmith.prepare.audit:constant",
)
Splits = Mapping[str, Sequence[Record]]
SHOWN = 5
UNEVEN = 10
WORDS_OF_A_TEXT = 5
"""The name of a column has fewer."""
FEW = 5
BROKEN = re.compile("[\ufffd\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""The replacement character, and control characters that are no white space."""


def audit(corpus: Corpus) -> tuple[Finding, ...]:
    """Everything that the checks find."""
    found: list[Finding] = []
    for part, task in parts_of(corpus.task).items():
        own = {name: corpus.task.of_part(part, rows) for name, rows in corpus.splits.items()}
        splits = {name: rows for name, rows in own.items() if rows}
        for name in CHECKS:
            said = CHECKS.load(name)(splits, task)
            found += [replace(one, message=f"{part}: {one.message}") if part else one for one in said]
    return tuple(found)


def picture(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Of each split: its rows, and how its labels or numbers are spread; None for what its targets are not.

    Of several tasks, `parts` holds the same of each.
    """
    kind = _kind(corpus.splits, corpus.task)
    found = {name: {"rows": len(rows), **_spread(rows, kind)} for name, rows in corpus.splits.items()}
    for part, task in corpus.task.parts.items():
        served = {name: corpus.task.of_part(part, rows) for name, rows in corpus.splits.items()}
        own = _kind(served, task)
        for name, rows in served.items():
            spread = _spread(rows, own) if rows else {"balance": None, "targets": None}
            found[name].setdefault("parts", {})[part] = {"rows": len(rows), **spread}
    return found


def _kind(splits: Splits, task: Task) -> PredictionKind:
    """What the targets are: labels and right texts, say, look alike."""
    return task.gold(splits["train"][:1]).kind


def _spread(records: Sequence[Record], kind: PredictionKind) -> dict[str, Any]:
    if kind == "numbers":
        values = np.array([record.target for record in records])
        facts = {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}
        return {"balance": None, "targets": facts}
    if kind in ("texts", "scores", "parts"):
        return {"balance": None, "targets": None}
    counts = Counter(label for record in records for label in _labels(record.target, kind))
    return {"balance": dict(counts.most_common()), "targets": None}


def _labels(target: Any, kind: PredictionKind) -> tuple[str, ...]:
    """The labels by name that a target holds; of a choice by its place there is none."""
    if kind == "spans":
        return tuple(label for _, _, label in target)
    several = target if isinstance(target, tuple) else (target,)
    return tuple(value for value in several if isinstance(value, str)) if kind in ("label", "labels") else ()


def _written(target: Any, kind: PredictionKind) -> tuple[str, ...]:
    """The right texts that someone wrote, not those that stand in the input itself, with their place."""
    return tuple(value for value in target if isinstance(value, str)) if kind == "texts" else ()


def repeats(splits: Splits, task: Task) -> Iterator[Finding]:
    """Rows that stand in a split more than once, text and target alike."""
    for name, records in splits.items():
        seen: dict[object, Record] = {}  # a target may be a list
        again = [
            record
            for record in records
            if seen.setdefault((text_key(record), repr(record.target)), record) is not record
        ]
        if again:
            message = f"{len(again)} of {len(records)} {name} rows repeat an earlier one exactly"
            yield Finding("repeats", "warning", message, len(again), _where(again))


def conflicts(splits: Splits, task: Task) -> Iterator[Finding]:
    """Texts that have different targets in different rows: at least one is wrong, unless people wrote them freely."""
    kind = _kind(splits, task)
    first: dict[bytes, Record] = {}
    torn: list[Record] = []
    written = True
    for records in splits.values():
        for record in records:
            other = first.setdefault(text_key(record), record)
            if other.target != record.target:
                torn += [other, record]
                written = written and bool(_written(record.target, kind))
    if torn:
        what = "another right text" if written else "another target"
        message = f"{len(torn) // 2} rows have the text of another row but {what}"
        yield Finding("conflicts", "info" if written else "warning", message, len(torn) // 2, _where(torn))


def leaks(splits: Splits, task: Task) -> Iterator[Finding]:
    """Texts that stand in more than one split."""
    home: dict[bytes, str] = {}
    crossing = [
        record
        for name, records in splits.items()
        for record in records
        if home.setdefault(text_key(record), name) != name
    ]
    if crossing:
        message = f"{len(crossing)} rows stand in another split too, which makes scores too good"
        yield Finding("leaks", "error", message, len(crossing), _where(crossing))


def near(splits: Splits, task: Task) -> Iterator[Finding]:
    """Texts that judge and differ from one to learn from by so little that they say nothing of new ones."""
    asked = {_letters(record) for name in ("validation", "test") for record in splits.get(name, ())}
    known, exact = set(), set()
    for record in splits["train"] if asked else ():  # only what is asked for is kept: training rows may be millions
        if any(key := _letters(record)) and key in asked:
            known.add(key)
            exact.add(text_key(record))
    for name in ("validation", "test"):
        rows = splits.get(name, ())
        alike = [record for record in rows if _letters(record) in known and text_key(record) not in exact]
        if alike:
            what = "differ from a training row only by case, punctuation or white space, which makes scores too good"
            yield Finding("near", "warning", f"{len(alike)} {name} rows {what}", len(alike), _where(alike))


def _letters(record: Record) -> tuple[str, ...]:
    """The inputs without what marks, spaces and capitals add."""
    return tuple(MARKS.sub("", str(value).casefold()) for value in record.inputs.values())


def spellings(splits: Splits, task: Task) -> Iterator[Finding]:
    """Labels that differ by case or inner space only, which are most likely one."""
    kind = _kind(splits, task)
    alike: dict[str, set[str]] = {}
    for label in {label for records in splits.values() for record in records for label in _labels(record.target, kind)}:
        alike.setdefault("".join(label.casefold().split()), set()).add(label)
    several = sorted(sorted(group) for group in alike.values() if len(group) > 1)
    if several:
        named = ", ".join(" and ".join(f"'{label}'" for label in group) for group in several[:SHOWN])
        yield Finding("spellings", "warning", f"labels differ only by case or space: {named}", len(several))


def header(splits: Splits, task: Task) -> Iterator[Finding]:
    """Columns whose names read like a row of data."""
    data = set(task.fields).difference(task.inputs) if _is_answer(splits, task) else ()
    odd = [name for name in task.fields if name in data or len(name.split()) >= WORDS_OF_A_TEXT]
    if odd:
        named = ", ".join(shown(name) for name in odd)
        yield Finding("header", "warning", f"{named}: is the line that names the columns missing?", len(odd))


def _is_answer(splits: Splits, task: Task) -> bool:
    """Whether the names of the columns would do as a row: with numbers, or with labels that other rows have."""
    try:
        _, target = task.read({name: name for name in task.fields})
    except BadRow:
        return False
    kind = _kind(splits, task)
    known = {label for record in splits["train"] for label in _labels(record.target, kind)}
    labels = _labels(target, kind)
    return kind == "numbers" or (bool(labels) and known.issuperset(labels))


def balance(splits: Splits, task: Task) -> Iterator[Finding]:
    """Labels with very few rows or spans, or very uneven numbers of them."""
    kind = _kind(splits, task)
    counts = Counter(label for record in splits["train"] for label in _labels(record.target, kind))
    if not counts:
        return
    unit = "spans" if kind == "spans" else "rows"
    rare = sorted(label for label, count in counts.items() if count < FEW)
    if rare:
        named = ", ".join(rare[:SHOWN]) + (" …" if len(rare) > SHOWN else "")
        message = f"{len(rare)} labels have fewer than {FEW} training {unit}: {named}"
        yield Finding("balance", "warning", message, len(rare))
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many > UNEVEN * few:
        remedy = "; task.balance can even that out" if hasattr(task, "balance") else ""
        message = f"'{most}' has {many} training {unit} and '{least}' {few}{remedy}"
        yield Finding("balance", "warning", message, many)


def absent(splits: Splits, task: Task) -> Iterator[Finding]:
    """Labels that the recipe names and no training row has: they cannot be learned."""
    gold = task.gold(splits["train"][:1])
    learned = {label for record in splits["train"] for label in _labels(record.target, gold.kind)}
    missing = [label for label in gold.labels if label not in learned] if learned else []
    if missing:
        named = ", ".join(map(shown, missing[:SHOWN])) + (" …" if len(missing) > SHOWN else "")
        message = f"{len(missing)} labels of the recipe have no training row, and cannot be learned: {named}"
        yield Finding("absent", "warning", message, len(missing))


def characters(splits: Splits, task: Task) -> Iterator[Finding]:
    """Signs of broken encoding: replacement and control characters."""
    kind = _kind(splits, task)
    broken = [
        record
        for records in splits.values()
        for record in records
        if any(map(BROKEN.search, (record.text, *_written(record.target, kind))))
    ]
    if broken:
        message = f"{len(broken)} rows hold replacement or control characters, a sign of a wrong encoding"
        yield Finding("characters", "warning", message, len(broken), _where(broken))


def constant(splits: Splits, task: Task) -> Iterator[Finding]:
    """An input column that is the same in every training row, and so tells nothing; answers to choose from do."""
    records = splits["train"]
    for name, value in records[0].inputs.items() if len(records) > 1 else ():
        if not isinstance(value, tuple) and len({str(record.inputs[name]) for record in records}) == 1:
            yield Finding("constant", "warning", f"'{name}' is the same in every training row", len(records))


def _where(records: Iterable[Record]) -> tuple[str, ...]:
    return tuple(record.where for record in list(records)[:SHOWN])
