"""The process that trials are forked from: `python -m tunesmith.search.trial`.

It has imported everything before the first trial begins and has computed nothing, so that a trial starts at once and is
a process of its own all the same. A line of standard input is a trial to begin, `{"way": "run", "folder": ...}`, where
the folder is that of a run whose recipe is there already; a line of standard output says that one has ended,
`{"folder": ..., "code": ...}`. When standard input ends, because all is done or because who wrote there has died,
trials that are going on save and end.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from tunesmith import pipeline
from tunesmith.contracts import Step
from tunesmith.errors import TunesmithError
from tunesmith.run import Run

WAYS = {"run": pipeline.run, "rehearse": pipeline.rehearse}
LOG = "trial.log"
PAUSE_SECONDS = 0.1
GRACE_SECONDS = 60.0


class Told:
    """Writes what is said to standard output, which is the trial's log."""

    def stage(self, name: str, what: str) -> None:
        print(f"{name}: {what}", flush=True)

    def say(self, line: str) -> None:
        print(f"  {line}", flush=True)

    def step(self, step: Step, of: int) -> None:
        """The journal has it."""


def serve() -> int:
    """Begins a trial for each line of standard input, until there are no more and all have ended."""
    going: dict[int, str] = {}
    for lines in _heard():
        for line in lines:
            wanted = json.loads(line)
            going[_forked(wanted["way"], Path(wanted["folder"]))] = wanted["folder"]
        _tell_ended(going)
    _end(going)
    return 0


def _heard() -> Iterator[list[bytes]]:
    """The whole lines that have come in since the last time, again and again, until the input ends."""
    rest = b""
    while True:
        ready, _, _ = select.select([0], [], [], PAUSE_SECONDS)
        found = os.read(0, 65536) if ready else b""
        if ready and not found:
            return
        *lines, rest = (rest + found).split(b"\n")
        yield lines


def _forked(way: str, folder: Path) -> int:
    """The process that carries a trial out, and ends with the exit code that the command line has for the same end."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = carry_out(way, folder)
    except BaseException:  # noqa: BLE001  the trial's process ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def carry_out(way: str, folder: Path) -> int:
    """Runs the run in the folder, or rehearses it; the exit code."""
    try:
        WAYS[way](Run.open(folder).recipe(), folder, folder, Told())
    except TunesmithError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


def _tell_ended(going: dict[int, str]) -> None:
    while going:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        print(json.dumps({"folder": going.pop(pid), "code": os.waitstatus_to_exitcode(status)}), flush=True)


def _end(going: dict[int, str]) -> None:
    """Asks trials that are going on to save and end; they have so long, and then they are ended."""
    until = time.monotonic() + GRACE_SECONDS
    for pid in going:
        os.kill(pid, signal.SIGTERM)
    while going:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        going.pop(pid, None)
        if time.monotonic() > until:
            for left in going:
                os.kill(left, signal.SIGKILL)
        time.sleep(0 if pid else PAUSE_SECONDS)


if __name__ == "__main__":
    sys.exit(serve())
