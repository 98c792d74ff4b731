"""`tunesmith ask`: what a trained model answers."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.screen import emit, hint, say

CHUNK = 256
"""Rows that are answered together, so that a long file starts to answer at once and is never held whole."""


def ask(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of an exported model.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; a pair as JSON. Without any, lines of standard input.")
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
    rows = iter(_rows(texts, file, predictor.task.inputs))
    asked = cut = 0
    while chunk := list(islice(rows, 1 if one_by_one else CHUNK)):
        answers = api.ask(predictor, chunk, first=asked + 1)
        asked += len(chunk)
        cut += sum(answer.cut > 0 for answer in answers)
        for row, answer in zip(chunk, answers, strict=True):
            if as_json:
                emit({"input": row, **asdict(answer)}, indent=None)
            else:
                say(_line(row, answer.value, answer.scores, top))
    if not asked:
        raise UserError("ask", "there is no text", "give texts, --file FILE, or lines on standard input")
    if cut:
        hint(f"{cut} of {asked} inputs were longer than the {predictor.max_tokens} tokens that the model reads")


def _rows(texts: Sequence[str] | None, file: Path | None, columns: Sequence[str]) -> Iterable[Any]:
    """What is asked: texts, or rows of a file. columns: the model's inputs."""
    from tunesmith import api

    if texts:
        return (_read(text, columns) for text in texts)
    if file is None:
        return _typed(columns)
    if file.suffix == ".txt":
        from tunesmith.recipe_yaml import read_text

        return [line for line in read_text(file).splitlines() if line.strip()]
    return api.rows(file)


def _typed(columns: Sequence[str]) -> Iterator[Any]:
    """The rows on standard input. A line in braces is never taken for a text: it would be answered without a word."""
    from tunesmith.errors import UserError, shown

    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    try:
        for number, line in enumerate(sys.stdin, 1):
            row = _read(line.rstrip("\r\n"), columns)
            if isinstance(row, str) and row.lstrip().startswith("{"):
                wanted = ", ".join(shown(column) for column in columns)
                fix = f"a text that starts with a brace goes in {json.dumps({columns[0]: '{…'}, ensure_ascii=False)}"
                raise UserError(f"standard input, line {number}", f"is no JSON object with the columns {wanted}", fix)
            if line.strip():
                yield row
    except UnicodeDecodeError as error:
        raise UserError("standard input", "is not UTF-8 text", "convert it, or give a file with --file") from error


def _read(text: str, columns: Sequence[str]) -> Any:
    """The row that `text` spells in JSON, as far as the model takes such a row; else the text itself."""
    try:
        row = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text
    except ValueError:
        return text
    if isinstance(row, dict):
        return row if any(column in row for column in columns) else text
    return row if isinstance(row, list) and len(columns) > 1 else text


def _line(row: Any, value: Any, scores: Mapping[str, float], top: int) -> str:
    """The answer, its best scores, and the text it is about."""
    best = sorted(scores.items(), key=lambda entry: -entry[1])[:top]
    if isinstance(value, str) and best:
        answer = "  ".join(f"{name} {score:.2f}" for name, score in best)
    elif isinstance(value, list):
        answer = ", ".join(f"{name} {scores[name]:.2f}" for name in value) or "no label"
    elif isinstance(value, Mapping):
        answer = ", ".join(f"{name} {number:.4g}" for name, number in value.items())
    else:
        answer = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
    return f"{answer}  |  {text if len(text) <= 80 else text[:79] + '…'}"
