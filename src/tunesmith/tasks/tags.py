"""Spans of a text and the tags that stand for them: schemes, rows, tokens, windows, and the best legal tags.

A span is (start, end, label), end excluded: of characters (Unicode code points of the text as it was given), or of
words or tokens where that is said. Spans of one text never overlap.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.batch import IGNORED
from tunesmith.errors import BadRow, shown
from tunesmith.tasks.text import read_text


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


class Piece(NamedTuple):
    """Characters that belong to one token, or to several that cannot be told apart. token: the first of them."""

    token: int
    start: int
    end: int


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
OPENED = re.compile(r"\[\[([^\[\]|\n]*)\|")
"""How a mark [[LABEL|words]] begins."""


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


def detect_scheme(all_tags: Iterable[Sequence[str]]) -> Scheme:
    """The scheme whose rules the tags break least often; IOB2 where nothing tells them apart."""
    pairs: Counter[tuple[str, str]] = Counter()
    for tags in all_tags:
        pairs.update(zip([OUTSIDE, *tags], [*tags, OUTSIDE], strict=True))

    def breaches(scheme: Scheme) -> int:
        return sum(count for (before, tag), count in pairs.items() if not may_follow(before, tag, scheme))

    return min(Scheme, key=breaches)


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


def read_tokens(
    row: Mapping[str, Any], column: str, space_after: str | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a row's words, and where each of them lies in it, in characters.

    Words are joined with one space each, or with none where the column `space_after` says False. Raises BadRow.
    """
    words = _listed(row, column, "a list of words")
    gaps = [True] * len(words) if space_after is None else _listed(row, space_after, "a list of true and false")
    _check_lengths(space_after or column, gaps, words)
    text, places = "", []
    for number, (word, gap) in enumerate(zip(words, gaps, strict=True)):
        if not isinstance(word, str) or not word:
            raise BadRow(f"{column}[{number}]", shown(word), "a word", "bad_token")
        places.append((len(text), len(text) + len(word)))
        text += word + " " * bool(gap and number + 1 < len(words))
    if not text.strip():
        raise BadRow(column, "no words", "a list of words", "empty_text")
    return text, places


def read_tags(
    row: Mapping[str, Any], tokens: str, tags: str, scheme: Scheme | None, space_after: str | None = None
) -> tuple[str, tuple[Span, ...]]:
    """Text and spans of a row that holds words and a tag for each. Raises BadRow; scheme: as in `spans_of`."""
    text, places = read_tokens(row, tokens, space_after)
    found = _listed(row, tags, "a list of tags")
    _check_lengths(tags, found, places)
    spans = (Span(places[a][0], places[b - 1][1], label) for a, b, label in spans_of(found, scheme, tags))
    return text, tuple(spans)


def read_spans(row: Mapping[str, Any], text: str, spans: str) -> tuple[str, tuple[Span, ...]]:
    """Text and spans of a row that lists its spans as {start, end, label} or [start, end, label].

    Where a span also has a `text`, that must be what stands there. Raises BadRow, whose `reason` says why.
    """
    whole = read_text(row, text)
    listed = _listed(row, spans, "a list of spans")
    found = sorted(_span(value, f"{spans}[{place}]", whole) for place, value in enumerate(listed))
    for one, other in pairwise(found):
        if other.start < one.end:
            raise BadRow(spans, f"{list(one)} and {list(other)}", "spans that do not overlap", "overlap")
    return whole, tuple(found)


def read_marks(row: Mapping[str, Any], column: str) -> tuple[str, tuple[Span, ...]]:
    """Text without its marks [[LABEL|words]], and the spans that they stood for.

    Raises BadRow for a mark that does not end, has no label or no words, or holds another.
    """
    marked = read_text(row, column)
    text, at = "", 0
    spans: list[Span] = []
    while mark := OPENED.search(marked, at):
        end, label = marked.find("]]", mark.end()), mark[1]
        words = marked[mark.end() : end]
        if end < 0 or OPENED.search(words) or label != label.strip():
            raise BadRow(column, shown(marked[mark.start() :]), "[[LABEL|words]], none inside another", "bad_mark")
        if not label or not words.strip():
            what = shown(marked[mark.start() : end + 2])
            raise BadRow(column, what, "a label and words", "empty_span" if label else "no_label")
        text += marked[at : mark.start()]
        spans.append(Span(len(text), len(text) + len(words), label))
        text, at = text + words, end + 2
    return text + marked[at:], tuple(spans)


def _span(value: Any, field: str, text: str) -> Span:
    surface = None
    if isinstance(value, Mapping):
        surface, value = value.get("text"), [value.get(name) for name in Span._fields]
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise BadRow(field, shown(value), "{start, end, label} or [start, end, label]", "bad_span")
    start, end, label = value
    if any(isinstance(place, bool) or not isinstance(place, int) for place in (start, end)):
        raise BadRow(field, shown([start, end]), "whole numbers for start and end", "bad_span")
    if not isinstance(label, str) or not label.strip():
        raise BadRow(field, shown(label), "a label", "no_label")
    if start < 0 or end > len(text):
        raise BadRow(field, shown([start, end]), f"places within the text's {len(text)} characters", "outside_text")
    if not text[start:end].strip():
        raise BadRow(field, shown([start, end]), "a span with text in it", "empty_span")
    if surface is not None and surface != text[start:end]:
        raise BadRow(field, shown(text[start:end]), f"the span's text {shown(surface)}", "text_differs")
    return Span(start, end, label)


def _listed(row: Mapping[str, Any], column: str, expected: str) -> Sequence[Any]:
    value = row.get(column)
    if not isinstance(value, list | tuple):
        raise BadRow(column, shown(value), expected, "no_list")
    return value


def _check_lengths(column: str, values: Sequence[Any], words: Sequence[Any]) -> None:
    if len(values) != len(words):
        raise BadRow(column, f"{len(values)} entries", f"{len(words)}, one for each word", "lengths_differ")


def pieces(offsets: Sequence[tuple[int, int]], text: str) -> list[Piece]:
    """The stretches of text that tokens can mark, in order.

    offsets: of each token, in characters, as a fast tokenizer gives them. White space at either end is cut off, for
    some tokenizers count the space before a word as part of it. Tokens without any other character (control tokens
    among them) have no piece; tokens that share characters (an emoji in bytes, a lone `▁`) have one together. A
    combining mark that no token covers, since some tokenizers drop accents, belongs to the letter before it.
    """
    found: list[Piece] = []
    for token, (start, end) in enumerate(offsets):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if found and start < end and start < found[-1].end:
            found[-1] = found[-1]._replace(end=max(end, found[-1].end))
        elif start < end:
            found.append(Piece(token, start, end))
    limits = [*(piece.start for piece in found[1:]), len(text)]
    return [
        piece._replace(end=_with_marks(text, piece.end, limit)) for piece, limit in zip(found, limits, strict=False)
    ]


def _with_marks(text: str, end: int, limit: int) -> int:
    while end < limit and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end


def token_labels(
    offsets: Sequence[tuple[int, int]], spans: Iterable[Span], text: str, names: Sequence[str], scheme: Scheme
) -> tuple[list[int], tuple[Span, ...]]:
    """Label ids of tokens, and the spans that cannot be read back from them as they are.

    Every piece of a span is labelled, not only the first of each word: so nothing but offsets is needed to get the
    characters back. Tokens that begin no piece are IGNORED. A span that ends inside a piece is extended to the whole
    of it (the earlier span keeps a piece that two would have), and is among those returned; so is one without tokens.
    names: of the ids, as `tag_names` gives them.
    """
    spans = sorted(spans)
    found = pieces(offsets, text)
    starts, ends = [piece.start for piece in found], [piece.end for piece in found]
    covered: list[Span] = []
    for span in spans:
        first = max(bisect_right(ends, span.start), covered[-1].end if covered else 0)
        last = bisect_left(starts, span.end)
        if first < last:
            covered.append(Span(first, last, span.label))
    numbers = {name: number for number, name in enumerate(names)}
    ids = [IGNORED] * len(offsets)
    for piece, tag in zip(found, tags_of(covered, len(found), scheme), strict=True):
        ids[piece.token] = numbers[tag]
    recovered = set(spans_from_tokens(ids, offsets, text, names))
    return ids, tuple(span for span in spans if span not in recovered)


def spans_from_tokens(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], text: str, names: Sequence[str]
) -> tuple[Span, ...]:
    """The spans, in characters, that tokens' label ids stand for; the first token of each piece counts.

    Broken rules are mended as in `spans_of`. For spans that end where pieces end it undoes `token_labels` exactly.
    """
    found = pieces(offsets, text)
    tags = [names[ids[piece.token]] if ids[piece.token] >= 0 else OUTSIDE for piece in found]
    return tuple(Span(found[a].start, found[b - 1].end, label) for a, b, label in spans_of(tags, None))


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


def windows(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Windows (start, end) that cover so many tokens, each `size` long and sharing `overlap` with the next.

    The last is moved back to be as long as the others. Raises ValueError unless 0 <= overlap < size.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"windows of {size} tokens cannot share {overlap}")
    last = max(length - size, 0)
    return [(start, min(start + size, length)) for start in [*range(0, last, size - overlap), last]]


def owner(length: int, windows: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """For each token the window in which it is farthest from where text was cut off, [length]; the first of equals.

    A window's edge at the beginning or end of the whole text cuts nothing off. Raises ValueError for a token in none.
    """
    best = np.full(length, -1, dtype=np.int64)
    owners = np.zeros(length, dtype=np.int64)
    for number, (start, end) in enumerate(windows):
        place = np.arange(start, end)
        left = place - start if start else np.full(len(place), length)
        right = end - 1 - place if end < length else np.full(len(place), length)
        room = np.minimum(left, right)
        better = room > best[start:end]
        best[start:end][better] = room[better]
        owners[start:end][better] = number
    if (best < 0).any():
        raise ValueError("the windows do not cover every token")
    return owners


def joined(parts: Sequence[NDArray[Any]], windows: Sequence[tuple[int, int]], length: int) -> NDArray[Any]:
    """One value a token out of overlapping windows, [length, ...]: the one of its `owner`.

    parts: [end - start, ...] of each window. Spans are read off the result, never off a window: so none is lost or
    found twice, wherever the windows cut.
    """
    owners = owner(length, windows)
    out = np.zeros((length, *parts[0].shape[1:]), dtype=parts[0].dtype)
    for number, ((start, end), part) in enumerate(zip(windows, parts, strict=True)):
        mine = owners[start:end] == number
        out[start:end][mine] = part[mine]
    return out
