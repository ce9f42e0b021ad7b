"""Tells the kernel which sockets of a SO_REUSEPORT group receive new connections.

By default the kernel hashes each connection to one of the group's sockets, even if nobody accepts there. A program of a
dozen classic BPF instructions, which any user may attach, instead chooses at random among the sockets of the cells that
are ready. It decides only about *new* connections: one that is already in a socket's queue stays there.

Source: socket(7), SO_ATTACH_REUSEPORT_CBPF (Linux 4.5): the program returns the index of a socket in the group, in the
order in which they began to listen; an index out of range falls back to the hash. Linux, linux/filter.h: SKF_AD_RANDOM.
"""

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_MODULO: Final = 0x94  # BPF_ALU | BPF_MOD | BPF_K
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_RANDOM: Final = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_NO_CHOICE: Final = 0xFFFFFFFF

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, operand: struct sock_filter."""


def program(targets: Sequence[int]) -> list[Instruction]:
    """Return a program that chooses one of these indexes at random.

    Parameters:
        targets: 1 to 2000 indexes; the kernel accepts at most 4096 instructions.
    """
    out: list[Instruction] = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(targets))]
    for position, index in enumerate(targets):
        out += [(_JUMP_IF_EQUAL, 0, 1, position), (_RETURN, 0, 0, index)]
    out.append((_RETURN, 0, 0, _NO_CHOICE))
    return out


def assign(member: socket.socket, targets: Sequence[int]) -> None:
    """Assign a group's new connections to some of its sockets.

    Parameters:
        member: any socket of the group.
        targets: the indexes of these sockets, as for `program`.

    Raises:
        OSError: the kernel refuses the program.
    """
    instructions = program(targets)
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count and a pointer to memory, which must stay valid until the call returns.
    member.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(instructions), ctypes.addressof(buffer))
    )
