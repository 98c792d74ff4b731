"""The record of a run: what happened in each step, and apart from it what depends on the clock."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.contracts import Step


class Journal:
    """A file of JSON lines that holds the same bytes whenever the same training is done, interrupted or not."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def step(self, step: Step) -> None:
        told = asdict(step)
        self.write({"event": "step", **{key: value for key, value in told.items() if value != {}}})

    def write(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def size(self) -> int:
        """Bytes that are safely on disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, size: int) -> None:
        """Forgets what was written past `size` bytes: steps that are about to be done again."""
        self._file.truncate(size)
        self._file.seek(size)

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events of a journal, in order; a torn last line is left out."""
    events = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return events
