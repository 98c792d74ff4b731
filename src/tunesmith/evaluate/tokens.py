"""Metrics of texts that are scored token by token and not generated."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluate.metrics import Metric, summed
from tunesmith.given import Predictions

LARGEST = 700.0
"""Its exponential is about as much as a float can hold."""


def _extras(*names: str) -> Callable[[Predictions], NDArray[np.float64]]:
    """The named numbers of each row, [N, K]; no rows where the predictions lack one."""

    def found(predictions: Predictions) -> NDArray[np.float64]:
        if any(name not in predictions.extras for name in names):
            return np.zeros((0, len(names)))
        return np.stack([predictions.extras[name] for name in names], axis=1).astype(np.float64)

    return found


def _perplexity(sums: NDArray[np.float64]) -> float:
    return math.exp(min(LARGEST, sums[0] / sums[1])) if sums[1] else math.nan


def _bits(sums: NDArray[np.float64]) -> float:
    return float(sums[0] / math.log(2) / sums[1]) if sums[1] else math.nan


def _share(sums: NDArray[np.float64]) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


PERPLEXITY: Metric = summed("perplexity", _extras("nll", "targets"), _perplexity, higher_is_better=False)
"""The exponential of the mean negative log-likelihood of a graded token."""
BITS_PER_BYTE: Metric = summed("bits_per_byte", _extras("nll", "bytes"), _bits, higher_is_better=False)
"""Bits of all graded tokens over the bytes of the text: comparable between tokenizers, for causal models."""
TOKEN_ACCURACY: Metric = summed("token_accuracy", _extras("tokens_right", "targets"), _share)
"""The share of graded tokens that would be chosen."""
REPLY_LOSS: Metric = summed("reply_nll", _extras("nll", "targets"), _share, higher_is_better=False)
"""The mean negative log-likelihood of a token of the right reply."""
STOP_RATE: Metric = summed("stop_rate", _extras("stopped", "replies"), _share)
"""The share of generated texts that ended by themselves."""
FORMAT_VALID: Metric = summed("format_valid", _extras("formed", "asked"), _share)
"""The share of generated texts that are of the form that was asked for."""
REWARD_ACCURACY: Metric = summed("reward_accuracy", _extras("right", "pairs"), _share)
"""The share of pairs whose chosen reply has the higher reward; ties count as wrong."""
REWARD_MARGIN: Metric = summed("reward_margin", _extras("margin", "pairs"), _share)
"""The mean difference of the rewards of chosen and rejected replies."""
