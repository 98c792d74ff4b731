"""What a finished trial answered on the judged rows, read from its folder so that any draw of rows can be scored."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.contracts import parts_of
from tunesmith.errors import UserError, named
from tunesmith.evaluate.metrics import Metric, find
from tunesmith.given import Predictions
from tunesmith.run import Run
from tunesmith.search.choice import Scored

CLOSE = 1e-9
"""How near, in proportion, what is read must come to what the trial itself measured."""


@dataclass(frozen=True)
class Judged:
    """The judged rows of a trial. rows: their numbers in the data. split: which they are. value: what was reached.

    tallies: [N, K], what each row adds to a metric that is made of sums; predictions: for any other metric.
    """

    metric: Metric
    rows: tuple[int, ...]
    split: str
    value: float
    tallies: NDArray[np.float64] | None
    predictions: Predictions | None

    def on(self, index: NDArray[np.int64]) -> float:
        """The metric on the rows at these places, repeated where they repeat; NaN where it is not defined."""
        if self.tallies is not None and self.metric.value is not None:
            return self.metric.value(self.tallies[index].sum(axis=0)) if len(index) else math.nan
        if self.predictions is None:
            return math.nan
        return self.metric(self.predictions.take(index))

    def reach(self) -> tuple[float, float]:
        """The lowest and the highest score of a single row; 0 and 0 where none has one of its own."""
        alone = np.array([self.on(np.array([place])) for place in range(len(self.rows))])
        known = alone[np.isfinite(alone)]
        return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


def read_judged(run: Run) -> Judged:
    """The judged rows of a complete run. Raises UserError where its files do not tell the score that it has."""
    judged, task = run.read_json("evaluation.json"), run.recipe().task
    name, _, _ = judged["main"].rpartition("/")
    metric = find(parts_of(task)[name].metrics[0])
    lines = [json.loads(line) for line in run.predictions.read_bytes().splitlines()]
    own = [line for line in lines if line.get("part", "") == name]
    value = judged["metrics"][judged["main"]]["value"]
    tallies = np.array([line["tally"] for line in own], dtype=np.float64) if own and "tally" in own[0] else None
    predictions = _predictions(own) if tallies is None and own else None
    rows = tuple(line["row"] for line in own)
    found = Judged(metric, rows, judged["split"], math.nan if value is None else value, tallies, predictions)
    again = found.on(np.arange(len(rows)))
    if value is not None and not math.isclose(again, value, rel_tol=CLOSE, abs_tol=CLOSE):
        what = f"{metric.name} cannot be told from its predictions.jsonl ({again:g} instead of {value:g})"
        raise UserError(named(run.folder), what, "compare by another task.metric")
    return found


def _predictions(lines: Sequence[Mapping[str, Any]]) -> Predictions:
    """Labels or numbers beside what is right, as they stand in lines of predictions.jsonl."""
    numbers = np.array([line["row"] for line in lines])
    if lines[0]["error"] is not None:
        gold, answers = (np.array([_numbers(line[key]) for line in lines]) for key in ("gold", "answer"))
        return Predictions(numbers, gold, answers, None, tuple(map(str, range(gold.shape[1]))), "numbers")
    names = tuple(lines[0]["scores"])
    scores = np.array([[line["scores"].get(name, 0.0) for name in names] for line in lines])
    if not isinstance(lines[0]["answer"], list):
        place = {name: number for number, name in enumerate(names)}
        gold, answers = (np.array([place.get(str(line[key]), -1) for line in lines]) for key in ("gold", "answer"))
        return Predictions(numbers, gold, answers, scores, names)
    gold, answers = (
        np.array([[int(name in line[key]) for name in names] for line in lines]) for key in ("gold", "answer")
    )
    return Predictions(numbers, gold, answers, scores, names, "labels")


def _numbers(found: Any) -> list[float]:
    return list(found.values()) if isinstance(found, Mapping) else found if isinstance(found, list) else [found]


def common(trials: Mapping[Any, Judged]) -> dict[Any, Judged]:
    """The trials on the rows that every one of them judged, in one order."""
    shared = set.intersection(*(set(one.rows) for one in trials.values())) if trials else set()
    return {key: _only(one, shared) for key, one in trials.items()}


def _only(one: Judged, rows: set[int]) -> Judged:
    places = sorted((row, place) for place, row in enumerate(one.rows) if row in rows)
    index = np.array([place for _, place in places], dtype=np.int64)
    return replace(
        one,
        rows=tuple(row for row, _ in places),
        tallies=None if one.tallies is None else one.tallies[index],
        predictions=None if one.predictions is None else one.predictions.take(index),
    )


def scored(trials: Sequence[Judged], *, draws: int, seed: int) -> Scored:
    """The scores of one method's seeds on all rows, and on rows drawn anew: the same for every method with as many."""
    size = len(trials[0].rows)
    points = np.array([one.on(np.arange(size)) for one in trials])
    index = np.random.default_rng(seed).integers(0, max(size, 1), size=(draws if size else 0, size))
    return Scored(points, np.array([[one.on(drawn) for drawn in index] for one in trials]).reshape(len(trials), -1))
