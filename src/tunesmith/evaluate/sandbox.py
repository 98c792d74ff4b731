"""Runs a Python program that nobody has read, closed off from the machine: Linux namespaces, limits, seccomp.

Works for root and for ordinary users, on Linux 5.12 or newer.
"""

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from tunesmith.errors import UserError, shown
from tunesmith.evaluate.sandbox_calls import MACHINES, call_filter

CHILD = Path(__file__).with_name("sandbox_child.py")
GRACE = 30.0
"""Seconds beyond a program's own after which its sandbox is killed from outside, should it not end by itself."""
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}  # noqa: S108
KEPT = "LD_LIBRARY_PATH"
"""The one variable that the sandbox is started with, should the interpreter need it; the program does not get it."""


@dataclass(frozen=True)
class Limits:
    """What one program may use up.

    seconds: by the clock; and of processor time, for each process. memory_bytes: address space of each process, and
    resident memory of all together. file_bytes: all that lies in /tmp, which is memory too. processes: at a time, with
    about as many threads. output_bytes: printed, on both streams together.
    """

    seconds: float = 5.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 16 << 20
    processes: int = 16
    output_bytes: int = 1 << 20


LIMITS = Limits()


@dataclass(frozen=True)
class Ran:
    """What came of a program.

    reason: "passed" (it ran to its end), "failed" (it raised), "exited" (it left before its end, with whatever status),
    "timeout", "memory", "output", "processes" (a limit), "killed" (a signal, a crash).
    detail: what it raised, on one line.
    """

    passed: bool
    reason: str
    detail: str = ""


def run_python(source: str, *, limits: Limits = LIMITS) -> Ran:
    """Whether `source` runs to its end, each time in a new sandbox of which nothing is left afterwards.

    The program has the standard library (no other package), an empty /tmp as home and working folder, and a fixed hash
    seed, so that it does the same each time. What it prints is counted and thrown away. It cannot see other files,
    processes, users, networks or environment variables, nor gain rights; whatever it started dies with it.

    Not defended: the program shares its interpreter with its own tests. `sys.exit`, `os._exit`, `exec` or a printed
    "passed" do not count, since the end is reported with a random number through a pipe; but a program written against
    this very harness can look that number up in the interpreter's frames, return objects that are equal to everything,
    or replace what a test calls. Nor is there a defence against a hole in the kernel, against what can be learned from
    timing, or against reading system libraries and the interpreter's own folders, packages included.

    Raises UserError where the machine does not allow such walls: nothing is ever run without them.
    """
    refusal = _refusal()
    if refusal is not None:
        raise _unavailable(refusal)
    return _ran(_told(source, limits))


def run_many(sources: Iterable[str], *, limits: Limits = LIMITS, workers: int = 2) -> list[Ran]:
    """`run_python` of each source, in their order, `workers` at a time."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda source: run_python(source, limits=limits), sources))


@functools.cache
def _refusal() -> str | None:
    """Why this machine cannot close off a program; None when it can. Tried out once in a process."""
    if sys.platform != "linux":
        return f"{sys.platform} has no Linux namespaces"
    if platform.machine() not in MACHINES:
        return f"no table of system calls for {platform.machine()}"
    word, _, detail = _told("import string", Limits(seconds=60.0)).partition(" ")
    return None if word == "passed" else detail or word


def _unavailable(why: str) -> UserError:
    fix = "allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
    return UserError("sandbox", f"this machine cannot close off a program ({why})", f"{fix} or run privileged")


def _ran(told: str) -> Ran:
    word, _, detail = told.partition(" ")
    if word == "refused":
        raise _unavailable(detail)
    return Ran(word == "passed", word, shown(detail, 200)[1:-1])


def _told(source: str, limits: Limits) -> str:
    """The line that the inside of the sandbox says."""
    kept = {KEPT: os.environ[KEPT]} if KEPT in os.environ else {}
    sizes = [str(value) for value in astuple(limits)]
    calls = call_filter(platform.machine()).hex()
    process = subprocess.Popen(  # noqa: S603 - our own script
        # no site packages, no user's folder, nothing from the current one; -I would also take away the hash seed
        [os.path.realpath(sys.executable), "-s", "-P", "-S", str(CHILD), *sizes, str(os.getpid()), calls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | kept,
        cwd="/",
        start_new_session=True,
    )
    try:
        told, errors = process.communicate(source.encode(errors="surrogatepass"), limits.seconds + GRACE)
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()  # until the last process behind the gate has let go of the pipes
    if told:
        return told.decode(errors="replace")
    complaint = errors.decode(errors="replace").strip().splitlines()
    return f"refused {complaint[-1]}" if complaint else "killed"
