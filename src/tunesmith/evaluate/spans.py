"""Metrics of spans, such as named entities: exact in start, end and label, as seqeval counts them."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluate.entities import Scores, entity_counts, macro, micro
from tunesmith.evaluate.metrics import Metric, summed
from tunesmith.given import Predictions


def counts(predictions: Predictions) -> NDArray[np.float64]:
    """[N, 3 * L] of `entity_counts`; no rows where the predictions are no spans."""
    if predictions.kind != "spans":
        return np.zeros((0, 1))
    return entity_counts(predictions.gold.tolist(), predictions.answers.tolist(), predictions.labels)


def _one(scores: Callable[[NDArray[np.float64]], Scores], name: str, sums: NDArray[np.float64]) -> float:
    return float(getattr(scores(sums), name))


ENTITY_F1: Metric = summed("entity_f1", counts, partial(_one, micro, "f1"))
ENTITY_PRECISION: Metric = summed("entity_precision", counts, partial(_one, micro, "precision"))
ENTITY_RECALL: Metric = summed("entity_recall", counts, partial(_one, micro, "recall"))
ENTITY_MACRO_F1: Metric = summed("entity_macro_f1", counts, partial(_one, macro, "f1"))
