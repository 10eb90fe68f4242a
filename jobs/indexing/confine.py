"""Takes from the calling process what a parser of untrusted files never needs. For good: nothing gives it back.

Limits: address space, no written bytes, few open files, no core dump. System calls refused by seccomp: sockets, new
processes and programs, signals to others, tracing, and every change to the file system (also opening to write).
Linux on x86-64 and ARM64; elsewhere `confine` raises, because an unconfined parser is not an option.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct

MAX_OPEN_FILES = 64

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_EQ, _JUMP_GE, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_X32 = 0x40000000  # the second ABI of x86-64 numbers its calls from here

# Threads are clones that share memory. clone3 hides its flags behind a pointer: told it is missing, libc uses clone.
_ENOSYS, _CLONE3, _CLONE_VM = 0x00050026, 435, 0x100

# (audit architecture, refused calls, {call that opens a file: index of its flags}, clone)
_X86 = (
    0xC000003E,
    (41, 42, 43, 44, 49, 50, 53, 57, 58, 59, 62, 76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 92, 101, 133, 258, 259,
     263, 264, 265, 266, 268, 285, 310, 311, 316, 321, 322, 425, 426, 434, 437, 438),
    {2: 1, 257: 2},
    56,
)  # fmt: skip
_ARM = (
    0xC00000B7,
    (33, 34, 35, 36, 37, 38, 45, 46, 47, 53, 54, 117, 129, 198, 199, 200, 201, 202, 203, 206, 221, 270, 271, 276,
     280, 281, 425, 426, 434, 437, 438),
    {56: 2},
    220,
)  # fmt: skip
_MACHINES = {"x86_64": _X86, "aarch64": _ARM}


def confine(memory_bytes: int) -> None:
    """Confine this process. Raises `OSError` when the kernel refuses, so that no file is read unconfined."""
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        raise OSError(f"files cannot be parsed safely on {platform.system()} {platform.machine()}; use Linux")
    _install(_program(*_MACHINES[platform.machine()]))


def allow_cpu(seconds: float) -> None:
    """Let this process use `seconds` more of CPU time; the kernel kills it after that."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(
        resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime + seconds) + 1, resource.RLIM_INFINITY)
    )


def _program(architecture: int, refused: tuple[int, ...], opens: dict[int, int], clone: int) -> bytes:
    """The filter as BPF instructions, 8 bytes each: (code, jump if true, jump if false, operand)."""
    lines: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQ, 1, 0, architecture),
        (_RETURN, 0, 0, _EPERM),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_GE, 0, 1, _X32),
        (_RETURN, 0, 0, _EPERM),
    ]
    for number in refused:
        lines += [(_JUMP_EQ, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    for number, flags in opens.items():
        lines += [
            (_JUMP_EQ, 0, 5, number),
            (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * flags),
            (_AND, 0, 0, _WRITING),
            (_JUMP_EQ, 1, 0, 0),
            (_RETURN, 0, 0, _EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    lines += [
        (_JUMP_EQ, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ENOSYS),
        (_JUMP_EQ, 0, 4, clone),
        (_LOAD, 0, 0, _ARGUMENTS_AT),
        (_AND, 0, 0, _CLONE_VM),
        (_JUMP_EQ, 0, 1, 0),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _install(program: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, header, 0, 0)):
        if libc.prctl(*arguments) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"the kernel refuses to confine the parser: {os.strerror(code)}")
