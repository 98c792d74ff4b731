"""Rows that hold spans: as words with a tag each, as a list of spans, or marked in the text."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tunesmith.errors import BadRow, shown
from tunesmith.tasks.tags import Scheme, Span, spans_of
from tunesmith.tasks.text import read_text

OPENED = re.compile(r"\[\[([^\[\]|\n]*)\|")
"""How a mark [[LABEL|words]] begins."""


def read_tokens(row: Mapping[str, Any], column: str) -> tuple[str, list[tuple[int, int]]]:
    """The text of a row's words, joined with a space each, and where each of them lies in it, in characters.

    Raises BadRow.
    """
    words = _listed(row, column, "a list of words")
    text, places = "", []
    for number, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise BadRow(f"{column}[{number}]", shown(word), "a word", "bad_token")
        places.append((len(text), len(text) + len(word)))
        text += word + " " * (number + 1 < len(words))
    if not text.strip():
        raise BadRow(column, "no words", "a list of words", "empty_text")
    return text, places


def read_tags(
    row: Mapping[str, Any],
    tokens: str,
    tags: str,
    scheme: Scheme | None,
    names: Sequence[str] | None = None,
) -> tuple[str, tuple[Span, ...]]:
    """Text and spans of a row that holds words and a tag for each. Raises BadRow; scheme: as in `spans_of`.

    names: of tags that are numbers, in order.
    """
    text, places = read_tokens(row, tokens)
    listed = _listed(row, tags, "a list of tags")
    _check_lengths(tags, listed, places)
    found = [_tag(value, f"{tags}[{place}]", names) for place, value in enumerate(listed)]
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


def _tag(value: Any, field: str, names: Sequence[str] | None) -> Any:
    """The tag that a number stands for; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if names is None:
        raise BadRow(field, shown(value), "a tag; where tags are numbers, say their names in task.tag_names", "bad_tag")
    if not 0 <= value < len(names):
        raise BadRow(field, shown(value), f"0 to {len(names) - 1}, the numbers of task.tag_names", "bad_tag")
    return names[value]


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
