"""The sandbox: whatever a program tries, it ends within its limits and changes nothing, and nothing is left of it."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EAFNOSUPPORT, ENOSYS, EPERM
from pathlib import Path

import pytest

from tunesmith.evaluate import sandbox
from tunesmith.evaluate.sandbox import Limits, Ran, run_many, run_python
from tunesmith.evaluate.sandbox_calls import MACHINES, call_filter

SOURCE = Path(sandbox.__file__).parents[2]
PASSED = Ran(True, "passed")
HALF_A_SECOND = Limits(seconds=0.5)
NOBODY = 65534

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of Linux namespaces")


def command_lines() -> dict[str, str]:
    """What runs on this machine, by its process number."""
    lines = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            lines[folder.name] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return lines


def sandboxes_of(asking: int) -> list[str]:
    """Processes of sandboxes that the process `asking` has started."""
    return [number for number, line in command_lines().items() if sandbox.CHILD.name in line and f" {asking} " in line]


def children() -> set[str]:
    numbers: set[str] = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            numbers.update((thread / "children").read_text().split())
    return numbers


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test there are no processes and no mounts that were not there before."""
    mounts, before = Path("/proc/self/mountinfo").read_text(), children()
    yield
    assert sandboxes_of(os.getpid()) == []
    assert children() == before
    assert Path("/proc/self/mountinfo").read_text() == mounts


def refused(source: str, error: str = "OSError") -> None:
    """The program fails with this kind of error, or one of its kinds."""
    ran = run_python(f"try:\n    {source}\nexcept {error}:\n    pass\nelse:\n    raise RuntimeError('it could')")
    assert ran == PASSED, (source, ran)


def test_a_program_that_reaches_its_end_passes() -> None:
    assert run_python("x = 1\nassert x == 1\nprint(x)") == PASSED
    assert run_python("") == PASSED


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("assert False, 'one\\ntwo'", "AssertionError: one\\ntwo"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class E(Exception):\n  def __str__(self): raise ValueError\nraise E", "E"),
        ("def f(:", "SyntaxError: invalid syntax (program.py, line 1)"),
        ("def f(): return f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_a_program_that_raises_fails_and_it_is_said_how_on_one_line(source: str, detail: str) -> None:
    assert run_python(source) == Ran(False, "failed", detail)


@pytest.mark.parametrize("source", ["x = 1\0", "\0", "x = '\ud800'", "# coding: nonsense", "\xff = = 1", "if x:"])
def test_a_text_that_is_no_program_fails(source: str) -> None:
    assert run_python(source).reason == "failed"


@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "import os; os._exit(0)",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; print('passed', flush=True); os._exit(0)",
        "import os; [os.write(3, b'+passed ' * 99)]; os._exit(0)",
        "import os; os.write(3, b'+' * 10**6)",
        "import os; os.close(3)",
        "import os, atexit; atexit.register(print, 'passed'); os._exit(0)",
        "import os, threading; threading.Thread(target=os._exit, args=(0,)).start(); import time; time.sleep(9)",
        "import os\nif os.fork() == 0:\n    os._exit(0)\nos._exit(0)",
        "import os, time\nif os.fork():\n    time.sleep(0.3); os._exit(0)",
    ],
)
def test_a_program_that_leaves_before_its_end_does_not_pass(source: str) -> None:
    assert run_python(source).reason == "exited"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, 40])
def test_a_program_that_a_signal_ends_is_killed(number: int) -> None:
    assert run_python(f"import os; os.kill(os.getpid(), {int(number)})") == Ran(
        False, "killed", f"signal {int(number)}"
    )


@pytest.mark.parametrize(
    ("source", "reason", "limits"),
    [
        ("while True: pass", "timeout", HALF_A_SECOND),
        ("import time; time.sleep(99)", "timeout", HALF_A_SECOND),
        ("import re; re.match(r'(a+)+b', 'a' * 40)", "timeout", HALF_A_SECOND),
        ("import os; os.kill(os.getpid(), 19)", "timeout", HALF_A_SECOND),
        ("import os; os.kill(0, 19)", "timeout", HALF_A_SECOND),
        ("bytearray(10 * 10**9)", "memory", Limits()),
        ("x = []\nwhile True: x.append([0] * 9999)", "memory", Limits()),
        ("x = 'x'\nwhile True: x += x", "memory", Limits()),
        ("while True: print('x' * 9999)", "output", Limits()),
        ("import sys\nwhile True: print('x' * 9999, file=sys.stderr)", "output", Limits()),
        ("import subprocess; subprocess.run(['yes'])", "output", Limits()),
        ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "processes", Limits()),
        (
            "import subprocess as s\nwhile True:\n  try: s.Popen(['sleep', '9'])\n  except OSError: pass",
            "processes",
            Limits(),
        ),
    ],
)
def test_a_program_without_measure_is_stopped_at_its_limit(source: str, reason: str, limits: Limits) -> None:
    start = time.monotonic()
    assert run_python(source, limits=limits) == Ran(False, reason)
    assert time.monotonic() - start < 15


def test_a_program_that_ignores_signals_is_stopped_all_the_same() -> None:
    deaf = "import signal\nfor n in set(signal.Signals) - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass"
    start = time.monotonic()
    assert run_python(deaf, limits=HALF_A_SECOND) == Ran(False, "timeout")
    assert time.monotonic() - start < 10


def test_processor_time_of_threads_is_limited_too() -> None:
    hashing = "import hashlib, threading\nbig = bytes(10**8)\ndef work():\n    while True: hashlib.sha256(big)\n"
    both = f"{hashing}for _ in range(4): threading.Thread(target=work).start()\nimport time; time.sleep(99)"
    assert run_python(both, limits=Limits(seconds=1.5)).reason in ("timeout", "killed")


def test_memory_of_several_processes_is_counted_together() -> None:
    four = "import os, time\nfor _ in range(3): os.fork()\nx = b'x' * (40 << 20)\ntime.sleep(3)"
    assert run_python(four, limits=Limits(memory_bytes=160 << 20)) == Ran(False, "memory")


@pytest.mark.parametrize(
    "source",
    [
        "open('big', 'wb').write(bytes(17 << 20))",
        "for n in range(99): open(str(n), 'wb').write(bytes(1 << 20))",
        "for n in range(9999): open(str(n), 'wb')",
        "import os; open('big', 'wb').close(); os.truncate('big', 1 << 40)",
    ],
)
def test_a_program_cannot_write_more_than_its_share(source: str) -> None:
    refused(source.replace("\n", "\n    "))


def test_threads_are_limited_in_number() -> None:
    refused(
        "import threading, time\n    for _ in range(99): threading.Thread(target=time.sleep, args=(9,)).start()",
        "RuntimeError",
    )


def test_a_program_with_threads_and_processes_within_its_limits_passes() -> None:
    source = """
import multiprocessing, subprocess, threading
found = []
threads = [threading.Thread(target=found.append, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
assert sorted(found) == [0, 1, 2, 3]
assert subprocess.run(["echo", "hi"], capture_output=True).stdout == b"hi\\n"
def double(n): return 2 * n
with multiprocessing.Pool(2) as pool:
    assert pool.map(double, [1, 2]) == [2, 4]
"""
    assert run_python(source) == PASSED


def test_a_program_passes_at_its_end_though_its_threads_never_end() -> None:
    start = time.monotonic()
    assert run_python("import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()") == PASSED
    assert time.monotonic() - start < 10


def test_a_daemon_does_not_outlive_its_program() -> None:
    name = f"7.{secrets.randbelow(10**9):09d}"
    daemon = f"""
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", "{name}"])
    os._exit(0)
time.sleep(0.2)
"""
    assert run_python(daemon) == PASSED
    assert [line for line in command_lines().values() if name in line] == []


def test_what_is_deleted_is_deleted_nowhere(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    at_home = sorted(path.name for path in Path.home().iterdir())
    source = f"""
import os, shutil, subprocess
shutil.rmtree("/", ignore_errors=True)
shutil.rmtree({str(tmp_path)!r}, ignore_errors=True)
for place in ("~", {str(Path.home())!r}, {str(canary)!r}, "/tmp"):
    subprocess.run(["rm", "-rf", "--no-preserve-root", os.path.expanduser(place)], stderr=subprocess.DEVNULL)
"""
    assert run_python(source, limits=Limits(seconds=60)) == PASSED  # a busy machine deletes slowly
    assert canary.read_text() == "alive"
    assert sorted(path.name for path in Path.home().iterdir()) == at_home
    assert run_python("import json, subprocess; subprocess.run(['true'], check=True)") == PASSED


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    name = f"written-{secrets.token_hex(8)}"
    for folder in (tmp_path, Path.home(), Path("/"), Path("/usr/lib"), Path("/etc"), Path(os.__file__).parent):
        refused(f"open({str(folder / name)!r}, 'w')")
        assert not (folder / name).exists()
    for folder in (Path("/tmp"), Path("/dev/shm")):
        assert run_python(f"open({str(folder / name)!r}, 'w').write('x')") == PASSED
        assert not (folder / name).exists()
    assert run_python(f"open({name!r}, 'w').write('x')") == PASSED
    assert not Path(name).exists()


def test_a_run_finds_nothing_of_the_one_before() -> None:
    assert run_python("open('/tmp/note', 'w').write('x')") == PASSED
    assert run_python("import os; assert os.listdir() == [] and os.getcwd() == '/tmp'") == PASSED


def test_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(8)
    monkeypatch.setenv("API_TOKEN", secret)
    source = f"""
import os, sys
assert set(os.environ) <= {{"PATH", "HOME", "LANG", "LC_CTYPE", "PYTHONHASHSEED"}}, os.environ
assert os.environ["HOME"] == os.path.expanduser("~") == "/tmp"
assert {secret[::-1]!r}[::-1] not in str(os.environ)
"""
    assert run_python(source) == PASSED
    for place in ("self", "1", str(os.getpid())):
        refused(f"open('/proc/{place}/environ')")


def test_files_of_the_machine_are_hidden(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    for place in (
        secret,
        Path(__file__),
        Path("/etc/passwd"),
        Path("/etc/hostname"),
        Path("/proc/mounts"),
        Path("/sys"),
    ):
        assert place.exists()
        refused(f"open({str(place)!r}).close()" if place.is_file() else f"__import__('os').listdir({str(place)!r})")
    assert run_python("import os; assert os.uname().nodename == 'sandbox'") == PASSED


def test_no_network_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        name = f"\0tunesmith-{secrets.token_hex(8)}"
        abstract.bind(name)
        abstract.listen()
        refused(f"import socket; socket.create_connection({server.getsockname()!r}, timeout=2)")
        refused(f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})")
        for listening in (server, abstract):
            listening.settimeout(0)
            with pytest.raises(BlockingIOError):
                listening.accept()
    refused("import socket; socket.create_connection(('192.0.2.1', 80), timeout=2)")
    refused("import socket; socket.getaddrinfo('example.org', 80)")
    refused("import urllib.request; urllib.request.urlopen('http://example.org', timeout=2)")
    refused("import socket; socket.socket(40, socket.SOCK_STREAM)")  # vsock, which no namespace closes in
    assert run_python("import asyncio; asyncio.run(asyncio.sleep(0))") == PASSED


@pytest.mark.parametrize(
    "attempt",
    [
        "os.setuid(0)",
        "os.setgroups([0])",
        "os.chroot('/tmp')",
        "os.sethostname('x')" if hasattr(os, "sethostname") else "socket.sethostname('x')",
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))",
        "os.kill(1, 0) or os.kill(1, 9) or raised()",
        "os.mknod('disk', 0o60600, os.makedev(254, 0))",
        "c('unshare', 0x10000000)",
        "c('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
        "c('umount2', b'/tmp', 2)",
        "c('ptrace', 16, 1, 0, 0)",
        "c('memfd_create', b'x', 0)",
        "c('shmget', 0, 4096, 0o1600)",
        "c('setns', 0, 0)",
    ],
)
def test_a_program_gains_no_rights(attempt: str) -> None:
    setup = """
import ctypes, os, resource, socket
def c(name, *arguments):
    if ctypes.CDLL(None, use_errno=True)[name](*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
def raised():
    raise PermissionError("process 1 did not hear it")
"""
    ran = run_python(
        f"{setup}\ntry:\n    {attempt}\nexcept (OSError, ValueError):\n    pass\nelse:\n    raise RuntimeError"
    )
    assert ran == PASSED


def test_a_program_begins_without_capabilities_and_with_no_open_file_but_its_own() -> None:
    source = """
import ctypes, os, struct
held = ctypes.create_string_buffer(24)
assert ctypes.CDLL(None).capget(struct.pack("Ii", 0x20080522, 0), held) == 0
assert held.raw == bytes(24), held.raw
for number in range(4, 64):
    try:
        os.fstat(number)
    except OSError:
        continue
    raise RuntimeError(number)
"""
    assert run_python(source) == PASSED


def test_a_program_belongs_to_nobody_when_root_asked_for_it() -> None:
    if os.geteuid() != 0:
        pytest.skip("not root: the program belongs to the user who asked for it")
    with ThreadPoolExecutor(1) as pool:
        ran = pool.submit(run_python, "import time; time.sleep(1)")
        owners: list[int] = []
        while NOBODY not in owners and not ran.done():
            time.sleep(0.05)
            with contextlib.suppress(OSError):  # it has just ended
                states = [Path(f"/proc/{number}/status").read_text() for number in sandboxes_of(os.getpid())]
                owners = [int(state.partition("Uid:")[2].split()[0]) for state in states]
        assert sorted(owners) == [0, 0, NOBODY]  # gate, keeper, program
        assert ran.result() == PASSED


def test_a_program_that_kills_everything_it_sees_kills_only_itself() -> None:
    assert run_python("import os; os.kill(0, 9)") == Ran(False, "killed", "signal 9")
    copy = "import os\nif os.fork() == 0:\n    os.kill(-1, 9)\nelse:\n    os.wait(); os.wait()"
    assert run_python(copy) == Ran(False, "killed", "signal 9")


def test_the_standard_library_is_there_and_no_other_package() -> None:
    source = "import bz2, ctypes, dataclasses, decimal, hashlib, json, lzma, sqlite3, ssl, typing, zoneinfo"
    assert run_python(f"{source}\nimport sys; assert not any('site-packages' in p for p in sys.path)") == PASSED
    for name in ("torch", "numpy", "tunesmith"):
        refused(f"import {name}", "ModuleNotFoundError")


def test_a_program_does_the_same_each_time() -> None:
    details = {run_python("raise ValueError(hash('a'), list(set('abcdef')))").detail for _ in range(3)}
    assert len(details) == 1


def test_a_program_is_the_main_module() -> None:
    source = "import __main__\nassert __name__ == '__main__' and __main__.source is source"
    assert run_python(f"source = 1\n{source}\nassert __file__ == '/program.py'") == PASSED


def test_many_programs_are_answered_in_their_order() -> None:
    sources = ["pass", "assert False", "while True: pass", "import sys; sys.exit()"] * 3
    reasons = [ran.reason for ran in run_many(sources, limits=HALF_A_SECOND, workers=4)]
    assert reasons == ["passed", "failed", "timeout", "exited"] * 3
    assert run_many([]) == []


def test_an_exhausted_neighbour_does_not_change_an_answer() -> None:
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    ran = run_many([bomb, "import threading; t = threading.Thread(target=print); t.start(); t.join()"] * 4)
    assert [each.reason for each in ran] == ["processes", "passed"] * 4


def test_a_program_dies_with_the_process_that_asked_for_it() -> None:
    script = "from tunesmith.evaluate.sandbox import *\nrun_python('while True: pass', limits=Limits(seconds=60))"
    asking = subprocess.Popen([sys.executable, "-P", "-c", script], env=os.environ | {"PYTHONPATH": str(SOURCE)})
    deadline = time.monotonic() + 10
    while len(sandboxes_of(asking.pid)) < 3:  # gate, keeper, program
        assert time.monotonic() < deadline
        time.sleep(0.02)
    asking.kill()
    asking.wait()
    while sandboxes_of(asking.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def interpreter_for_nobody() -> str:
    """A Python that user nobody may run; skips the test where there is none, or where nobody cannot be become."""
    if os.geteuid() != 0:
        pytest.skip("not root: the other tests have run as an ordinary user already")
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        check = (
            "import sys; sys.path.insert(0, sys.argv[1]); import tunesmith.errors; assert sys.version_info >= (3, 11)"
        )
        if os.path.exists(path) and as_nobody(path, check, str(SOURCE)).returncode == 0:
            return path
    pytest.skip("no Python of 3.11 or newer, or not this project, can be read by an ordinary user here")


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    python, script, *arguments = command
    with contextlib.suppress(PermissionError):
        return subprocess.run(
            [python, "-P", "-B", "-c", script, *arguments],
            user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, text=True,
        )  # fmt: skip
    return subprocess.CompletedProcess(command, 1, "", "not permitted")


def test_an_ordinary_user_has_the_same_walls() -> None:
    python = interpreter_for_nobody()
    sources = {
        "pass": "passed",
        "assert False": "failed",
        "import sys; sys.exit(0)": "exited",
        "while True: pass": "timeout",
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass": "processes",
        "bytearray(10 * 10**9)": "memory",
        "while True: print('x' * 9999)": "output",
        "import os; os.kill(0, 9)": "killed",
        "import os; os.kill(0, 19)": "timeout",
        "open('/usr/bin/x', 'w')": "failed",
        "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)": "failed",
        "import os, resource; resource.prlimit(1, resource.RLIMIT_CPU)": "failed",
        "import os; os.kill(1, 2); os.kill(1, 9); assert os.getuid() == 65534": "passed",
        "import os; assert not os.path.exists('/proc/self')": "passed",
    }
    script = """
import sys; sys.path.insert(0, sys.argv[1])
from tunesmith.evaluate.sandbox import Limits, run_many
print(*(ran.reason for ran in run_many(sys.argv[2:], limits=Limits(seconds=1))))
"""
    start = time.monotonic()
    done = as_nobody(python, script, str(SOURCE), *sources)
    assert (done.stdout.split(), done.stderr) == (list(sources.values()), "")
    assert time.monotonic() - start < 20


def test_a_machine_without_namespaces_is_told_so_in_one_line_and_nothing_is_run() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare command to take namespaces away with")
    script = """
import sys; sys.path.insert(0, sys.argv[1])
from tunesmith.errors import UserError
from tunesmith.evaluate.sandbox import run_python
for _ in range(2):
    try:
        print(run_python("print('ran')"))
    except UserError as error:
        print(error)
"""
    without = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", without, "sh", sys.executable, "-P", "-c", script]
    done = subprocess.run([*command, str(SOURCE)], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.startswith("sandbox: this machine cannot close off a program (")
    assert "unshare: No space left on device" in first
    assert "user.max_user_namespaces" in first


def filtered(machine: str, architecture: int, number: int, argument: int = 0) -> int:
    """What the filter answers for a system call: classic BPF, as far as it is used here."""
    code = call_filter(machine)
    steps = [struct.unpack("HBBI", code[place : place + 8]) for place in range(0, len(code), 8)]
    words, value, place = {0: number, 4: architecture, 16: argument}, 0, 0
    while True:
        operation, then, otherwise, k = steps[place]
        place += 1
        if operation == 0x06:
            return k
        if operation == 0x20:
            value = words[k]
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[operation]
            place += then if holds else otherwise


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_denies_what_leads_out_and_lets_the_rest_through(machine: str) -> None:
    calls = MACHINES[machine]
    answers = {"denied": 0x50000 | EPERM, "unknown": 0x50000 | ENOSYS, "family": 0x50000 | EAFNOSUPPORT}
    allowed, killed = 0x7FFF0000, 0x80000000

    def answer(number: int, argument: int = 0) -> int:
        return filtered(machine, calls.audit, number, argument)

    assert {answer(number) for number in calls.denied} == {answers["denied"]}
    assert answer(435) == answers["unknown"]  # clone3
    assert {answer(calls.clone, flags) for flags in (0, 17, 0x3D0F00)} == {allowed}  # fork, a thread
    assert {answer(calls.clone, 1 << bit | 17) for bit in (17, 25, 26, 27, 28, 29, 30)} == {answers["denied"]}
    assert [answer(calls.prlimit, process) for process in (0, 1)] == [allowed, answers["denied"]]
    assert [answer(calls.socket, family) for family in (1, 2, 10)] == [allowed] * 3
    assert {answer(calls.socket, family) for family in (0, 16, 17, 38, 40)} == {answers["family"]}
    assert {answer(number) for number in (0, 1, 2, 57, 63, 424, 434, 439)} == {allowed}
    assert filtered(machine, 0x40000003, 0) == killed  # the calls of a 32-bit processor
