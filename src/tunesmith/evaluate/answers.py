"""Short answers against the right ones: SQuAD's exact match and F1, and the threshold for giving no answer.

Defined as in SQuAD's evaluate-v2.0: texts are compared in lower case, without punctuation and the English articles.
evaluate-v1.1 gives the same values except where a text has nothing left then: there it calls an equal answer right
but gives it an F1 of 0, and takes an empty answer for right where one of several references is empty.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.letters import spaced

Units = Literal["words", "characters"]
"""What F1 counts. "words": between blanks, as SQuAD does. "characters": for texts in scripts without blanks between
words: their characters one by one, and words of other scripts whole, as MLQA's script does for Chinese
(arXiv:1910.07475); punctuation of every script is then left out."""

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = frozenset(string.punctuation)


def normalised(text: str, units: Units = "words") -> str:
    """The text in lower case, without punctuation and English articles, its units divided by one blank each.

    Articles of other languages stay, as where XQuAD is judged with SQuAD's script; MLQA's leaves some of them out.
    Source: Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.
    """
    if units == "words":
        kept = "".join(letter for letter in text.lower() if letter not in PUNCTUATION)
    else:
        kept = "".join(letter for letter in text.lower() if not _marks(letter))
        kept = spaced(kept)
    return " ".join(ARTICLES.sub(" ", kept).split())


def _marks(letter: str) -> bool:
    return letter in PUNCTUATION or unicodedata.category(letter).startswith("P")


def exact(answer: str, right: str, units: Units = "words") -> float:
    """1 where both texts are equal once normalised, else 0."""
    return float(normalised(answer, units) == normalised(right, units))


def f1(answer: str, right: str, units: Units = "words") -> float:
    """The harmonic mean of the shares of units that both texts have in common; 1 where both have none, 0 where one has.

    Source: Rajpurkar et al. 2016, section 6.1; for texts without units, 2018, arXiv:1806.03822.
    """
    given, there = normalised(answer, units).split(), normalised(right, units).split()
    if not given or not there:
        return float(given == there)
    common = (Counter(given) & Counter(there)).total()
    return 2 * common / (len(given) + len(there))


def best_of(score: Callable[[str, str, Units], float], gold: Iterable[str], answer: str, units: Units) -> float:
    """The score against the reference that suits the answer best.

    References with nothing left once normalised do not count; where there is no other, only an empty answer is right.
    """
    known = [right for right in gold if normalised(right, units)] or [""]
    return max(score(answer, right, units) for right in known)


def exact_matches(gold: Sequence[Sequence[str]], answers: Sequence[str], units: Units = "words") -> NDArray[np.float64]:
    """0 or 1 for each row, [N]. gold: references of each row; none where no answer is right."""
    return _each(exact, gold, answers, units)


def f1s(gold: Sequence[Sequence[str]], answers: Sequence[str], units: Units = "words") -> NDArray[np.float64]:
    """F1 of each row, [N]. gold: as in `exact_matches`."""
    return _each(f1, gold, answers, units)


def _each(
    score: Callable[[str, str, Units], float], gold: Sequence[Sequence[str]], answers: Sequence[str], units: Units
) -> NDArray[np.float64]:
    pairs = zip(gold, answers, strict=True)
    return np.array([best_of(score, references, answer, units) for references, answer in pairs], dtype=np.float64)
