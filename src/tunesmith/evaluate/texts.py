"""Metrics of generated texts, each as numbers of rows whose sums give the value of the whole.

So a resample of rows costs a sum, not another look at the texts. Every row's numbers end with a 1, or are all 0 where
the row has no reference to be judged by; `total` gives NaN where no row counts. Means of rows lie between 0 and 1;
BLEU, chrF and TER have sacrebleu's own scale, on which a perfect text has 100, 100 and 0.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluate import answers as short
from tunesmith.evaluate.answers import Units
from tunesmith.letters import spaced

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as SacreMetric

Gold = Sequence[Sequence[str]]
"""References of each row, one or several; none where the row cannot be judged."""
NUMBER = re.compile(r"(?<![\w.])[-−]?\$?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
SOLUTION = "####"
"""What stands before the result of a GSM8K solution."""


@dataclass(frozen=True)
class TextMetric:
    """A metric as sums over rows.

    rows: numbers of each row, [N, K], of references and generated texts. total: the value, of their sums [K].
    note: how it was computed, to be reported beside the value; asked with the number of references a row has, None
    where that varies.
    """

    rows: Callable[[Gold, Sequence[str]], NDArray[np.float64]]
    total: Callable[[NDArray[np.float64]], float]
    note: Callable[[int | None], str]
    higher_is_better: bool = True

    def __call__(self, gold: Gold, answers: Sequence[str]) -> float:
        """The value of these rows; NaN where none can be judged."""
        return self.total(self.rows(gold, answers).sum(axis=0))


def rouge(
    kind: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"],
    words: Literal["latin", "unicode"] = "latin",
) -> TextMetric:
    """The mean F1 of ROUGE, best of each row's references. rougeLsum takes each line for a sentence.

    words: "latin" is rouge_score's own tokenizer, which keeps a-z and 0-9 alone (see `share_dropped`); "unicode" keeps
    the letters, marks and digits of every script, and each letter of scripts without blanks for itself.
    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; rouge_score's `score_multi`.
    """

    def rows(gold: Gold, answers: Sequence[str]) -> NDArray[np.float64]:
        scorer = _rouge_scorer(kind, words)

        def score(references: Sequence[str], answer: str) -> float:
            return float(scorer.score_multi(references, answer)[kind].fmeasure)

        return _counted(gold, answers, score)

    def note(references: int | None) -> str:
        return f"{kind} F1|stemmer:no|words:{words}|rouge-score:{version('rouge-score')}"

    return TextMetric(rows, _mean, note)


def share_dropped(texts: Iterable[str]) -> float:
    """The share of letters and digits that rouge_score's own tokenizer takes for blanks: 0 for plain English.

    Beyond a few per cent, ROUGE needs the words "unicode": `Männer` would be counted as `m` and `nner`, and a Greek
    text as no text at all. 0 for texts without letters.
    """
    letters = [letter for text in texts for letter in text.lower() if letter.isalnum()]
    return sum(not letter.isascii() for letter in letters) / len(letters) if letters else 0.0


def bleu(tokenizer: Literal["13a", "zh", "char"] = "13a") -> TextMetric:
    """BLEU of the corpus, 0 to 100, as sacrebleu computes it; the reference of the closest length counts for brevity.

    tokenizer: "13a" for texts with blanks between words, "zh" for Chinese, "char" for other scripts without. Texts of
    fewer than four tokens each have no BLEU worth the name: without any 4-gram it is 0, even where all are perfect.
    Source: Papineni et al. 2002; Post 2018, arXiv:1804.08771.
    """

    def metric() -> "SacreMetric":
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize=tokenizer, force=True)

    return _sacrebleu(metric)


def chrf() -> TextMetric:
    """chrF2 of the corpus, 0 to 100, as sacrebleu computes it.

    Source: Popović 2015.
    """

    def metric() -> "SacreMetric":
        from sacrebleu.metrics.chrf import CHRF

        return CHRF()

    return _sacrebleu(metric)


def ter() -> TextMetric:
    """The translation edit rate of the corpus, as sacrebleu computes it: lower is better, 0 is perfect, no upper end.

    Source: Snover et al. 2006.
    """

    def metric() -> "SacreMetric":
        from sacrebleu.metrics.ter import TER

        return TER()

    return _sacrebleu(metric, higher_is_better=False)


def same_text() -> TextMetric:
    """The share of texts that are one of their references to the letter, blanks around them aside."""

    def score(references: Sequence[str], answer: str) -> float:
        return float(answer.strip() in {reference.strip() for reference in references})

    return TextMetric(lambda gold, answers: _counted(gold, answers, score), _mean, lambda _: "equal texts")


def answer_exact(units: Units = "words") -> TextMetric:
    """The share of texts that are one of their references once normalised as in SQuAD; see `answers.exact`."""
    return _answer_metric(short.exact_matches, "exact match", units)


def answer_f1(units: Units = "words") -> TextMetric:
    """The mean F1 of units that texts and references share, as in SQuAD; see `answers.f1`."""
    return _answer_metric(short.f1s, "F1", units)


def same_number() -> TextMetric:
    """The share of texts whose result is that of a reference, as a number: 18, 18.0 and $18 are equal.

    The result is the number behind `####` alone, as GSM8K's own `is_correct` takes it; of a reference without that mark
    its last number. A row without a number in any of its references cannot be judged.
    Source: Cobbe et al. 2021, arXiv:2110.14168.
    """

    def rows(gold: Gold, answers: Sequence[str]) -> NDArray[np.float64]:
        results = [{final_number(reference, "last") for reference in references} - {None} for references in gold]
        out = np.zeros((len(gold), 2))
        for row, (right, answer) in enumerate(zip(results, answers, strict=True)):
            out[row] = float(final_number(answer, "marked") in right), bool(right)
        return out

    return TextMetric(rows, _mean, lambda _: "equal numbers|find:marked")


def final_number(text: str, find: Literal["marked", "last"]) -> Decimal | None:
    """The first number behind the first `####`; of a text without that mark none, or its last number.

    Dollar signs and commas between digits are left out.
    """
    _, mark, result = text.partition(SOLUTION)
    if not mark and find == "marked":
        return None
    numbers = NUMBER.findall(result if mark else text)
    try:
        return Decimal(re.sub(r"[$,]", "", numbers[0 if mark else -1]).replace("−", "-")) if numbers else None
    except InvalidOperation:  # two signs
        return None


def _counted(gold: Gold, answers: Sequence[str], score: Callable[[Sequence[str], str], float]) -> NDArray[np.float64]:
    """[N, 2]: the score and 1 of each row with references, 0 and 0 of the others."""
    out = np.zeros((len(gold), 2))
    for row, (references, answer) in enumerate(zip(gold, answers, strict=True)):
        if references:
            out[row] = score(references, answer), 1.0
    return out


def _mean(sums: NDArray[np.float64]) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _answer_metric(
    scores: Callable[[Gold, Sequence[str], Units], NDArray[np.float64]], name: str, units: Units
) -> TextMetric:
    def rows(gold: Gold, answers: Sequence[str]) -> NDArray[np.float64]:
        judged = np.array([bool(references) for references in gold], dtype=np.float64)
        return np.stack([scores(gold, answers, units) * judged, judged], axis=1)

    return TextMetric(rows, _mean, lambda _: f"SQuAD {name}|units:{units}")


def _sacrebleu(make: Callable[[], "SacreMetric"], *, higher_is_better: bool = True) -> TextMetric:
    """A metric of sacrebleu, by the statistics that its own bootstrap resamples.

    They are private there, but no public call gives them for chrF; tests hold their sums to `corpus_score`.
    """

    def rows(gold: Gold, answers: Sequence[str]) -> NDArray[np.float64]:
        metric = make()
        judged = [row for row, references in enumerate(gold) if references]
        out = np.zeros((len(gold), len(metric._extract_corpus_statistics([""], [[""]])[0]) + 1))
        if judged:
            most = max(len(gold[row]) for row in judged)
            # a list for each place that a reference can have, with None where a row has fewer
            lists = [[gold[row][place] if place < len(gold[row]) else None for row in judged] for place in range(most)]
            out[judged, :-1] = metric._extract_corpus_statistics([answers[row] for row in judged], lists)  # type: ignore[arg-type]
            out[judged, -1] = 1.0
        return out

    def total(sums: NDArray[np.float64]) -> float:
        return float(make()._compute_score_from_stats(sums[:-1].tolist()).score) if sums[-1] else math.nan

    def note(references: int | None) -> str:
        metric = make()
        metric.num_refs = -1 if references is None else references
        return str(metric.get_signature())

    return TextMetric(rows, total, note, higher_is_better)


def _rouge_scorer(kind: str, words: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    return RougeScorer([kind], tokenizer=_UnicodeWords() if words == "unicode" else None)


class _UnicodeWords:
    """What rouge_score asks of a tokenizer, for every script."""

    def tokenize(self, text: str) -> list[str]:
        kept = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text.lower())
        return spaced(kept).split()
