"""Rows that a run reads beside its own: earlier or general data that are learned again, held on to, or probed."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.batch import Encoded, Padding, encoded
from tunesmith.contracts import Foundation, Record, Task
from tunesmith.errors import BadRow, UserError, nearest, shown
from tunesmith.house import House, Prepared
from tunesmith.prepare.sources import RawRow, read_source, source_files
from tunesmith.tasks.language import Language


@dataclass(frozen=True)
class Elsewhere:
    """Where rows come from: the recipe's `key` that says so, the source, and whether the rows are those of the run's
    own task (`own`, of which `inputs` need no answers) or texts (`language`)."""

    key: str
    source: str
    task: str = "own"


@dataclass(frozen=True)
class Read:
    """Rows from elsewhere, as their task encodes them. unusable: how many more could not be read."""

    task: Task
    records: Sequence[Record]
    data: Encoded
    padding: Padding
    unusable: int = 0


def require_rows(house: House, foundation: Foundation, place: Elsewhere) -> None:
    """Refuses a source that is not there, and texts for a task whose head is over labels. Raises UserError."""
    if place.task == "language":
        require_language(foundation, house.recipe.task, place.key)
    next(iter(read_source(place.source, house.base)), None)


def require_language(foundation: Foundation, task: Task, key: str) -> None:
    """Refuses texts for a model that is not given the head of a language model. Raises UserError."""
    if task.parts or task.auto_class(foundation.family) != Language().auto_class(foundation.family):
        raise UserError(key, "needs the head of a language model", "leave it out for this task")


def read_rows(house: House, foundation: Foundation, prepared: Prepared, task: Task, place: Elsewhere) -> Read:
    """The usable rows of a source. Raises UserError for one that cannot be read, unless `data.on_bad_row` is skip,
    and for a source without any."""
    own, graded = place.task != "language", place.task != "inputs"
    reader: Any = task if own else Language()
    lenient = house.recipe.data.on_bad_row == "skip"
    records: list[Record] = []
    unusable = 0
    for raw in read_source(place.source, house.base):
        try:
            records.append(_record(raw, len(records) + unusable, reader, graded))
        except UserError:
            if not lenient:
                raise
            unusable += 1
    data = encoded(reader.encode(records, foundation.codec, prepared.max_tokens)) if records else None
    if data is None or not len(data):
        raise UserError(place.key, f"{shown(place.source)} holds no usable rows", "name another source")
    known = [record for record in records if record.row not in data.refused]
    padding = prepared.padding
    if not own:
        padding = replace(padding, columns={**padding.columns, **reader.columns()})
    return Read(reader, known, data, padding, unusable + len(data.refused))


def _record(raw: RawRow, number: int, task: Task, graded: bool) -> Record:
    if raw.problem is not None:
        raise UserError(raw.where, raw.problem, "mend or leave out this row")
    for column in task.fields if graded else task.inputs:
        if column not in raw.fields:
            raise UserError(raw.where, f"has no column {shown(column)}", nearest(column, raw.fields))
    try:
        record = Record(number, raw.source, raw.line, *task.read(raw.fields, with_target=graded))
        if graded:
            task.check(record)
    except BadRow as error:
        raise UserError(raw.where, str(error), "mend or leave out this row") from error
    return record


def digest(house: House, sources: Sequence[str]) -> str:
    """One sha256 over the bytes of all files of some sources; a hub data set counts by its name."""
    whole = hashlib.sha256()
    for part in _contents(house, sources):
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def _contents(house: House, sources: Sequence[str]) -> Iterator[bytes]:
    for source in sources:
        files = source_files(source, house.base)
        yield from (path.read_bytes() for path in files)
        if not files:
            yield source.encode()
