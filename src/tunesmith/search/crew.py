"""Trials carried out in processes of their own, some at a time."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.errors import Interrupted, RunBusy
from tunesmith.train.signals import stop_wish

LOG = "trial.log"
PAUSE_SECONDS = 0.1
BUSY_SECONDS = 60.0
"""How long a trial may still be held by a process whose own parent was killed."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """A trial to carry out in the folder of its run."""

    folder: Path
    way: Literal["run", "rehearse"]


@dataclass(frozen=True)
class Crew:
    """How trials are carried out. jobs: at a time. threads: of each, whatever their number, as results depend on it."""

    jobs: int
    threads: int

    def carry_out(self, jobs: Sequence[Job], tell: Callable[[Job, str | None], None]) -> None:
        """Carries all of them out. tell: is given each when it has ended, and the reason where it failed.

        Raises Interrupted when a signal came, after the trials that were going on have saved.
        """
        if not jobs:
            return
        waiting, going, since = list(jobs), dict[str, Job](), dict[Job, float]()
        with stop_wish() as wish, self._server() as server:
            while (waiting or going) and wish.signal is None:
                while waiting and len(going) < self.jobs:
                    job = waiting.pop(0)
                    since.setdefault(job, time.monotonic())
                    going[str(job.folder)] = job
                    server.begin(job)
                for folder, code in server.ended(going):
                    job = going.pop(folder)
                    if code == RunBusy.exit_code and time.monotonic() - since[job] < BUSY_SECONDS:
                        waiting.append(job)
                    else:
                        tell(job, reason(job.folder, code))
        if wish.signal is not None:
            raise Interrupted(wish.signal, "finished trials are kept; the same command goes on from there")

    @contextmanager
    def _server(self) -> Iterator["_Server"]:
        environment = {**os.environ, **dict.fromkeys(THREADS, str(self.threads))}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # finds what is found here
        environment.setdefault("GOMP_SPINCOUNT", "10000")
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "tunesmith.search.trial"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the trials through us, once
        ) as process:
            yield _Server(process)


class _Server:
    """The process that trials are forked from; `tunesmith.search.trial` says what is written and read."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.rest = b""

    def begin(self, job: Job) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"way": job.way, "folder": str(job.folder)}).encode() + b"\n")
        self.process.stdin.flush()

    def ended(self, going: Sequence[str] | dict[str, Job]) -> list[tuple[str, int]]:
        """The trials that ended since the last time, and their exit codes; all of them when the server has died."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PAUSE_SECONDS)
        if not ready:
            return []
        found = os.read(self.process.stdout.fileno(), 65536)
        if not found:
            return [(folder, -signal.SIGKILL) for folder in going]
        *lines, self.rest = (self.rest + found).split(b"\n")
        told = [json.loads(line) for line in lines]
        return [(one["folder"], one["code"]) for one in told]


def reason(folder: Path, code: int) -> str | None:
    """Why a trial that ended with this code failed, in a line; None where it did not."""
    if code == 0:
        return None
    if code == -signal.SIGKILL:
        return "killed from outside, as a system does that runs out of memory"
    if code < 0:
        return f"ended by signal {-code}"
    said = [line for line in (folder / LOG).read_text("utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return (errors or said or ["no reason given"])[-1]
