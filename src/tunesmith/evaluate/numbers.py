"""Metrics of numbers, with scikit-learn's and scipy's definitions; of several targets, the mean over them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tunesmith.evaluate.metrics import Metric, summed
from tunesmith.given import Predictions


def _error(predictions: Predictions) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = predictions.answers - predictions.gold
    return difference


def _by_row(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 2] of errors [N, L]: their mean over the targets, and 1 for the row; an error that is not finite stays."""
    return np.stack([errors.mean(axis=1), np.ones(len(errors))], axis=1)


def _mean(sums: NDArray[np.float64]) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _rmse(predictions: Predictions) -> float:
    return float(np.sqrt((_error(predictions) ** 2).mean(axis=0)).mean())


def _constant(values: NDArray[np.float64]) -> bool:
    """Whether values [N] differ by no more than rounding."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _correlation(kind: Callable[[Any, Any], Any]) -> Callable[[Predictions], float]:
    def compute(predictions: Predictions) -> float:
        found = []
        for gold, answers in zip(predictions.gold.T, predictions.answers.T, strict=True):
            if len(gold) < 2 or _constant(gold) or _constant(answers):
                return math.nan
            found.append(float(kind(gold, answers).statistic))
        return float(np.mean(found))

    return compute


def _r2(predictions: Predictions) -> float:
    if len(predictions) < 2 or any(map(_constant, predictions.gold.T)):
        return math.nan
    spread = ((predictions.gold - predictions.gold.mean(axis=0)) ** 2).sum(axis=0)
    return float((1 - (_error(predictions) ** 2).sum(axis=0) / spread).mean())


MAE = summed("mae", lambda given: _by_row(np.abs(_error(given))), _mean, higher_is_better=False)
MSE = summed("mse", lambda given: _by_row(_error(given) ** 2), _mean, higher_is_better=False)
RMSE = Metric("rmse", _rmse, higher_is_better=False)
PEARSON = Metric("pearson", _correlation(stats.pearsonr))
SPEARMAN = Metric("spearman", _correlation(stats.spearmanr))
R2 = Metric("r2", _r2)
