"""Metrics of texts that were written or pointed at, beside one or several right ones."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.contracts import Predictions
from tunesmith.evaluate import texts
from tunesmith.evaluate.answers import exact_matches, f1s
from tunesmith.evaluate.metrics import Metric, mean_of, summed
from tunesmith.evaluate.texts import TextMetric

Rows = Callable[[Sequence[tuple[str, ...]], Sequence[str]], NDArray[np.float64]]


def answered(predictions: Predictions) -> bool:
    """Whether there are texts to judge."""
    return predictions.kind == "texts" and all(len(given) for given in predictions.answers)


def first(predictions: Predictions) -> list[str]:
    """The text that counts of each row."""
    return [given[0] for given in predictions.answers]


def _each(rows: Rows) -> Callable[[Predictions], NDArray[np.float64]]:
    def values(predictions: Predictions) -> NDArray[np.float64]:
        if not answered(predictions):
            return np.full(len(predictions), np.nan)
        return rows(predictions.gold.tolist(), first(predictions))

    return values


ANSWER_EXACT: Metric = mean_of("answer_exact", _each(exact_matches))
"""The share of texts that equal a right one but for case, punctuation and English articles (SQuAD's exact match)."""
ANSWER_F1: Metric = mean_of("answer_f1", _each(f1s))
"""The mean overlap of words with the right text that suits best (SQuAD's F1)."""


def _of(name: str, metric: TextMetric) -> Metric:
    """A metric of texts under a name of the tables."""

    def sums(predictions: Predictions) -> NDArray[np.float64]:
        if not answered(predictions):
            return np.zeros((0, 1))
        return metric.rows(predictions.gold.tolist(), first(predictions))

    def note(predictions: Predictions) -> str:
        sizes = {len(gold) for gold in predictions.gold}
        return metric.note(sizes.pop() if len(sizes) == 1 else None)

    return summed(name, sums, metric.total, higher_is_better=metric.higher_is_better, note=note)


ROUGE1: Metric = _of("rouge1", texts.rouge("rouge1"))
ROUGE2: Metric = _of("rouge2", texts.rouge("rouge2"))
ROUGE_L: Metric = _of("rougeL", texts.rouge("rougeL"))
ROUGE_LSUM: Metric = _of("rougeLsum", texts.rouge("rougeLsum"))
BLEU: Metric = _of("bleu", texts.bleu())
CHRF: Metric = _of("chrf", texts.chrf())
TER: Metric = _of("ter", texts.ter())
TEXT_SAME: Metric = _of("same_text", texts.same_text())
"""The share of texts that equal a right one but for white space at their ends."""
SAME_NUMBER: Metric = _of("same_number", texts.same_number())
"""The share of texts whose final number is the right one (GSM8K: behind `####`)."""
