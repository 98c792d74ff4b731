"""One row of a judged split, as it is kept for people to look at."""

from typing import Any

import numpy as np

from tunesmith.contracts import Record
from tunesmith.given import Answer, Predictions


def prediction_line(predictions: Predictions, place: int, record: Record, answer: Answer) -> dict[str, Any]:
    """What predictions.jsonl says of one row: what was asked, what is right, what was answered and how surely."""
    line: dict[str, Any] = {
        "row": record.row,
        "where": record.where,
        "text": record.text,
        "gold": record.target,
        "answer": answer.value,
        "confidence": None,
        "correct": None,
        "error": None,
        "scores": dict(answer.scores),
    }
    gold, given = predictions.gold[place], predictions.answers[place]
    if predictions.kind == "numbers":
        return line | {"error": float(np.abs(given - gold).mean())}
    if predictions.kind in ("spans", "texts", "scores"):
        extras = predictions.extras.items()
        numbers = {name: float(values[place]) for name, values in extras if values.dtype != object and values.ndim == 1}
        right = None if predictions.kind == "scores" else bool(_right(predictions, place))
        return line | {"correct": right, "numbers": numbers}
    return line | {"correct": bool(np.all(gold == given)), "confidence": _confidence(predictions, place)}


def _right(predictions: Predictions, place: int) -> bool:
    """Whether the answer is the right one, or one of those that are."""
    gold, given = predictions.gold[place], predictions.answers[place]
    if predictions.kind == "texts":
        return bool(given) and given[0] in gold
    return set(gold) == set(given)


def _confidence(predictions: Predictions, place: int) -> float:
    """How likely the model takes its whole answer to be right."""
    assert predictions.scores is not None
    scores = predictions.scores[place]
    if predictions.answers.ndim == 1:
        return float(scores[predictions.answers[place]])
    return float(np.where(predictions.answers[place] == 1, scores, 1 - scores).min())
