"""Assembles seccomp filters: a table of rules for system calls becomes a classic BPF program.

Source: seccomp(2); Linux, Documentation/userspace-api/seccomp_filter.rst and include/uapi/linux/bpf_common.h.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sandboxd.wall.syscalls import AUDIT_ARCH_X86_64, Machine

Instruction = tuple[int, int, int, int]
"""`struct sock_filter`: code, offset if true, offset if false, constant."""

ALLOW: Final = 0x7FFF0000
"""SECCOMP_RET_ALLOW: the call is made."""
KILL: Final = 0x80000000
"""SECCOMP_RET_KILL_PROCESS: the process ends with SIGSYS."""

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_NUMBER_AT: Final = 0
_ARCH_AT: Final = 4
_ARGUMENTS_AT: Final = 16
_X32_BIT: Final = 0x40000000
"""The bit of system calls of the x32 ABI. No process of the server makes any."""
_MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS."""


def refuse(number: int) -> int:
    """Return the action that fails a call with an errno (SECCOMP_RET_ERRNO).

    Parameters:
        number: the errno, 1 to 4095.
    """
    return 0x00050000 | number


@dataclass(frozen=True, slots=True)
class Check:
    """One condition on an argument: `argument & mask == value`.

    Parameters:
        argument: the argument's position, 0 to 5.
        value: 64 bits.
        mask: 64 bits. The default compares the low half, which is all of an `int`.
    """

    argument: int
    value: int
    mask: int = 0xFFFFFFFF


WHOLE: Final = 0xFFFFFFFFFFFFFFFF
"""The mask that compares all 64 bits of a pointer or a `long`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The answer to one system call.

    Parameters:
        name: the call's name in `sandboxd.wall.syscalls`. A machine without the call needs no rule.
        action: the answer if one of the alternatives holds, or if there are none.
        alternatives: each is a conjunction of checks.
        otherwise: the answer if none of the alternatives holds.
    """

    name: str
    action: int = ALLOW
    alternatives: tuple[tuple[Check, ...], ...] = ()
    otherwise: int = KILL


def assemble(machine: Machine, rules: Iterable[Rule], default: int) -> bytes:
    """Return the filter as an array of `struct sock_filter`.

    Parameters:
        machine: the machine for which the filter is. A call of another architecture ends the process.
        rules: at most one for each call.
        default: the action for a call without a rule.

    Raises:
        ValueError: two rules name the same call, or the program is too long for the kernel.
    """
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, machine.audit_arch),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine.audit_arch == AUDIT_ARCH_X86_64:
        program += [(_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, KILL)]
    seen: set[str] = set()
    for rule in rules:
        if rule.name in seen:
            raise ValueError(f"two rules for {rule.name}")
        seen.add(rule.name)
        if rule.name in machine.numbers:
            block = _block(rule)
            program.append((_EQUAL, 0, len(block), machine.numbers[rule.name]))
            program += block
    program.append((_RETURN, 0, 0, default))
    if len(program) > _MAX_INSTRUCTIONS:
        raise ValueError(f"{len(program)} instructions, more than {_MAX_INSTRUCTIONS}")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _block(rule: Rule) -> list[Instruction]:
    """Return the part that answers one call. It always returns, so it may overwrite the loaded number."""
    block: list[Instruction] = []
    for alternative in rule.alternatives:
        block += _conjunction(alternative, rule.action)
    block.append((_RETURN, 0, 0, rule.otherwise if rule.alternatives else rule.action))
    return block


def _conjunction(checks: Sequence[Check], action: int) -> list[Instruction]:
    halves: list[tuple[int, int, int]] = []
    for check in checks:
        at = _ARGUMENTS_AT + 8 * check.argument
        for offset, shift in ((at, 0), (at + 4, 32)):  # both machines are little-endian
            mask = check.mask >> shift & 0xFFFFFFFF
            if mask:
                halves.append((offset, mask, check.value >> shift & 0xFFFFFFFF))
    parts = [
        [(_LOAD, 0, 0, offset), *([(_AND, 0, 0, mask)] if mask != 0xFFFFFFFF else []), (_EQUAL, 0, 0, value)]
        for offset, mask, value in halves
    ]
    code: list[Instruction] = [instruction for part in parts for instruction in part]
    code.append((_RETURN, 0, 0, action))
    # A comparison that fails jumps behind the last instruction of the conjunction.
    return [
        (kind, 0, len(code) - place - 1, constant) if kind == _EQUAL else (kind, yes, no, constant)
        for place, (kind, yes, no, constant) in enumerate(code)
    ]
