"""From which score on a question is better left without an answer."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def best_threshold(
    no_answer: NDArray[Any], if_answered: NDArray[Any], if_unanswered: NDArray[Any]
) -> tuple[float, float]:
    """The threshold that gives the highest mean score, and that score.

    no_answer: [N] how much more no answer scores than the best one; a row is answered where that is at most the
    threshold. if_answered, if_unanswered: [N] its score (exact match or F1) then, and otherwise.
    Of equally good thresholds the one with the fewest answers; below every score where no answer at all is best.
    Unlike evaluate-v2.0's find_best_thresh, rows of equal `no_answer` are taken together, as no threshold parts them,
    and answering nothing has a threshold of its own instead of 0. (0, NaN) for no rows.
    """
    if not len(no_answer):
        return 0.0, math.nan
    order = np.argsort(no_answer, kind="stable")
    scores = np.asarray(no_answer, dtype=np.float64)[order]
    unanswered = np.asarray(if_unanswered, dtype=np.float64)
    gains = np.cumsum((np.asarray(if_answered, dtype=np.float64) - unanswered)[order])
    last_of_equals = np.append(scores[1:] > scores[:-1], True)
    totals = np.concatenate([[0.0], gains[last_of_equals]])
    thresholds = np.concatenate([[np.nextafter(scores[0], -np.inf)], scores[last_of_equals]])
    best = int(totals.argmax())
    return float(thresholds[best]), float((unanswered.sum() + totals[best]) / len(scores))
