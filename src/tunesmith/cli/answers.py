"""An answer in words: what a terminal shows of each kind that a task can give."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_ROW = 80
"""Characters that are shown of what was asked, beside an answer that matters more."""


def answer_lines(row: Any, value: Any, scores: Mapping[str, float], top: int, *, alone: bool) -> list[str]:
    """The lines to print of one answer: a text in full, below what was asked unless it stands alone; else one line.

    row: what was asked. top: how many scores are shown of a label or a choice.
    """
    asked = shown_row(row)
    if is_text(value, scores):
        return value.splitlines() or [""] if alone else [f"> {asked}", *value.splitlines(), ""]
    return [f"{answer_text(value, scores, top)}  |  {asked}"]


def is_text(value: Any, scores: Mapping[str, float]) -> bool:
    """Whether an answer was written, not chosen: only chosen ones have scores."""
    return isinstance(value, str) and not scores


def answer_text(value: Any, scores: Mapping[str, float], top: int) -> str:
    """One answer on one line: labels or choices with their scores, spans, a stretch of text, numbers or a text."""
    if isinstance(value, str):
        best = sorted(scores.items(), key=lambda entry: -entry[1])[:top]
        return "  ".join(f"{name} {_score(score)}" for name, score in best) or value
    if isinstance(value, list):
        return _listed(value, scores)
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        return f"{value['text'] or 'no answer'} {_score(value['probability'])}"
    if isinstance(value, Mapping) and all(isinstance(number, float | int) for number in value.values()):
        return ", ".join(f"{name} {number:.4g}" for name, number in value.items())
    if isinstance(value, Mapping):  # of several tasks
        return "; ".join(f"{name}: {answer_text(part, _of(name, scores), top)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _of(name: str, scores: Mapping[str, float]) -> dict[str, float]:
    """The scores that one of several tasks gave."""
    return {key.removeprefix(f"{name}/"): score for key, score in scores.items() if key.startswith(f"{name}/")}


def _listed(value: Sequence[Any], scores: Mapping[str, float]) -> str:
    """Spans with their labels, or the labels that a row has."""
    if not value:
        return "no label" if scores else "no entity"
    if isinstance(value[0], Mapping):
        return ", ".join(f"{span['label']}: {span['text']} {_score(span['score'])}" for span in value)
    return ", ".join(f"{name} {_score(scores[name])}" for name in value)


def _score(score: float) -> str:
    """A probability to two places; what is none (a reward, say) to three digits."""
    return f"{score:.2f}" if 0 <= score <= 1 else f"{score:.3g}"


def shown_row(row: Any) -> str:
    """What was asked, cut to a line; of a conversation the last turn."""
    if isinstance(row, Mapping) and isinstance(row.get("messages"), list) and row["messages"]:
        row = row["messages"][-1]
    if isinstance(row, Mapping) and isinstance(row.get("content"), str):
        row = row["content"]
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_ROW else text[: LONGEST_ROW - 1] + "…"
