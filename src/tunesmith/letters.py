"""Letters of all scripts: which stand in words with blanks between them, and which do not."""

import re
import unicodedata

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""A letter of Thai, Lao, Burmese, Khmer, Japanese or Chinese."""


def spaced(text: str) -> str:
    """The text with blanks around each letter of a script that puts none between words."""
    return UNSPACED.sub(r" \g<0> ", text)


def inside_word(text: str, place: int) -> bool:
    """Whether a cut before the character at `place` would divide a word, of a script with blanks between words."""
    return 0 < place < len(text) and _joins(text[place - 1]) and _joins(text[place])


def _joins(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" and not UNSPACED.match(character)
