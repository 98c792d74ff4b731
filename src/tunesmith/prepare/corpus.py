"""From files to the validated rows of each split, with every row accounted for."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import Corpus, Finding, Ledger, Record, Task
from tunesmith.errors import BadRow, UserError, nearest, shown
from tunesmith.options import with_paths
from tunesmith.prepare.audit import audit
from tunesmith.prepare.options import DataOptions
from tunesmith.prepare.sources import RawRow, file_name, read_source, source_files
from tunesmith.prepare.split import divide, text_key

SHOWN_BAD_ROWS = 5
FEWEST_ROWS = 2


@dataclass
class _Tally:
    """What became of the rows so far."""

    lenient: bool
    read: Counter[str] = field(default_factory=Counter)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    units: dict[str, str] = field(default_factory=dict)
    """What the numbers of a source's rows count, such as lines."""

    def refuse(self, source: str, line: int, reason: str, detail: str) -> None:
        """A row that cannot be used: counted as skipped, or kept for the message that ends the run."""
        self.reasons[reason] += 1
        self.skipped.append({"source": source, "line": line, "reason": reason, "detail": detail})
        if len(self.bad) < SHOWN_BAD_ROWS:
            self.bad.append(f"{source}, {self.units.get(source, 'line')} {line}: {detail}")

    def drop(self, record: Record, reason: str) -> None:
        """A usable row that is left out for a good reason; never an error."""
        self.skipped.append({"source": record.source, "line": record.line, "reason": reason, "detail": ""})

    def settle(self) -> None:
        """Raises UserError for the bad rows so far, unless they may be skipped."""
        if not self.bad or self.lenient:
            self.bad.clear()
            self.reasons.clear()
            return
        total = sum(self.reasons.values())
        rest = (
            ""
            if total == 1
            else f" ({total} bad rows: {_counted(self.reasons.elements())}; the first: {' | '.join(self.bad[1:])})"
        )
        where, _, found = self.bad[0].partition(": ")
        raise UserError(
            where, found + rest, "mend the rows, or set data.on_bad_row=skip to leave them out and count them"
        )


def read_corpus(options: DataOptions, task: Task, *, base: Path, seed: int) -> Corpus:
    """The rows that `options` names, as `task` reads them, divided into splits.

    seed: decides the split where the options name no seed of their own.
    Raises UserError for sources, columns or rows that cannot be used, naming file, line and field.
    """
    tally = _Tally(options.on_bad_row == "skip")
    train_sources = (options.train,) if isinstance(options.train, str) else options.train
    splits = {"train": _records(train_sources, options, task, base, tally)}
    for name, value in (("validation", options.validation), ("test", options.test)):
        if isinstance(value, str):
            splits[name] = _records((value,), options, task, base, tally)
    tally.settle()
    own = _own_sources(splits, tally)
    _keep_apart(splits, tally)
    shares = {
        n: v for n, v in (("validation", options.validation), ("test", options.test)) if isinstance(v, float) and v
    }
    records = splits["train"]
    own_seed = seed if options.seed is None else options.seed
    parts = divide(records, [task.stratum(record) for record in records], shares, own_seed)
    splits |= {name: [records[place] for place in places] for name, places in parts.items()}
    _require_rows(splits["train"], tally)
    learned = _learned(with_paths(task, lambda path: str(base / Path(path).expanduser())), splits["train"], tally)
    before = {name: len(rows) for name, rows in splits.items()}
    splits = {name: _checked(rows, learned, tally) for name, rows in splits.items()}
    unjudged = {name: before[name] - len(rows) for name, rows in splits.items() if len(rows) < before[name]}
    tally.settle()
    _require_rows(splits["train"], tally)
    empty = [
        Finding("split", "warning", f"too few rows for a {name} split of its own")
        for name in shares
        if not splits[name]
    ]
    empty += [_nothing_left(name, tally, sources) for name, sources in own.items() if not splits[name]]
    splits = {name: rows for name, rows in splits.items() if rows}
    ways = {name: len(rows) for name, rows in splits.items()}
    ways |= {f"skipped:{reason}": n for reason, n in Counter(row["reason"] for row in tally.skipped).items()}
    files = file_hashes(options, base)
    corpus = Corpus(
        learned,
        splits,
        Ledger(dict(tally.read), ways),
        tuple(empty),
        files,
        _fingerprint(files, with_paths(task, lambda path: _content(base / Path(path).expanduser())), splits),
        tuple(tally.skipped),
        unjudged,
    )
    return replace(corpus, findings=(*corpus.findings, *audit(corpus)))


def _own_sources(splits: Mapping[str, Sequence[Record]], tally: _Tally) -> dict[str, set[str]]:
    """The sources of each split that has files of its own. Raises UserError where these hold no usable row."""
    for name, records in splits.items():
        if name != "train" and not records:
            raise UserError(f"data.{name}", f"holds no usable rows{_left_out(tally)}", "mend them, or name another")
    return {name: {record.source for record in records} for name, records in splits.items() if name != "train"}


def _nothing_left(name: str, tally: _Tally, sources: Container[str]) -> Finding:
    why = _counted(row["reason"] for row in tally.skipped if row["source"] in sources)
    return Finding("split", "warning", f"no row of data.{name} is left ({why}), so nothing is judged by it")


def without(corpus: Corpus, refused: Mapping[str, Mapping[int, str]]) -> Corpus:
    """The corpus without the rows that are refused, by split, row number and reason; each goes into the ledger.

    Raises UserError when too few are left to learn from.
    """
    if not any(refused.values()):
        return corpus
    tally = _Tally(True)
    tally.skipped += [dict(row) for row in corpus.skipped]
    splits: dict[str, Sequence[Record]] = {}
    for name, records in corpus.splits.items():
        reasons = refused.get(name, {})
        for record in records:
            if record.row in reasons:
                tally.drop(record, reasons[record.row])
        splits[name] = [record for record in records if record.row not in reasons]
    _require_rows(splits["train"], tally)
    unjudged = {name: corpus.unjudged.get(name, 0) + len(refused.get(name, ())) for name in corpus.splits}
    findings = list(corpus.findings)
    for name in (name for name, rows in splits.items() if not rows):
        why = _counted(refused[name].values())
        findings.append(Finding("split", "warning", f"the model can read no {name} row ({why})"))
    splits = {name: rows for name, rows in splits.items() if rows}
    ways = {name: len(rows) for name, rows in splits.items()}
    ways |= {f"skipped:{reason}": n for reason, n in Counter(row["reason"] for row in tally.skipped).items()}
    ledger = Ledger(corpus.ledger.read, ways)
    kept = {name: count for name, count in unjudged.items() if count}
    told: dict[str, Any] = {"findings": tuple(findings), "skipped": tuple(tally.skipped), "unjudged": kept}
    return replace(corpus, splits=splits, ledger=ledger, **told)


def _require_rows(records: Sequence[Record], tally: _Tally) -> None:
    if len(records) < FEWEST_ROWS:
        found = f"leaves {len(records)} usable rows to learn from{_left_out(tally)}"
        raise UserError("data.train", found, f"at least {FEWEST_ROWS} are needed")


def _learned(task: Task, records: Sequence[Record], tally: _Tally) -> Task:
    """The task that knows these rows; where they cannot be learned from, the message also counts those left out."""
    try:
        return task.learn(records)
    except UserError as error:
        raise UserError(error.where, error.found + _left_out(tally), error.fix) from error


def _left_out(tally: _Tally) -> str:
    return f" (left out: {_counted(row['reason'] for row in tally.skipped)})" if tally.skipped else ""


def _counted(reasons: Iterable[str]) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in Counter(reasons).most_common())


def _records(sources: Iterable[str], options: DataOptions, task: Task, base: Path, tally: _Tally) -> list[Record]:
    """The usable rows of some sources; the others are told to the tally."""
    records: list[Record] = []
    columns: set[str] = set()
    wanted = (*task.fields, *([options.group] if options.group else []))
    rows = 0
    for source in sources:
        for number, raw in enumerate(read_source(source, base)):
            if options.limit is not None and number >= options.limit:
                break
            columns.update(raw.fields)
            tally.read[raw.source] += 1
            tally.units[raw.source] = raw.unit
            record = _record(raw, rows, options, task, tally)
            rows += 1
            if record is not None:
                records.append(record)
    named = ", ".join(shown(source, 100)[1:-1] for source in sources)
    for column in wanted:
        if columns and column not in columns:
            there = ", ".join(sorted(map(shown, columns)))
            raise UserError(named, f"has no column {shown(column)}", f"{nearest(column, columns)} (columns: {there})")
    if not rows:
        raise UserError(named, "holds no rows", "a data file needs rows below its header")
    return records


def _record(raw: RawRow, row: int, options: DataOptions, task: Task, tally: _Tally) -> Record | None:
    if raw.problem is not None:
        tally.refuse(raw.source, raw.line, "unreadable", raw.problem)
        return None
    try:
        inputs, target = task.read(raw.fields)
        group = None
        if options.group is not None:
            if raw.fields.get(options.group) in (None, ""):
                raise BadRow(options.group, "nothing", "a group's name", "no_group")
            group = str(raw.fields[options.group])
    except BadRow as error:
        tally.refuse(raw.source, raw.line, error.reason, str(error))
        return None
    return Record(row, raw.source, raw.line, inputs, target, group)


def _keep_apart(splits: dict[str, list[Record]], tally: _Tally) -> None:
    """Leaves out rows whose text or group also stands in a split that judges: of train and validation against
    test, then of train against validation."""
    for judge, judged in (("test", ("train", "validation")), ("validation", ("train",))):
        texts = {text_key(record) for record in splits.get(judge, ())}
        groups = {record.group for record in splits.get(judge, ())} - {None}
        for name in judged:
            kept = []
            for record in splits.get(name, ()):
                if text_key(record) in texts:
                    tally.drop(record, f"also_in_{judge}")
                elif record.group in groups:
                    tally.drop(record, f"group_in_{judge}")
                else:
                    kept.append(record)
            if name in splits:
                splits[name] = kept


def _checked(records: Sequence[Record], task: Task, tally: _Tally) -> list[Record]:
    kept = []
    for record in records:
        try:
            task.check(record)
        except BadRow as error:
            tally.refuse(record.source, record.line, error.reason, str(error))
        else:
            kept.append(record)
    return kept


def file_hashes(options: DataOptions, base: Path) -> dict[str, str]:
    """sha256 of each file that `options` names, by its shown name; a hub data set is named by itself."""
    train = (options.train,) if isinstance(options.train, str) else options.train
    found: dict[str, str] = {}
    for source in (*train, *(value for value in (options.validation, options.test) if isinstance(value, str))):
        for path in source_files(source, base):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            name = file_name(path, base)
            found[name if found.get(name, digest) == digest else os.path.relpath(path, base)] = digest
        if source.startswith("hub:"):
            found[source] = "hub"
    return found


def _content(path: Path) -> str:
    """What tells a file apart wherever it lies."""
    if not path.is_file():
        return path.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(files: dict[str, str], task: Any, splits: dict[str, list[Record]]) -> str:
    """What was learned from: how texts are generated from the tuned model is no part of it."""
    options = _without_decoding(task.model_dump(mode="json"))
    digest = hashlib.sha256(json.dumps([sorted(files.values()), options], sort_keys=True).encode())
    for name, records in sorted(splits.items()):
        digest.update(name.encode())
        for record in records:
            digest.update(f"{record.row} {dict(record.inputs)!r} {record.target!r}\n".encode())
    return digest.hexdigest()


def _without_decoding(options: Any) -> Any:
    if not isinstance(options, dict):
        return options
    return {key: _without_decoding(value) for key, value in options.items() if key != "decoding"}
