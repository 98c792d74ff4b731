"""Spans as labels of tokens and back, to the character, and the windows of a text that is too long for one reading."""

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunesmith.batch import IGNORED
from tunesmith.letters import inside_word
from tunesmith.tasks.tags import OUTSIDE, Scheme, Span, spans_of, tags_of


class Piece(NamedTuple):
    """Characters that belong to one token, or to several that cannot be told apart. token: the first of them."""

    token: int
    start: int
    end: int


def pieces(offsets: Sequence[tuple[int, int]], text: str, whole: bool = False) -> list[Piece]:
    """The stretches of text that tokens can mark, in order.

    offsets: of each token, in characters, as a fast tokenizer gives them. White space at either end is cut off, for
    some tokenizers count the space before a word as part of it. Tokens without any other character (control tokens
    among them) have no piece; tokens that share characters (an emoji in bytes, a lone `▁`) have one together. A
    combining mark that no token covers, since some tokenizers drop accents, belongs to the letter before it.
    whole: tokens that divide a word (letters and digits of a script with blanks between words) are one piece, too.
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
    marked = [
        piece._replace(end=_with_marks(text, piece.end, limit)) for piece, limit in zip(found, limits, strict=False)
    ]
    return _words(marked, text) if whole else marked


def _words(found: Sequence[Piece], text: str) -> list[Piece]:
    words: list[Piece] = []
    for piece in found:
        if words and words[-1].end == piece.start and inside_word(text, piece.start):
            words[-1] = words[-1]._replace(end=piece.end)
        else:
            words.append(piece)
    return words


def _with_marks(text: str, end: int, limit: int) -> int:
    while end < limit and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end


def token_labels(
    offsets: Sequence[tuple[int, int]],
    spans: Iterable[Span],
    text: str,
    names: Sequence[str],
    scheme: Scheme,
    whole: bool = False,
) -> tuple[list[int], tuple[Span, ...]]:
    """Label ids of tokens, and the spans that cannot be read back from them as they are.

    Every piece of a span is labelled at its first token; `whole` words are one piece each (see `pieces`). Tokens that
    begin no piece are IGNORED. A span that ends inside a piece is extended to the whole of it (the earlier span keeps
    a piece that two would have), and is among those returned; so is one without tokens.
    names: of the ids, as `tag_names` gives them.
    """
    spans = sorted(spans)
    found = pieces(offsets, text, whole)
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
    recovered = set(spans_from_tokens(ids, offsets, text, names, whole))
    return ids, tuple(span for span in spans if span not in recovered)


def without_token(spans: Iterable[Span], offsets: Sequence[tuple[int, int]], text: str) -> tuple[Span, ...]:
    """The spans of which no token holds a character: tokenizers drop some."""
    found = pieces(offsets, text)
    starts, ends = [piece.start for piece in found], [piece.end for piece in found]
    return tuple(span for span in spans if bisect_right(ends, span.start) >= bisect_left(starts, span.end))


def spans_from_tokens(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], text: str, names: Sequence[str], whole: bool = False
) -> tuple[Span, ...]:
    """The spans, in characters, that tokens' label ids stand for; the first token of each piece counts.

    Broken rules are mended as in `spans_of`. For spans that end where pieces end it undoes `token_labels` exactly.
    """
    found = pieces(offsets, text, whole)
    tags = [names[ids[piece.token]] if ids[piece.token] >= 0 else OUTSIDE for piece in found]
    return tuple(Span(found[a].start, found[b - 1].end, label) for a, b, label in spans_of(tags, None))


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
