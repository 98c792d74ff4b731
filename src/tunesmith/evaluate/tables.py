"""The tables behind a score: which answers were confused, and how each kind of answer did."""

from typing import Any

from tunesmith.evaluate.entities import by_label
from tunesmith.evaluate.labels import confusion, per_class
from tunesmith.evaluate.spans import counts
from tunesmith.given import Predictions


def tables(predictions: Predictions) -> dict[str, Any]:
    """{"confusion", "per_class"}: None where these predictions have no such table."""
    if predictions.kind in ("label", "labels"):
        return {"confusion": confusion(predictions), "per_class": per_class(predictions)}
    if predictions.kind == "spans":
        return {"confusion": None, "per_class": by_label(counts(predictions).sum(axis=0), predictions.labels)}
    return {"confusion": None, "per_class": None}
