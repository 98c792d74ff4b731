"""Metrics of code: whether it passes its tests, gives the right rows, or is code at all."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluate.execution import (
    Attempt,
    Database,
    QueryFailed,
    is_valid_python,
    is_valid_sql,
    pass_at_k,
    program,
    same_result,
)
from tunesmith.evaluate.metrics import Metric, mean_of
from tunesmith.evaluate.sandbox import run_many
from tunesmith.given import Predictions

REMEMBERED = 100_000
"""Results that are kept, so that a program is run once however many metrics and intervals look at it."""
PROGRAM = "program"


def _rows(predictions: Predictions) -> Sequence[tuple[Mapping[str, Any], Sequence[str], Sequence[str]]] | None:
    """What each row is judged by, its right texts and its answers; None where there is nothing to run."""
    facts = predictions.extras.get(PROGRAM)
    if facts is None or not all(len(given) for given in predictions.answers):
        return None
    return list(zip(facts, predictions.gold, predictions.answers, strict=True))


def _passes(predictions: Predictions, k: int) -> NDArray[np.float64]:
    """The chance that one of k programs passes, a number each row; NaN for rows without tests."""
    rows = _rows(predictions)
    if rows is None:
        return np.full(len(predictions), np.nan)
    wanted = [
        [_source(fact, text) for text in given] if "test" in fact else []
        for fact, _, given in rows
    ]  # fmt: skip
    ran = _ran(tuple(dict.fromkeys(source for sources in wanted for source in sources)))
    return np.array(
        [
            pass_at_k(len(sources), sum(ran[source] for source in sources), k) if len(sources) >= k else np.nan
            for sources in wanted
        ],
        dtype=np.float64,
    )


def _source(fact: Mapping[str, Any], text: str) -> str:
    """The whole program: prompt, answer, what follows a gap, and the tests."""
    if "entry_point" in fact:
        return program(Attempt(fact["prompt"], text, fact["test"], fact["entry_point"]))
    return f"{fact['prompt']}{text}{fact['suffix']}\n{fact['test']}\n"


@lru_cache(maxsize=8)
def _ran(sources: tuple[str, ...]) -> Mapping[str, bool]:
    return {source: ran.passed for source, ran in zip(sources, run_many(sources), strict=True)}


def _same_rows(predictions: Predictions) -> NDArray[np.float64]:
    """1 where the first answer gives the rows of a right query; NaN for rows whose right query does not run."""
    rows = _rows(predictions)
    if rows is None:
        return np.full(len(predictions), np.nan)
    return np.array([_equal(_database(fact), tuple(gold), given[0]) for fact, gold, given in rows], dtype=np.float64)


def _database(fact: Mapping[str, Any]) -> Database | None:
    if "schema" in fact:
        return str(fact["schema"])
    return None if fact["database"] is None else Path(fact["database"])


@lru_cache(maxsize=REMEMBERED)
def _equal(database: Database | None, gold: tuple[str, ...], answer: str) -> float:
    if database is None:
        return np.nan
    known = False
    for right in gold:
        try:
            if same_result(right, answer, database):
                return 1.0
            known = True
        except QueryFailed:
            continue
    return 0.0 if known else np.nan


def _valid(predictions: Predictions) -> NDArray[np.float64]:
    """1 where the first answer is code of its language."""
    rows = _rows(predictions)
    if rows is None:
        return np.full(len(predictions), np.nan)
    checks: Mapping[str, Callable[[str], bool]] = {"sql": is_valid_sql, "python": is_valid_python}
    found = []
    for fact, _, given in rows:
        check = checks.get(fact["language"])
        python = fact["language"] == "python"
        whole = f"{fact['prompt']}{given[0]}{fact['suffix']}"
        found.append(np.nan if check is None else float(check(given[0]) or (python and check(whole))))
    return np.array(found, dtype=np.float64)


PASS_AT_1: Metric = mean_of("pass_at_1", partial(_passes, k=1))
"""pass@1: the chance that a program passes its tests (arXiv:2107.03374, section 2.1)."""
PASS_AT_10: Metric = mean_of("pass_at_10", partial(_passes, k=10))
EXECUTION_ACCURACY: Metric = mean_of("execution_accuracy", _same_rows)
"""The share of queries that give the rows of a right one."""
VALID_CODE: Metric = mean_of("valid_code", _valid)
"""The share of answers that are code of their language, alone or behind their prompt."""
