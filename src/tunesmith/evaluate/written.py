"""Metrics of texts that were written or pointed at, beside one or several right ones."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluate import texts
from tunesmith.evaluate.metrics import Metric, summed
from tunesmith.evaluate.texts import TextMetric
from tunesmith.given import Predictions
from tunesmith.letters import share_chinese, share_without_blanks

Kind = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]
FOREIGN = 0.1
"""The share of letters from which the usual words, made for English, would leave out too much."""


def answered(predictions: Predictions) -> bool:
    """Whether there are texts to judge."""
    return predictions.kind == "texts" and all(len(given) for given in predictions.answers)


def first(predictions: Predictions) -> list[str]:
    """The text that counts of each row."""
    return [given[0] for given in predictions.answers]


def _of(name: str, usual: TextMetric, *others: tuple[TextMetric, Callable[[Sequence[str]], float]]) -> Metric:
    """A metric of texts under a name of the tables.

    others: what counts instead where the right texts have more than a tenth of such letters; the first that fits.
    """

    def chosen(predictions: Predictions) -> TextMetric:
        right = [text for gold in predictions.gold for text in gold]
        return next((other for other, share in others if share(right) > FOREIGN), usual)

    def sums(predictions: Predictions) -> NDArray[np.float64]:
        if not answered(predictions):
            return np.zeros((0, 1))
        return chosen(predictions).rows(predictions.gold.tolist(), first(predictions))

    def note(predictions: Predictions) -> str:
        sizes = {len(gold) for gold in predictions.gold}
        return chosen(predictions).note(sizes.pop() if len(sizes) == 1 else None)

    return summed(name, sums, usual.total, higher_is_better=usual.higher_is_better, note=note)


def _rouge(kind: Kind) -> Metric:
    return _of(kind, texts.rouge(kind), (texts.rouge(kind, words="unicode"), texts.share_dropped))


ROUGE1: Metric = _rouge("rouge1")
ROUGE2: Metric = _rouge("rouge2")
ROUGE_L: Metric = _rouge("rougeL")
ROUGE_LSUM: Metric = _rouge("rougeLsum")
ANSWER_EXACT: Metric = _of(
    "answer_exact", texts.answer_exact(), (texts.answer_exact("characters"), texts.share_dropped)
)
"""The share of texts that equal a right one but for case, punctuation and English articles (SQuAD's exact match)."""
ANSWER_F1: Metric = _of("answer_f1", texts.answer_f1(), (texts.answer_f1("characters"), texts.share_dropped))
"""The mean overlap of words with the right text that suits best (SQuAD's F1); of letters where scripts divide none."""
BLEU: Metric = _of("bleu", texts.bleu(), (texts.bleu("char"), share_without_blanks), (texts.bleu("zh"), share_chinese))
"""BLEU of words (13a); of letters where scripts put no blanks between words. The note says which."""
CHRF: Metric = _of("chrf", texts.chrf())
TER: Metric = _of("ter", texts.ter())
TEXT_SAME: Metric = _of("same_text", texts.same_text())
"""The share of texts that equal a right one but for white space at their ends."""
SAME_NUMBER: Metric = _of("same_number", texts.same_number())
"""The share of texts whose final number is the right one (GSM8K: behind `####`)."""
