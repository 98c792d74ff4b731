"""`tunesmith ask`: what a trained model answers."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.answers import answer_lines
from tunesmith.cli.screen import emit, hint, say

if TYPE_CHECKING:
    from tunesmith.contracts import Task

CHUNK = 256
"""Rows that are answered together, so that a long file starts to answer at once and is never held whole."""


def ask(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of an exported model.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts; several columns, or messages, as JSON. Without any, lines of standard input."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Rows of a data file, or lines of a .txt file.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Base of an exported adapter, where it is not found.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Show this many labels of each answer.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, with all scores.")] = False,
) -> None:
    """Ask a trained model.

    \b
    tunesmith ask runs/tickets "Where is my parcel?"
    tunesmith ask runs/pairs '["first text", "second text"]'
    tunesmith ask runs/answers '{"question": "Who paints?", "context": "Ada paints."}'
    tunesmith ask runs/chat '[{"role": "user", "content": "hi"}]'
    tunesmith ask runs/tickets --file new.csv --json > answers.jsonl
    cat texts.txt | tunesmith ask runs/tickets
    """
    from tunesmith import api
    from tunesmith.errors import UserError

    if texts and file is not None:
        raise UserError("command line", "texts and --file are both given", "give one of them")
    predictor = api.open_predictor(run, base=base)
    one_by_one = not texts and file is None and sys.stdin.isatty()
    if one_by_one:
        hint("type a text and press Enter; end with Ctrl-D")
    alone = one_by_one or len(texts or ()) == 1
    rows = iter(_rows(texts, file, _Reader(predictor.task)))
    asked = cut = 0
    while chunk := list(islice(rows, 1 if one_by_one else CHUNK)):
        answers = api.ask(predictor, chunk, first=asked + 1)
        asked += len(chunk)
        cut += sum(answer.cut > 0 for answer in answers)
        for row, answer in zip(chunk, answers, strict=True):
            if as_json:
                emit({"input": row, **asdict(answer)}, indent=None)
            else:
                for line in answer_lines(row, answer.value, answer.scores, top, alone=alone):
                    say(line)
    if not asked:
        raise UserError("ask", "there is no text", "give texts, --file FILE, or lines on standard input")
    if cut:
        hint(f"{cut} of {asked} inputs were longer than the {predictor.max_tokens} tokens that the model reads")


class _Reader:
    """What a task's rows may look like when they are typed."""

    def __init__(self, task: "Task") -> None:
        from tunesmith.tasks.chat import Chat

        self.inputs, self.chat = task.inputs, isinstance(task, Chat)
        self.columns = set(task.inputs)
        if isinstance(task, Chat):
            self.columns |= {task.messages or "messages", "conversations", "prompt", "instruction"}

    def read(self, text: str) -> Any:
        """The row that `text` spells in JSON, as far as the model takes such a row; else the text itself."""
        try:
            row = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text
        except ValueError:
            return text
        if isinstance(row, dict):
            return row if self.columns & set(row) else text
        if self.chat:
            return row if row and all(isinstance(turn, dict) for turn in row) else text
        return row if isinstance(row, list) and len(self.inputs) > 1 else text


def _rows(texts: Sequence[str] | None, file: Path | None, reader: _Reader) -> Iterable[Any]:
    """What is asked: texts, or rows of a file."""
    from tunesmith import api

    if texts:
        return (reader.read(text) for text in texts)
    if file is None:
        return _typed(reader)
    if file.suffix == ".txt":
        from tunesmith.recipe_yaml import read_text

        return [line for line in read_text(file).splitlines() if line.strip()]
    return api.rows(file)


def _typed(reader: _Reader) -> Iterator[Any]:
    """The rows on standard input. A line in braces is never taken for a text: it would be answered without a word."""
    from tunesmith.errors import UserError, shown

    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    try:
        for number, line in enumerate(sys.stdin, 1):
            row = reader.read(line.rstrip("\r\n"))
            if isinstance(row, str) and row.lstrip().startswith("{"):
                wanted = ", ".join(shown(column) for column in reader.inputs)
                example = json.dumps({reader.inputs[0]: "{…"}, ensure_ascii=False)
                fix = f"a text that starts with a brace goes in {example}"
                raise UserError(f"standard input, line {number}", f"is no JSON object with the columns {wanted}", fix)
            if line.strip():
                yield row
    except UnicodeDecodeError as error:
        raise UserError("standard input", "is not UTF-8 text", "convert it, or give a file with --file") from error
