"""Which system calls a program in the sandbox may make, as the filter that Linux runs before each of them (seccomp)."""

import struct
from errno import EAFNOSUPPORT, ENOSYS, EPERM
from typing import NamedTuple


class Machine(NamedTuple):
    """A processor's numbers of the system calls that are looked at: include/uapi/asm-generic/unistd.h and arch/x86."""

    audit: int
    clone: int
    prlimit: int
    socket: int
    denied: tuple[int, ...]


MACHINES = {
    "x86_64": Machine(
        audit=0xC000003E,
        clone=56,
        prlimit=302,
        socket=41,
        denied=(
            *(272, 308, 165, 166, 155, 161),  # unshare setns mount umount2 pivot_root chroot
            *(101, 310, 311, 298, 321, 323, 304),  # ptrace process_vm_* perf_event_open bpf userfaultfd open_by_handle
            *(319, 29, 68, 64, 248, 249, 250),  # what no memory limit counts: memfd_create, System V ipc, kernel keys
        ),
    ),
    "aarch64": Machine(
        audit=0xC00000B7,
        clone=220,
        prlimit=261,
        socket=198,
        denied=(
            *(97, 268, 40, 39, 41, 51),
            *(117, 270, 271, 241, 280, 282, 265),
            *(279, 194, 186, 190, 217, 218, 219),
        ),
    ),
}
DENIED_EVERYWHERE = (
    *(425, 426, 427, 428, 429, 430, 431, 432, 433, 442),  # io_uring, which passes by this filter; the new mount calls
    *(438, 447),  # pidfd_getfd memfd_secret
)
CLONE3 = 435
X32 = 0x40000000
"""From here on, numbers mean the same calls again in another way of passing arguments."""
NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
SOCKET_FAMILIES = (1, 2, 10)
"""Unix, IPv4, IPv6: a network namespace closes them in, which it does not do for all others, such as vsock."""
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_ARCHITECTURE, _NUMBER, _FIRST_ARGUMENT = 4, 0, 16


def call_filter(machine: str) -> bytes:
    """Classic BPF (linux/filter.h) that lets every system call through but those in the tables above.

    Of some, the first argument decides: `clone` makes no namespace, `prlimit` concerns no other process, and a socket
    belongs to a known family. machine: a key of MACHINES.
    """
    calls = MACHINES[machine]
    allow, kill = (_ANSWER, 0, 0, 0x7FFF0000), (_ANSWER, 0, 0, 0x80000000)
    denied, unknown, no_family = ((_ANSWER, 0, 0, 0x50000 | number) for number in (EPERM, ENOSYS, EAFNOSUPPORT))
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, calls.audit), kill, (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        steps += [(_AT_LEAST, 0, 1, X32), unknown]
    for number in (*calls.denied, *DENIED_EVERYWHERE):
        steps += [(_EQUAL, 0, 1, number), denied]
    steps += [(_EQUAL, 0, 1, CLONE3), unknown]  # libraries then fall back on clone, whose flags can be seen
    families = [(_EQUAL, len(SOCKET_FAMILIES) - place, 0, family) for place, family in enumerate(SOCKET_FAMILIES)]
    for number, tests in (
        (calls.clone, [(_ANY_BIT, 0, 1, NAMESPACES), denied, allow]),
        (calls.prlimit, [(_EQUAL, 1, 0, 0), denied, allow]),
        (calls.socket, [*families, no_family, allow]),
    ):
        steps += [(_EQUAL, 0, len(tests) + 1, number), (_LOAD, 0, 0, _FIRST_ARGUMENT), *tests]
    return b"".join(struct.pack("HBBI", *step) for step in [*steps, allow])
