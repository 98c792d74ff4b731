"""What the command line prints: plain lines, safe for a terminal, free of colour codes in a pipe."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the reading direction of what follows."""


def clean(text: object) -> str:
    """`text` with control characters and direction marks written out, on one line."""
    return "".join(c if (c.isprintable() or c == "\u200d") and c not in BIDI else _escaped(c) for c in str(text))


def _escaped(character: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character) or json.dumps(character)[1:-1]


def console(*, error: bool = False) -> Console:
    """Standard output, or standard error: no markup is read from texts, and long lines are left to the terminal."""
    return Console(stderr=error, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say(line: object = "", style: str = "") -> None:
    """Prints one line."""
    console().print(Text(clean(line), style))


def heading(line: object) -> None:
    """Prints a line that stands above others, after an empty one."""
    console().print()
    say(line, "bold")


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]], styles: Sequence[str] = ()) -> None:
    """Prints rows in columns as wide as their texts; numbers are set to the right. styles: of each row, if any."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([cell_len(name), *(cell_len(row[place]) for row in cells)]) for place, name in enumerate(columns)]
    right = [bool(cells) and all(_is_number(row[place]) for row in cells) for place in range(len(columns))]

    def line(values: Sequence[str]) -> str:
        padded = []
        for value, width, at_right in zip(values, widths, right, strict=True):
            space = " " * (width - cell_len(value))
            padded.append(space + value if at_right else value + space)
        return "  ".join(padded).rstrip()

    console().print(Text(line(columns), "bold"))
    for place, row in enumerate(cells):
        console().print(Text(line(row), styles[place] if styles else ""))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else clean(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "").replace("-", "").isdigit()


def emit(value: Any, *, indent: int | None = 1) -> None:
    """Prints `value` as JSON; whatever a terminal could take for a command is written as an escape."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    sys.stdout.write("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text) + "\n")


def complain(message: str) -> None:
    """Prints an error on standard error."""
    lines = message.splitlines() or [""]
    to = console(error=True)
    to.print(Text.assemble(("error: ", "bold red"), clean(lines[0])))
    for line in lines[1:]:
        to.print(Text(clean(line)))


def hint(line: str) -> None:
    """Prints something that helps a person on standard error, out of the way of what a pipe reads."""
    console(error=True).print(Text(clean(line), "dim"))
