"""Metrics of labels, one or several a row, with scikit-learn's definitions; and the tables behind them.

Absent classes: F1 is averaged over the labels that occur in gold or answers, as scikit-learn does by default, and
counts as 0 where a label was given but never right.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from tunesmith.evaluate.metrics import Metric, mean_of
from tunesmith.given import Predictions


def _several(predictions: Predictions) -> bool:
    return predictions.gold.ndim == 2


def _right(predictions: Predictions) -> NDArray[np.float64]:
    """[N] 1 where the answer is right, of several labels a row where all are; else 0."""
    same = predictions.gold == predictions.answers
    return np.asarray(same.all(axis=1) if _several(predictions) else same, dtype=np.float64)


def _counts(predictions: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Right answers, answers and gold of each label, [L] each."""
    gold, answers, size = predictions.gold, predictions.answers, len(predictions.labels)
    if _several(predictions):
        right = (gold * answers).sum(axis=0)
        return right.astype(float), answers.sum(axis=0).astype(float), gold.sum(axis=0).astype(float)
    right = np.bincount(gold[gold == answers], minlength=size)
    given, there = np.bincount(answers, minlength=size), np.bincount(gold, minlength=size)
    return right.astype(float), given.astype(float), there.astype(float)


def _label_f1(predictions: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F1 and gold rows of each label that occurs in gold or answers (of every label when a row has several)."""
    right, given, there = _counts(predictions)
    known = (given + there) > 0
    if _several(predictions):
        known = np.ones_like(known)
    both = (given + there)[known]
    f1 = np.divide(2 * right[known], both, out=np.zeros_like(both), where=both > 0)
    return f1, there[known]


def _macro_f1(predictions: Predictions) -> float:
    return float(_label_f1(predictions)[0].mean())


def _weighted_f1(predictions: Predictions) -> float:
    f1, there = _label_f1(predictions)
    return float((f1 * there).sum() / there.sum()) if there.sum() else 0.0


def _micro_f1(predictions: Predictions) -> float:
    right, given, there = (values.sum() for values in _counts(predictions))
    return float(2 * right / (given + there)) if given + there else 0.0


def _samples_f1(predictions: Predictions) -> float:
    if not _several(predictions):
        return float(_right(predictions).mean())
    right = (predictions.gold * predictions.answers).sum(axis=1)
    both = predictions.gold.sum(axis=1) + predictions.answers.sum(axis=1)
    return float(np.divide(2.0 * right, both, out=np.zeros(len(both)), where=both > 0).mean())


def _hamming_loss(predictions: Predictions) -> float:
    return float(np.mean(predictions.gold != predictions.answers))


def _mcc(predictions: Predictions) -> float:
    """0 where gold or the answers are all the same; not defined where both are, nor for several labels a row."""
    right, given, there = _counts(predictions)
    if _several(predictions) or np.count_nonzero(given + there) == 1:
        return math.nan
    rows = len(predictions)
    spread = (rows**2 - (given**2).sum()) * (rows**2 - (there**2).sum())
    return float((right.sum() * rows - (given * there).sum()) / math.sqrt(spread)) if spread else 0.0


def _binary_columns(predictions: Predictions) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Gold as 0 and 1 and scores, [N, L] both, of the labels that some rows have and some have not."""
    assert predictions.scores is not None
    gold = predictions.gold if _several(predictions) else np.eye(len(predictions.labels), dtype=int)[predictions.gold]
    mixed = (gold.min(axis=0) == 0) & (gold.max(axis=0) == 1)
    return gold[:, mixed], predictions.scores[:, mixed]


def _roc_auc(predictions: Predictions) -> float:
    """One against the rest, averaged over the labels that can be told apart on these rows."""
    gold, scores = _binary_columns(predictions)
    if not gold.shape[1]:
        return math.nan
    return float(np.mean([metrics.roc_auc_score(gold[:, k], scores[:, k]) for k in range(gold.shape[1])]))


def _average_precision(predictions: Predictions) -> float:
    gold, scores = _binary_columns(predictions)
    if not gold.shape[1]:
        return math.nan
    return float(np.mean([metrics.average_precision_score(gold[:, k], scores[:, k]) for k in range(gold.shape[1])]))


def _log_loss(predictions: Predictions) -> float:
    assert predictions.scores is not None
    least = np.finfo(np.float64).eps  # what scikit-learn takes for the logarithm of nothing
    if _several(predictions):
        right = np.where(predictions.gold == 1, predictions.scores, 1 - predictions.scores)
        return float(-np.log(np.maximum(right, least)).mean())
    right = predictions.scores[np.arange(len(predictions)), predictions.gold]
    return float(-np.log(np.maximum(right, least)).mean())


ACCURACY = mean_of("accuracy", _right)
MACRO_F1 = Metric("macro_f1", _macro_f1)
MICRO_F1 = Metric("micro_f1", _micro_f1)
WEIGHTED_F1 = Metric("weighted_f1", _weighted_f1)
SAMPLES_F1 = Metric("samples_f1", _samples_f1)
EXACT_MATCH = mean_of("exact_match", _right)
HAMMING_LOSS = Metric("hamming_loss", _hamming_loss, higher_is_better=False)
MCC = Metric("mcc", _mcc)
ROC_AUC = Metric("roc_auc", _roc_auc, needs_scores=True)
AVERAGE_PRECISION = Metric("average_precision", _average_precision, needs_scores=True)
LOG_LOSS = Metric("log_loss", _log_loss, higher_is_better=False, needs_scores=True)


def confusion(predictions: Predictions) -> dict[str, Any] | None:
    """Rows by gold (down) and answer (across): {"labels", "counts"}; None when a row can have several labels."""
    if _several(predictions):
        return None
    size = len(predictions.labels)
    counts = metrics.confusion_matrix(predictions.gold, predictions.answers, labels=list(range(size)))
    return {"labels": list(predictions.labels), "counts": counts.tolist()}


def per_class(predictions: Predictions) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of gold rows of each label; None where nothing was there to divide by."""
    right, given, there = _counts(predictions)
    table = []
    for place, label in enumerate(predictions.labels):
        precision = float(right[place] / given[place]) if given[place] else None
        recall = float(right[place] / there[place]) if there[place] else None
        both = given[place] + there[place]
        f1 = float(2 * right[place] / both) if both else None
        table.append({"label": label, "precision": precision, "recall": recall, "f1": f1, "support": int(there[place])})
    return table
