"""What the measurements share: where data lie, a table, a fresh process that answers in JSON."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "TUNESMITH_BENCH_DATA"
PYTHON = Path(sys.executable)


def data(*names: str) -> Path | None:
    """The folder that $TUNESMITH_BENCH_DATA names, if it holds the data sets `names`; else says what is missing."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        print(f"skipped: {VARIABLE} does not name a folder of data sets", flush=True)
        return None
    place = Path(folder).resolve()
    missing = [name for name in names if not (place / name).exists()]
    if missing:
        print(f"skipped: {VARIABLE} holds no {', '.join(missing)}", flush=True)
        return None
    return place


def read(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows of a packed JSONL file, or the first so many of them."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in islice(file, limit)]


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints rows in columns."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[place]) for row in texts) for place in range(len(header))]
    for number, row in enumerate(texts):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print(flush=True)


def fresh(script: str, *arguments: str) -> Any:
    """What a script prints as its last line, a JSON value, run in a process of its own."""
    done = subprocess.run([PYTHON, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{Path(script).name} {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
