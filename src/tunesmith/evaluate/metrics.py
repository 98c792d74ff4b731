"""What a metric is, and a set of them measured at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluate import METRICS
from tunesmith.given import Predictions


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are.

    compute: gives NaN where the metric is not defined (a correlation with a constant, no rows at all).
    needs_scores: whether it looks at probabilities, which some predictors do not have.
    sums: numbers of each row, [N, K], whose sums are all that `value` needs: resampling is then a matrix product.
    note: how the value is to be read, where its name does not say so (a signature, a scale).
    """

    name: str
    compute: Callable[[Predictions], float]
    higher_is_better: bool = True
    needs_scores: bool = False
    sums: Callable[[Predictions], NDArray[np.float64]] | None = None
    value: Callable[[NDArray[np.float64]], float] | None = None
    note: Callable[[Predictions], str] | None = None

    def __call__(self, predictions: Predictions) -> float:
        """The value, or NaN where it is not defined."""
        if not len(predictions) or (self.needs_scores and predictions.scores is None):
            return math.nan
        return self.compute(predictions)


def summed(
    name: str,
    sums: Callable[[Predictions], NDArray[np.float64]],
    value: Callable[[NDArray[np.float64]], float],
    *,
    higher_is_better: bool = True,
    note: Callable[[Predictions], str] | None = None,
) -> Metric:
    """A metric of a whole split that depends on sums over its rows alone.

    sums: [N, K] of predictions; no rows of them where the predictions lack what is measured. value: of the [K] sums.
    """

    def compute(predictions: Predictions) -> float:
        found = sums(predictions)
        return value(found.sum(axis=0)) if len(found) else math.nan

    return Metric(name, compute, higher_is_better, sums=sums, value=value, note=note)


def mean_of(
    name: str, values: Callable[[Predictions], NDArray[np.float64]], *, higher_is_better: bool = True
) -> Metric:
    """A metric that is the mean of a number of each row, [N]; rows where it is NaN are left out."""

    def sums(predictions: Predictions) -> NDArray[np.float64]:
        found = values(predictions)
        known = ~np.isnan(found)
        return (
            np.stack([np.where(known, found, 0.0), known.astype(np.float64)], axis=1) if len(found) else found[:, None]
        )

    return summed(
        name,
        sums,
        lambda total: float(total[0] / total[1]) if total[1] else math.nan,
        higher_is_better=higher_is_better,
    )


def find(name: str) -> Metric:
    """The metric of this name; PART/NAME is the metric NAME of that part of a task's predictions."""
    part, divides, inner = name.partition("/")
    if not divides:
        found: Metric = METRICS.load(name)
        return found
    own: Metric = METRICS.load(inner)

    def compute(predictions: Predictions) -> float:
        return own(predictions.parts[part]) if part in predictions.parts else math.nan

    return Metric(f"{part}/{own.name}", compute, own.higher_is_better)


def worth(predictions: Predictions, name: str) -> NDArray[np.float64]:
    """[N] how good each row is by this metric as if it stood alone, more being better; 0 where that is not defined."""
    metric = find(name)
    if metric.sums is None or metric.value is None:
        values = [metric(predictions.take(np.array([place]))) for place in range(len(predictions))]
    else:
        values = [metric.value(row) for row in metric.sums(predictions)]
    alone = np.array(values, dtype=np.float64)
    return np.nan_to_num(alone if metric.higher_is_better else -alone)


def measure(predictions: Predictions, names: Sequence[str]) -> dict[str, float | None]:
    """The value of each named metric, by the metric's own name; None where these predictions do not define it."""
    metrics: list[Metric] = [find(name) for name in names]
    values = {metric.name: metric(predictions) for metric in metrics}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
