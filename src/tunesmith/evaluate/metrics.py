"""What a metric is, and a set of them measured at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunesmith.contracts import Predictions
from tunesmith.evaluate import METRICS


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are.

    compute: gives NaN where the metric is not defined (a correlation with a constant, no rows at all).
    needs_scores: whether it looks at probabilities, which some predictors do not have.
    """

    name: str
    compute: Callable[[Predictions], float]
    higher_is_better: bool = True
    needs_scores: bool = False

    def __call__(self, predictions: Predictions) -> float:
        """The value, or NaN where it is not defined."""
        if not len(predictions) or (self.needs_scores and predictions.scores is None):
            return math.nan
        return self.compute(predictions)


def measure(predictions: Predictions, names: Sequence[str]) -> dict[str, float | None]:
    """The value of each named metric, by the metric's own name; None where these predictions do not define it."""
    metrics: list[Metric] = [METRICS.load(name) for name in names]
    values = {metric.name: metric(predictions) for metric in metrics}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
