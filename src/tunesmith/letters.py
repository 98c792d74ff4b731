"""Letters of all scripts: which stand in words with blanks between them, and which do not."""

import re
import unicodedata
from collections.abc import Iterable

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""A letter of Thai, Lao, Burmese, Khmer, Japanese or Chinese."""

CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def share_chinese(texts: Iterable[str]) -> float:
    """The share of letters that are Chinese; 0 for texts without letters."""
    return _share(texts, CHINESE)


def share_without_blanks(texts: Iterable[str]) -> float:
    """The share of letters of scripts without blanks between words, in texts that are not Chinese alone."""
    texts = list(texts)
    other = [CHINESE.sub("", text) for text in texts]
    return _share(texts, UNSPACED) if any(UNSPACED.search(text) for text in other) else 0.0


def _share(texts: Iterable[str], kind: re.Pattern[str]) -> float:
    letters = [letter for text in texts for letter in text if letter.isalnum()]
    return sum(bool(kind.match(letter)) for letter in letters) / len(letters) if letters else 0.0


def spaced(text: str) -> str:
    """The text with blanks around each letter of a script that puts none between words."""
    return UNSPACED.sub(r" \g<0> ", text)


def inside_word(text: str, place: int) -> bool:
    """Whether a cut before the character at `place` would divide a word, of a script with blanks between words."""
    return 0 < place < len(text) and _joins(text[place - 1]) and _joins(text[place])


def _joins(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" and not UNSPACED.match(character)
