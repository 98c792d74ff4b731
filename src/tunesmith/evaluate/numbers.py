"""Metrics of numbers, with scikit-learn's and scipy's definitions; of several targets, the mean over them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tunesmith.evaluate.metrics import Metric
from tunesmith.given import Predictions


def _error(predictions: Predictions) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = predictions.answers - predictions.gold
    return difference


def _mae(predictions: Predictions) -> float:
    return float(np.abs(_error(predictions)).mean())


def _mse(predictions: Predictions) -> float:
    return float((_error(predictions) ** 2).mean())


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


MAE = Metric("mae", _mae, higher_is_better=False)
MSE = Metric("mse", _mse, higher_is_better=False)
RMSE = Metric("rmse", _rmse, higher_is_better=False)
PEARSON = Metric("pearson", _correlation(stats.pearsonr))
SPEARMAN = Metric("spearman", _correlation(stats.spearmanr))
R2 = Metric("r2", _r2)
