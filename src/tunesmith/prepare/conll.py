"""Rows out of two forms that are no list of objects: columns of words and tags (CoNLL), and SQuAD's nested JSON."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tunesmith.errors import shown
from tunesmith.prepare.sources import AS_UTF8, BOM, RawRow

DOCUMENT = "-DOCSTART-"
"""What a line begins with that stands between two documents."""
COMMENT = re.compile(r"#\s*([\w.-]+)\s*(?:=|:\s)\s*(.*)")
LEVELS = ("data", "paragraphs", "qas")
"""Of a SQuAD document, from the outermost list to the questions."""


QUESTION = "question"
"""What is counted in such a document."""


class _Line(NamedTuple):
    number: int
    text: str
    problem: str = ""


class _Layout(NamedTuple):
    """How a file's lines are to be taken apart. token, tag: numbers of their columns."""

    tabs: bool
    columns: int
    token: int
    tag: int

    def cells(self, line: _Line) -> list[str]:
        return line.text.split("\t") if self.tabs else re.split(r"[ \t]+", line.text.strip(" \t"))


def read_conll(lines: Iterable[bytes], name: str, token: int | None = None, tag: int = -1) -> Iterator[RawRow]:
    """A row each sentence: its `tokens` and `tags`, and what comments `# key = value` above it say.

    Sentences are divided by blank lines; columns by tabs where the first sentence has any, else by blanks too.
    token, tag: numbers of their columns. token None: the first, or the second where the first counts the words.
    The row's line is that of its first word; of a sentence that cannot be read, that of the line which is broken.
    """
    layout: _Layout | None = None
    for block in _blocks(lines):
        broken = next((line for line in block if line.problem), None)
        if broken is not None:
            yield RawRow(name, broken.number, {}, broken.problem)
            continue
        layout = layout or _layout(block, token, tag)
        words, comments = _apart(block, layout)
        if words:
            yield _sentence(words, comments, layout, name)


def _blocks(lines: Iterable[bytes]) -> Iterator[list[_Line]]:
    """The lines between blank ones and between documents."""
    block: list[_Line] = []
    for number, raw in enumerate(lines, start=1):
        line = _decoded(number, raw.removeprefix(BOM) if number == 1 else raw)
        if line.problem or (line.text.strip(" \t") and not line.text.startswith(DOCUMENT)):
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _decoded(number: int, raw: bytes) -> _Line:
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        return _Line(number, "", f"byte {error.start + 1} is not UTF-8; {AS_UTF8}")
    return _Line(number, text, "holds a NUL character" if "\0" in text else "")


def _layout(block: Sequence[_Line], token: int | None, tag: int) -> _Layout:
    """What the first sentence shows: as many columns as most of its lines have."""
    lines = [line for line in block if not line.text.startswith("#")] or block
    layout = _Layout(any("\t" in line.text for line in lines), 0, 0, tag)
    columns = Counter(len(layout.cells(line)) for line in lines).most_common(1)[0][0]
    layout = layout._replace(columns=columns)
    if token is not None:
        return layout._replace(token=token)
    words, _ = _apart(block, layout)
    counted = [layout.cells(line)[0] for line in words] == [str(place + 1) for place in range(len(words))]
    return layout._replace(token=int(counted and columns > 2))


def _apart(block: Sequence[_Line], layout: _Layout) -> tuple[Sequence[_Line], dict[str, str]]:
    """The lines of words, and what the comments above them say; a word may well be a # itself."""
    comments: dict[str, str] = {}
    for place, line in enumerate(block):
        if not line.text.startswith("#"):
            return block[place:], comments
        if found := COMMENT.fullmatch(line.text):
            comments[found[1]] = found[2].strip()
        elif len(layout.cells(line)) == layout.columns:
            return block[place:], comments
    return [], comments


def _sentence(words: Sequence[_Line], comments: Mapping[str, str], layout: _Layout, name: str) -> RawRow:
    rows = []
    for line in words:
        cells = layout.cells(line)
        expected = max(layout.columns, 2)
        if len(cells) != expected or not cells[layout.token]:
            found = f"{len(cells)} columns" if len(cells) > 1 else "1 column"
            return RawRow(name, line.number, {}, f"found {found}, expected a word, its tag, {expected} columns in all")
        rows.append(cells)
    tokens, tags = [cells[layout.token] for cells in rows], [cells[layout.tag] for cells in rows]
    return RawRow(name, words[0].number, {**comments, "tokens": tokens, "tags": tags})


def is_squad(found: Any) -> bool:
    """Whether a JSON document has SQuAD's form: {"data": [{"paragraphs": […]}, …]}."""
    articles = found.get("data") if isinstance(found, dict) else None
    return isinstance(articles, list) and any(isinstance(one, dict) and "paragraphs" in one for one in articles)


def read_squad(found: Mapping[str, Any], name: str) -> Iterator[RawRow]:
    """A row each question of a SQuAD document, v1.1 or v2.0: of what `is_squad` says yes to.

    Fields: id, title, context, question, answers {text: […], start: […]}, is_impossible. The row's line is the
    question's number in the document, which its unit says. What has another form is a row with a problem that says
    where it lies.
    Source: Rajpurkar et al. 2016, arXiv:1606.05250; 2018, arXiv:1806.03822.
    """
    for number, (where, found_there) in enumerate(_questions(found, ()), start=1):
        if isinstance(found_there, str):
            yield RawRow(name, number, {}, f"{where}: {found_there}", QUESTION)
            continue
        article, paragraph, question = found_there
        answers = question.get("answers", [])
        if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
            problem = f"{where}.answers: found {shown(answers)}, expected a list of objects"
            yield RawRow(name, number, {}, problem, QUESTION)
            continue
        fields = {
            "id": question.get("id"),
            "title": article.get("title", ""),
            "context": paragraph.get("context"),
            "question": question.get("question"),
            "answers": {
                "text": [answer.get("text") for answer in answers],
                "start": [answer.get("answer_start") for answer in answers],
            },
            "is_impossible": question.get("is_impossible", False),
        }
        yield RawRow(name, number, fields, unit=QUESTION)


def _questions(
    holder: Mapping[str, Any], path: tuple[Mapping[str, Any], ...], where: str = ""
) -> Iterator[tuple[str, tuple[Mapping[str, Any], ...] | str]]:
    """Where each question lies, and its article, paragraph and itself, or what stands there instead."""
    level = LEVELS[len(path)]
    where = f"{where}.{level}" if where else level
    items = holder.get(level)
    if not isinstance(items, list):
        yield where, f"found {shown(items)}, expected a list"
        return
    for place, item in enumerate(items):
        spot = f"{where}[{place}]"
        if not isinstance(item, dict):
            yield spot, f"found {shown(item)}, expected an object"
        elif level == LEVELS[-1]:
            yield spot, (*path, item)
        else:
            yield from _questions(item, (*path, item), spot)
