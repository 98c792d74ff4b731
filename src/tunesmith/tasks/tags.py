"""Spans of a text and the tags that stand for them: schemes, what they allow, and the best legal tags.

A span is (start, end, label), end excluded: of characters (Unicode code points of the text as it was given), or of
words or tokens where that is said. Spans of one text never overlap.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import BadRow, shown


class Span(NamedTuple):
    """A stretch of a text and what it is, end excluded."""

    start: int
    end: int
    label: str


class Scheme(StrEnum):
    """How tags mark where a span begins and ends."""

    IOB2 = "IOB2"
    IOB1 = "IOB1"
    IOBES = "IOBES"
    BILOU = "BILOU"


OUTSIDE = "O"
UNNAMED = "_"
"""The label of a tag without one (B, I, E, S alone), as in seqeval."""
PARTS: Mapping[Scheme, str] = {Scheme.IOB2: "BI", Scheme.IOB1: "BI", Scheme.IOBES: "BIES", Scheme.BILOU: "BILU"}
"""What may stand before a label."""
WRITTEN: Mapping[Scheme, tuple[str, str, str, str]] = {
    Scheme.IOB2: ("B", "I", "I", "B"),
    Scheme.IOB1: ("I", "I", "I", "I"),
    Scheme.IOBES: ("B", "I", "E", "S"),
    Scheme.BILOU: ("B", "I", "L", "U"),
}
"""What a span's first, inner and last word get, and a span of one word."""
RULES: Mapping[Scheme, str] = {
    Scheme.IOB2: "a span that begins with B-, and I- only behind B- or I- of its label",
    Scheme.IOB1: "B- only right behind another span of its label",
    Scheme.IOBES: "S-, or B- that ends with E- of its label and has only I- between",
    Scheme.BILOU: "U-, or B- that ends with L- of its label and has only I- between",
}
ALIKE = {"L": "E", "U": "S"}
TAG = re.compile(r"O|[BIESLU](-.+)?", re.DOTALL)


def spans_of(tags: Sequence[str], scheme: Scheme | None, field: str = "tags") -> tuple[Span, ...]:
    """The spans, in words, that tags stand for.

    scheme: raises BadRow where the tags break its rules. None: never mind the rules; a span then begins at each tag
    that cannot go on with the one before it, whatever the scheme, as conlleval and seqeval's default mode read it.
    field: the column's name for messages. Raises BadRow for what is no tag of any scheme.
    """
    found: list[Span] = []
    before, start = OUTSIDE, 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        if not isinstance(tag, str) or not TAG.fullmatch(tag):
            raise BadRow(f"{field}[{place}]", shown(tag), "O, or one of B- I- E- S- L- U- and a label", "bad_tag")
        if scheme is not None and not may_follow(before, tag, scheme):
            ended = place == len(tags)
            what = f"{shown(before)} at the end" if ended else f"{shown(tag)} behind {shown(before)}"
            raise BadRow(f"{field}[{place - ended}]", what, f"{scheme}: {RULES[scheme]}", "broken_tags")
        if not _goes_on(before, tag):
            if before != OUTSIDE:
                found.append(Span(start, place, _split(before)[1]))
            start = place
        before = tag
    return tuple(found)


def tags_of(spans: Iterable[Span], words: int, scheme: Scheme) -> list[str]:
    """A tag for each of so many words. spans: of words, not overlapping; otherwise ValueError."""
    tags = [OUTSIDE] * words
    last = Span(0, 0, "")
    for span in sorted(spans):
        if not last.end <= span.start < span.end <= words:
            raise ValueError(f"{tuple(span)} overlaps, is empty or ends behind {words} words")
        first, inner, final, single = WRITTEN[scheme]
        size = span.end - span.start
        parts = [single] if size == 1 else [first, *[inner] * (size - 2), final]
        if scheme is Scheme.IOB1 and span.start == last.end and span.label == last.label:
            parts[0] = "B"
        tags[span.start : span.end] = [f"{part}-{span.label}" for part in parts]
        last = span
    return tags


def may_follow(before: str, tag: str, scheme: Scheme) -> bool:
    """Whether the scheme allows `tag` behind `before`; a text begins and ends with O."""
    if tag != OUTSIDE and tag[:1] not in PARTS[scheme]:
        return False
    (was, of), (part, label) = _split(before), _split(tag)
    same = was in ("B", "I") and of == label
    if scheme is Scheme.IOB1:
        return part != "B" or same
    if scheme is Scheme.IOB2:
        return part != "I" or same
    return same if part in ("I", "E") else was not in ("B", "I")


def _goes_on(before: str, tag: str) -> bool:
    (was, of), (part, label) = _split(before), _split(tag)
    return was in ("B", "I") and part in ("I", "E") and of == label


def _split(tag: str) -> tuple[str, str]:
    part, _, label = tag.partition("-")
    return ALIKE.get(part, part), label or UNNAMED


def tag_names(labels: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """The tags of a scheme for these labels: O, then the parts of each label."""
    return OUTSIDE, *(f"{part}-{label}" for label in labels for part in PARTS[scheme])


def transitions(names: Sequence[str], scheme: Scheme) -> NDArray[np.bool_]:
    """Which tag may stand behind which, [L + 1, L + 1]; the last row is a text's beginning, the last column its end."""
    around = [*names, OUTSIDE]
    return np.array([[may_follow(before, tag, scheme) for tag in around] for before in around])


def best_path(scores: NDArray[np.floating[Any]], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The allowed ids whose scores have the highest sum, [T].

    scores: [T, L] logarithms, any scale; of the first token of each piece, where pieces are what is labelled.
    allowed: as from `transitions`. Raises ValueError where nothing is allowed, or a score is not a number.
    Source: the algorithm of Viterbi 1967, with transitions that are allowed or not in place of learned ones.
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    steps = np.where(allowed, 0.0, -np.inf)
    total = scores[0] + steps[-1, :-1]
    back = np.zeros(scores.shape, dtype=np.int64)
    for place in range(1, len(scores)):
        ways = total[:, None] + steps[:-1, :-1]
        back[place] = ways.argmax(axis=0)
        total = ways.max(axis=0) + scores[place]
    total = total + steps[:-1, -1]
    if not np.isfinite(total.max()):
        raise ValueError("no sequence of labels is allowed, or scores are not finite")
    path = [int(total.argmax())]
    for place in range(len(scores) - 1, 0, -1):
        path.append(int(back[place, path[-1]]))
    return np.array(path[::-1], dtype=np.int64)
