"""Spans that are found exactly: right, given and there, counted by row, and what follows from their sums.

A span is right when start, end and label are all those of one that is there; nothing is half right, as in CoNLL's
and seqeval's counting. Absent labels: a mean is over the labels that occur in gold or answers, as in seqeval; a label
that was given but never there, or there but never given, counts as 0.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Spans = Iterable[tuple[int, int, str]]


class Scores(NamedTuple):
    """How many of the answers are right, how many of what is there was found, and their harmonic mean."""

    precision: float
    recall: float
    f1: float


def entity_counts(gold: Sequence[Spans], answers: Sequence[Spans], labels: Sequence[str]) -> NDArray[np.float64]:
    """Of each row the right, the given and the spans that are there, by label, [N, 3 * L] in that order.

    gold, answers: of each row spans (start, end, label), in whatever unit both have. A span that is listed twice
    counts once. Raises ValueError for a label that is not among `labels`.
    """
    places = {label: place for place, label in enumerate(labels)}
    counts = np.zeros((len(gold), 3, len(labels)))
    for row, (there, given) in enumerate(zip(gold, answers, strict=True)):
        known, found = {tuple(span) for span in there}, {tuple(span) for span in given}
        for kind, spans in enumerate((known & found, found, known)):
            for label, count in Counter(span[2] for span in spans).items():
                if label not in places:
                    raise ValueError(f"label {label!r} is not one of {len(labels)} labels")
                counts[row, kind, places[label]] = count
    return counts.reshape(len(gold), 3 * len(labels))


def micro(sums: NDArray[np.float64]) -> Scores:
    """Scores over the spans of all labels; NaN where no span is there and none was given.

    sums: [3 * L], of `entity_counts` over rows.
    """
    right, given, there = _parts(sums).sum(axis=1)
    return _scores(right, given, there) if given + there else Scores(math.nan, math.nan, math.nan)


def macro(sums: NDArray[np.float64]) -> Scores:
    """The mean of the labels' scores; NaN where no span is there and none was given. sums: as in `micro`."""
    of_labels = [_scores(*one) for one in _parts(sums).T if one[1] + one[2]]
    return Scores(*np.mean(of_labels, axis=0).tolist()) if of_labels else Scores(math.nan, math.nan, math.nan)


def by_label(sums: NDArray[np.float64], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of gold spans of each label; None where nothing was there to divide by."""
    table = []
    for label, (right, given, there) in zip(labels, _parts(sums).T, strict=True):
        precision = float(right / given) if given else None
        recall = float(right / there) if there else None
        f1 = float(2 * right / (given + there)) if given + there else None
        table.append({"label": label, "precision": precision, "recall": recall, "f1": f1, "support": int(there)})
    return table


def _parts(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, L]: right, given, there."""
    return np.asarray(sums, dtype=np.float64).reshape(3, -1)


def _scores(right: float, given: float, there: float) -> Scores:
    precision, recall = right / given if given else 0.0, right / there if there else 0.0
    return Scores(float(precision), float(recall), float(2 * right / (given + there)))
