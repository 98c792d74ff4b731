"""Whether right programs pass their own tests: looked at before anything is learned from them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tunesmith.contracts import Corpus, Finding, Record, Task, parts_of
from tunesmith.errors import UserError
from tunesmith.evaluate.metrics import worth
from tunesmith.given import objects

RUN_BY_TESTS = "pass_at_1"
MOST_RUN = 50
"""Right programs that are run, spread evenly over all rows."""
SHOWN = 5


def with_references(corpus: Corpus) -> Corpus:
    """The corpus with a finding where right programs fail. Nothing is run of a task without tests."""
    return replace(corpus, findings=(*corpus.findings, *_failing(corpus)))


def _failing(corpus: Corpus) -> Iterator[Finding]:
    for name, task in parts_of(corpus.task).items():
        rows = [record for rows in corpus.splits.values() for record in corpus.task.of_part(name, rows)]
        if RUN_BY_TESTS not in task.metrics or not rows:
            continue
        looked_at = [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, MOST_RUN).astype(int))]
        where = f"{name}: " if name else ""
        try:
            failed = _fails(task, looked_at)
        except UserError as error:
            found = f"{where}no right program was run against its tests: {error.found}"
            yield Finding("references", "info", found, len(looked_at))
            continue
        if failed:
            found = f"{where}{len(failed)} of {len(looked_at)} right programs that were run fail their own tests"
            yield Finding("references", "warning", found, len(failed), tuple(one.where for one in failed[:SHOWN]))


def _fails(task: Task, records: list[Record]) -> list[Record]:
    """The records whose first right program fails. Raises UserError on a machine without a sandbox."""
    right = task.gold(records)
    answers = objects([(texts[0],) for texts in right.gold])
    passed = worth(replace(right, answers=answers), RUN_BY_TESTS)
    return [record for record, one in zip(records, passed, strict=True) if one < 1]
