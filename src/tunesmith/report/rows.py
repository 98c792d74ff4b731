"""Rows of predictions.jsonl in words: what is right and what was answered, of every kind of answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.figures import figures

WORST_ROWS = 20
SHOWN_TEXTS = 20
NO_ANSWER = "no answer"


def texts(predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of the first rows that were answered with a text: what was asked, what is right, and what was answered.

    untuned: what the model answered before it was tuned, None where it was not asked. same: whether the answer is one
    of the right texts.
    """
    written = [row for row in predictions if is_text(row)]
    return [
        {
            "where": row["where"],
            "text": row["text"],
            "right": [str(text) for text in row["gold"]],
            "answer": row["answer"],
            "untuned": row.get("untuned"),
            "same": row.get("correct"),
            "numbers": row.get("numbers") or {},
        }
        for row in written[:SHOWN_TEXTS]
    ]


def is_text(row: Mapping[str, Any]) -> bool:
    """Whether a row was answered with a text that was written, and not with a label, a choice or a place."""
    return isinstance(row["answer"], str) and isinstance(row["gold"], list) and bool(row["gold"])


def worst(predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows that the model was wrong about and most sure of, or farthest off, with `right` and `answered` in words.

    Where nothing is known of its sureness, those come first to whose right text it gave the least likelihood.
    """
    wrong = [row for row in predictions if row.get("correct") is False]
    wrong.sort(key=lambda row: (-(row["confidence"] or 0.0), -_surprise(row)))
    far = sorted((row for row in predictions if row.get("error")), key=lambda row: -row["error"])
    return [{**row, "right": right(row), "answered": answered(row)} for row in (wrong or far)[:WORST_ROWS]]


def _surprise(row: Mapping[str, Any]) -> float:
    """How unlikely the model finds the right text, a token; 0 where that is not known."""
    numbers = row.get("numbers") or {}
    return float(numbers.get("nll", 0.0)) / max(1.0, float(numbers.get("targets", 0.0)))


def right(row: Mapping[str, Any]) -> str:
    """What is right in a row: a label, labels, the text of a choice, spans, places, texts or numbers."""
    gold, scores = row["gold"], list(row.get("scores") or {})
    if isinstance(gold, bool) or not isinstance(gold, list | int):
        return _value(gold)
    if isinstance(gold, int):  # a choice by its place, which scores keep
        return scores[gold] if gold < len(scores) else str(gold)
    if not gold:
        return NO_ANSWER if isinstance(row["answer"], Mapping) else "none"
    return ", ".join(_part(part, row["text"]) for part in gold)


def _part(part: Any, text: str) -> str:
    """A span [start, end, label], a place [text, start], or a value."""
    if isinstance(part, list) and len(part) == 3:
        start, end, label = part
        return f"{label}: {text[start:end]}"
    return str(part[0]) if isinstance(part, list) else _value(part)


def answered(row: Mapping[str, Any]) -> str:
    """What was answered in a row, in the words of `right`."""
    answer = row["answer"]
    if isinstance(answer, Mapping) and isinstance(answer.get("text"), str):
        return answer["text"] or NO_ANSWER
    if isinstance(answer, Mapping):
        return " ".join(f"{name} {_value(value)}" for name, value in answer.items())
    if isinstance(answer, list):
        spans = (f"{one['label']}: {one['text']}" if isinstance(one, Mapping) else str(one) for one in answer)
        return ", ".join(spans) or "none"
    return _value(answer) or "an empty text"


def _value(value: Any) -> str:
    return figures(value)[0] if isinstance(value, float) else str(value)
