"""How sure a score is, and whether two systems really differ on the same rows."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.contracts import Interval
from tunesmith.evaluate.metrics import Metric
from tunesmith.given import Predictions


def bootstrap(predictions: Predictions, metric: Metric, *, resamples: int, level: float, seed: int) -> Interval:
    """The metric with its percentile bootstrap interval over rows (Efron and Tibshirani 1993, chapter 13).

    Resamples on which the metric is not defined are left out; the limits are NaN when none is left.
    """
    value = metric(predictions)
    if metric.sums is not None and metric.value is not None:
        drawn = _drawn_sums(metric.sums(predictions), resamples, seed)
        return percentiles(value, np.array([metric.value(sums) for sums in drawn]), level)
    draws = _draws(len(predictions), resamples, seed)
    found = np.array([metric(predictions.take(index)) for index in draws])
    return percentiles(value, found, level)


def difference(a: Predictions, b: Predictions, metric: Metric, *, resamples: int, level: float, seed: int) -> Interval:
    """metric(a) - metric(b) with the percentile interval of the paired bootstrap: the same rows drawn for both."""
    value = metric(a) - metric(b)
    if math.isnan(value):
        return Interval(value, math.nan, math.nan, level)
    if metric.sums is not None and metric.value is not None:
        pairs = zip(*(_drawn_sums(metric.sums(one), resamples, seed) for one in (a, b)), strict=True)
        found = np.array([metric.value(ours) - metric.value(theirs) for ours, theirs in pairs])
    else:
        found = np.array([metric(a.take(index)) - metric(b.take(index)) for index in _draws(len(a), resamples, seed)])
    return percentiles(value, found, level)


def paired_test(a: Predictions, b: Predictions, metric: Metric, *, permutations: int, seed: int) -> float:
    """p value, two-sided, for a and b being equally good: approximate randomisation (Noreen 1989, section 2A).

    In each permutation every row's two answers change sides with probability one half.
    """
    scores = metric(a), metric(b)
    observed = abs(scores[0] - scores[1])
    if math.isnan(observed):
        return math.nan
    rounding = 1e-12 * max(map(abs, scores))
    generator = np.random.default_rng(seed)
    swapped_gap = _swapped_gap(a, b, metric)
    extreme = 0
    for _ in range(permutations):
        extreme += swapped_gap(generator.random(len(a)) < 0.5) >= observed - rounding
    return (extreme + 1) / (permutations + 1)


def _swapped_gap(a: Predictions, b: Predictions, metric: Metric) -> Callable[[NDArray[np.bool_]], float]:
    """How far apart two systems are when the answers of some rows change sides."""
    if metric.sums is None or metric.value is None:
        return lambda swap: abs(metric(_mixed(a, b, swap)) - metric(_mixed(b, a, swap)))
    ours, theirs = metric.sums(a), metric.sums(b)
    both, gap, value = ours.sum(axis=0) + theirs.sum(axis=0), theirs - ours, metric.value

    def found(swap: NDArray[np.bool_]) -> float:
        first = ours.sum(axis=0) + gap[swap].sum(axis=0)
        return abs(value(first) - value(both - first))

    return found


def _drawn_sums(rows: NDArray[np.float64], resamples: int, seed: int) -> list[NDArray[np.float64]]:
    """Of each resample the sums over its rows, [K]."""
    size = len(rows)
    if not size:
        return []
    return [np.bincount(index, minlength=size).astype(np.float64) @ rows for index in _draws(size, resamples, seed)]


def smallest_detectable(rows: int, accuracy: float) -> float | None:
    """The smallest gain in accuracy that a test of this size would find 4 times in 5 at the 5 % level.

    Two independent proportions: (z_0.975 + z_0.8) * sqrt(2 p (1 - p) / n) (Fleiss, Levin and Paik 2003, section 4.3).
    A paired test can find less. No gain is larger than 1. None without rows.
    """
    if rows == 0:
        return None
    spread = max(accuracy * (1 - accuracy), 1 / (4 * rows))
    return min(1.0, (1.959964 + 0.841621) * math.sqrt(2 * spread / rows))


def _draws(rows: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Row numbers of each resample, [resamples, rows]."""
    return np.random.default_rng(seed).integers(0, max(rows, 1), size=(resamples, rows))


def percentiles(value: float, found: NDArray[np.float64], level: float) -> Interval:
    """The value with the limits between which the share `level` of what was found lies; NaN where none is defined."""
    defined = found[~np.isnan(found)]
    if not len(defined):
        return Interval(value, math.nan, math.nan, level)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)


def plain(found: Interval) -> dict[str, float | None]:
    """An interval as files hold it: what is not defined is null."""
    values = {"value": found.value, "low": found.low, "high": found.high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _mixed(a: Predictions, b: Predictions, swap: NDArray[np.bool_]) -> Predictions:
    """a's answers with what goes along with them, but b's where `swap` is set; what only one side has is left out."""

    def mixed(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
        return np.where(swap.reshape(-1, *(1,) * (ours.ndim - 1)), theirs, ours)

    scores = None if a.scores is None or b.scores is None else mixed(a.scores, b.scores)
    extras = {name: mixed(values, b.extras[name]) for name, values in a.extras.items() if name in b.extras}
    return replace(a, answers=mixed(a.answers, b.answers), scores=scores, extras=extras)
