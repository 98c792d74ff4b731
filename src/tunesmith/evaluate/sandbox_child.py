"""The inside of the sandbox: a script that builds the walls and runs one program behind them, for `sandbox.py` alone.

Called as `python sandbox_child.py SECONDS MEMORY FILES PROCESSES OUTPUT PARENT FILTER`, the program on standard input.
On standard output it says one line, `WORD DETAIL`; the word is `refused` where the machine does not allow the walls.

Three processes. The *gate* leaves the machine's namespaces and waits: when it is killed, all else dies with it. The
*keeper* is process 1 behind the gate: it builds the file tree, watches the limits and gives the verdict; when it ends,
the kernel kills whatever is left in there. The *program* gives up every right and runs the source.

Only light modules of the standard library are imported here: each run waits for them.
"""

import contextlib
import ctypes
import functools
import os
import resource
import select
import signal
import struct
import sys
import time
import types
from importlib.machinery import SourceFileLoader

NOBODY = 65534
PROGRAM = "/program.py"
WORKPLACE = "/tmp"  # noqa: S108 - a tmpfs of its own, seen by this one program
BUILDING_SITE = "/sys"
"""A folder that exists on every machine and that no interpreter lives in; the new file tree is put together over it."""
SHOWN = (
    *("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/bin", "/lib", "/lib32", "/lib64"),
    *("/nix/store", "/gnu/store", "/usr/share/zoneinfo", "/etc/ld.so.cache"),
)
"""What of the machine a program may read, besides the interpreter's own folders."""
DEVICES = ("null", "zero", "full", "random", "urandom")

NEW_USER, NEW_REST = 0x10000000, 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # mount uts ipc pid net
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_RECURSIVE, MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 1 << 18
ATTR_READ_ONLY, ATTR_NOSUID, ATTR_NODEV, AT_RECURSIVE, AT_CWD, DETACH = 1, 2, 4, 0x8000, -100, 2
MOUNT_SETATTR = 442  # this number is the same on every machine
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
CAPABILITIES_V3 = 0x20080522

MOST_OPEN_FILES = 64
READY, UNREADY = b"+", b"-"
"""The first byte that the program's process tells the keeper: whether it could give up its rights."""
TICK = 0.02
"""Seconds between two looks of the keeper at what the program has grown to."""


class Allowed:
    """What the program may use up, `sandbox.Limits` in the order of its fields, and which system calls it may make."""

    def __init__(self, seconds: str, sizes: list[str], calls: str) -> None:
        self.seconds = float(seconds)
        self.memory_bytes, self.file_bytes, self.processes, self.output_bytes = map(int, sizes)
        self.calls = bytes.fromhex(calls)


def call(name: str, *arguments: object) -> int:
    """The result of a function of the C library; its failure as an OSError that names it."""
    library = ctypes.CDLL(None, use_errno=True)
    result = int(library[name](*arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def leave() -> None:
    """Leaves the machine's namespaces: as root where root can become nobody, as an ordinary user otherwise."""
    with open("/proc/self/uid_map") as lines:
        ranges = [tuple(map(int, line.split())) for line in lines]
    if os.geteuid() == 0 and any(first <= NOBODY < first + count for first, _, count in ranges):
        try:
            call("unshare", NEW_REST)
        except PermissionError:  # root of a container without the rights of an administrator
            pass
        else:
            return
    user, group = os.geteuid(), os.getegid()
    call("unshare", NEW_USER | NEW_REST)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {user} 1"), ("gid_map", f"{NOBODY} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def die_with_parent() -> None:
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    name = kind.encode() if kind else None
    call("mount", source.encode(), target.encode(), name, ctypes.c_ulong(flags), data.encode())


def restrict(target: str, attributes: int, flags: int = AT_RECURSIVE) -> None:
    """Sets attributes of a mount and, with AT_RECURSIVE, of all below it (mount_setattr, Linux 5.12)."""
    changes = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    number, size = ctypes.c_long(MOUNT_SETATTR), ctypes.c_size_t(ctypes.sizeof(changes))
    call("syscall", number, ctypes.c_long(AT_CWD), target.encode(), flags, ctypes.byref(changes), size)


def show(path: str, attributes: int) -> None:
    """Makes a folder or file of the machine visible in the new tree, which is the current folder."""
    target = f".{path}"
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(path, target, None, MS_BIND | MS_RECURSIVE)
    restrict(target, attributes)


def interpreter_folders() -> list[str]:
    parts = [f"{prefix}/{part}" for prefix in (sys.base_prefix, sys.base_exec_prefix) for part in ("bin", "lib")]
    return [*parts, f"{sys.base_exec_prefix}/lib64", os.path.dirname(os.__file__)]


def build(program: bytes, allowed: Allowed) -> int:
    """Changes to a file tree that holds only what may be read, and /tmp; a descriptor of a /proc nobody else has."""
    mount("none", "/", None, MS_RECURSIVE | MS_PRIVATE)
    mount("tmpfs", BUILDING_SITE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.chdir(BUILDING_SITE)
    os.mkdir(f".{WORKPLACE}")
    room = f"size={allowed.file_bytes},nr_inodes=4096,mode=1777"
    mount("tmpfs", f".{WORKPLACE}", "tmpfs", MS_NOSUID | MS_NODEV, room)
    shown: list[str] = []
    for path in sorted({*SHOWN, *interpreter_folders()}):
        if os.path.exists(path) and not any(path.startswith(f"{done}/") for done in shown):
            show(path, ATTR_READ_ONLY | ATTR_NOSUID | ATTR_NODEV)
            shown.append(path)
    for device in DEVICES:
        show(f"/dev/{device}", ATTR_READ_ONLY | ATTR_NOSUID)
    os.symlink(f"..{WORKPLACE}", "./dev/shm")
    os.mkdir("./proc")
    mount("proc", "./proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    processes = os.open("./proc", os.O_RDONLY | os.O_DIRECTORY)
    call("umount2", b"./proc", DETACH)
    os.rmdir("./proc")
    with open(f".{PROGRAM}", "wb") as file:
        file.write(program)
    call("sethostname", b"sandbox", 7)
    call("pivot_root", b".", b".")
    call("umount2", b".", DETACH)
    os.chdir("/")
    restrict("/", ATTR_READ_ONLY | ATTR_NOSUID | ATTR_NODEV, flags=0)
    return processes


def give_up_rights(allowed: Allowed) -> None:
    """From here on: user nobody, no capability, no new ones, limits of its own, and fewer system calls."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with contextlib.suppress(OSError):  # without it, the kernel counts its processes together with its neighbours'
            call("unshare", NEW_USER)
    cpu = int(allowed.seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # a signal that can be ignored, and one that cannot
    for limit, value in (
        (resource.RLIMIT_AS, allowed.memory_bytes),
        (resource.RLIMIT_FSIZE, allowed.file_bytes),
        (resource.RLIMIT_NPROC, allowed.processes + 3),  # with gate and keeper, one more than the keeper tolerates
        (resource.RLIMIT_NOFILE, MOST_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    call("capset", struct.pack("Ii", CAPABILITIES_V3, 0), bytes(24))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    steps = ctypes.create_string_buffer(allowed.calls, len(allowed.calls))
    table = struct.pack("HxxxxxxP", len(steps) // 8, ctypes.addressof(steps))
    call("prctl", PR_SET_SECCOMP, 2, table, 0, 0)


def run_program(report: int, output: int, nonce: bytes, allowed: Allowed) -> None:
    """The program: runs the source as `__main__`, then tells the keeper how it went, which only `nonce` makes true."""
    try:
        give_up_rights(allowed)
    except OSError as error:
        os.write(report, UNREADY + str(error).encode())
        return
    os.write(report, READY)
    os.setsid()  # a signal to its own group reaches nobody else
    os.chdir(WORKPLACE)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(report, 3, inheritable=False)
    os.closerange(4, 1024)
    os.environ.pop("LD_LIBRARY_PATH", None)
    sys.argv, sys.dont_write_bytecode = [PROGRAM], True
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = PROGRAM
    number, reserve, word, detail = os.getpid(), bytearray(), b"passed", b""
    try:
        reserve = bytearray(4 << 20)
        SourceFileLoader("__main__", PROGRAM).exec_module(main)
    except MemoryError:
        word = b"memory"
    except SystemExit:
        word = b"exited"
    except BaseException as error:  # noqa: BLE001 - whatever the program raises is its result, not ours
        word, detail = b"failed", described(error)
    del reserve  # so that there is memory to say that there was none
    if os.getpid() == number:  # a copy that the program made of itself has no say
        os.write(3, nonce + word + b" " + detail)


def described(error: BaseException) -> bytes:
    """Kind and text of what a program raised; its kind alone where its text cannot be had."""
    name = type(error).__name__[:100]
    try:
        text = str(error)[:500]
        return (f"{name}: {text}" if text else name).encode(errors="replace")
    except BaseException:  # noqa: BLE001 - the program's own __str__ may raise whatever it likes
        return name.encode(errors="replace")


def grown_too_large(processes: int, allowed: Allowed) -> bytes:
    """What all processes together have too much of, or nothing. Pages that they share count for each of them."""
    numbers = [name for name in os.listdir(processes) if name.isdigit() and name != "1"]
    if len(numbers) > allowed.processes:
        return b"processes"
    pages = 0
    for name in numbers:
        try:
            with open(f"{name}/statm", opener=functools.partial(os.open, dir_fd=processes)) as file:
                pages += int(file.read().split()[1])
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue  # it has just ended
    return b"memory" if pages * resource.getpagesize() > allowed.memory_bytes else b""


def ended(program: int) -> int | None:
    """The exit status of the program, None while it runs; buries whatever else has ended."""
    while True:
        try:
            number, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if number == program:
            return status
        if number == 0:
            return None


def verdict(status: int, report: int, nonce: bytes) -> bytes:
    """The program's own word if it is a true one; else how it ended without one."""
    try:
        told = os.read(report, 1 << 16)
    except BlockingIOError:
        told = b""
    if not told.startswith(READY):
        return b"refused " + told.removeprefix(UNREADY)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return b"timeout" if number == signal.SIGXCPU else f"killed signal {number}".encode()
    _, known, word = told.partition(nonce)
    return word if known and not word.startswith(b"refused") else b"exited"  # refusing is for the keeper alone


def keep(program: int, report: int, output: int, nonce: bytes, allowed: Allowed, processes: int) -> bytes:
    """The keeper: watches the program until it ends or a limit is reached, and says what came of it."""
    deadline, written = time.monotonic() + allowed.seconds, 0
    poll = select.poll()
    poll.register(os.pidfd_open(program), select.POLLIN)
    poll.register(output, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for file, _ in poll.poll(max(1, int(1000 * min(left, TICK)))):
            if file == output:
                some = os.read(output, 1 << 16)
                written += len(some)
                if not some:
                    poll.unregister(output)
        status = ended(program)
        if status is not None:
            return verdict(status, report, nonce)
        if written > allowed.output_bytes:
            return b"output"
        if too_large := grown_too_large(processes, allowed):
            return too_large
    return b"timeout"


def keeper(program: bytes, allowed: Allowed) -> bytes:
    """The verdict on the program, which is another process; or that there could be no walls."""
    try:
        processes = build(program, allowed)
    except OSError as error:
        return b"refused " + str(error).encode()
    report, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    output, written = os.pipe()
    nonce = os.urandom(16)
    number = os.fork()
    if number == 0:
        try:
            run_program(told, written, nonce, allowed)
        finally:
            os._exit(0)  # without waiting for threads or for what was to be done at exit
    os.close(told)
    os.close(written)
    return keep(number, report, output, nonce, allowed, processes)


def main() -> None:
    seconds, *sizes, parent, calls = sys.argv[1:]
    allowed = Allowed(seconds, sizes, calls)
    program = sys.stdin.buffer.read()
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 is deaf to what it has no handler for
    try:
        leave()
    except OSError as error:
        sys.exit(str(error))
    die_with_parent()
    if os.getppid() != int(parent):
        return
    alive, held = os.pipe()
    number = os.fork()
    if number:
        os.waitpid(number, 0)
        return
    os.close(held)
    die_with_parent()
    if select.select([alive], [], [], 0)[0]:  # the gate was killed before this process could ask to die with it
        os._exit(1)
    os.write(1, keeper(program, allowed))
    os._exit(0)


if __name__ == "__main__":
    main()
