"""One linked guest as the C code sees it."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hostfuncs.abi import capi
from hostfuncs.limits import Limits
from hostfuncs.native.library import Function, Library, Record

_TIME_AND_MEMORY: Final = struct.Struct("<2Q")
"""`instantiated_ns` and `memory_bytes` of the record."""
_OUTPUT: Final = struct.Struct("<4Q")
"""`out` and `stderr_total`, which follow."""
_KEPT_ROOM: Final = 1 << 16
"""Larger buffers are given back after the run. As in preview1.c."""


_FAILURE: Final = struct.Struct("<7Q")
"""`stands` to `trap`, and the first field of `place`, which follows."""
_FAILURE_AT: Final = Record.stands.offset - Record.instantiated_ns.offset
_PLACE_AT: Final = _FAILURE_AT + _FAILURE.size


class Failure(NamedTuple):
    """How a run failed."""

    stands: bool
    """Whether it had an instance."""
    exited: int | None
    """The guest's exit status if it ended itself."""
    trap: int
    """The address of its trap; 0 for none. The caller owns it, and the error."""
    error: int
    """The address of its error; 0 for none."""
    place: bytes
    """Where and why the guest trapped, for comparison: traps of one guest that have the same have the same text. Empty
    if it is not known."""


class HandedOver(NamedTuple):
    """What a guest has done so far."""

    stdin_at: int
    stdout: bytes
    stderr: bytes
    """The end that is kept."""
    stderr_total: int


class NativeRun:
    """The record of one linked guest, used again for each of its runs, one at a time.

    Parameters:
        library: from `find`.
        limits: of each run.
        resolutions: of the realtime and the monotonic clock, in nanoseconds.
        rights: of stdin, and of stdout and stderr.
        system_sources: clocks and random bytes are the machine's. Otherwise they are asked of the reference.

    Attributes:
        instantiated_ns: CLOCK_MONOTONIC instant at which the last run had its instance.
        memory_bytes: size of the guest's memory at the end of the last run, if it had an instance with one.
    """

    __slots__ = (
        "_address",
        "_after",
        "_fronts",
        "_library",
        "_record",
        "instantiated_ns",
        "memory_bytes",
    )

    def __init__(
        self,
        library: Library,
        limits: Limits,
        *,
        resolutions: tuple[int, int],
        rights: tuple[int, int],
        system_sources: bool,
    ) -> None:
        self._library = library
        self._record = record = Record()
        for name, address in library.wasmtime.items():
            setattr(record, name, address)
        record.stdout_limit, record.stderr_limit = limits.stdout_bytes, limits.stderr_bytes
        record.realtime_resolution, record.monotonic_resolution = resolutions
        record.rights_stdin, record.rights_output = rights
        record.system_sources = system_sources
        self._address = ctypes.addressof(record)
        self._after = memoryview(record).cast("B")[Record.instantiated_ns.offset :]
        self._fronts: list[Function] = []
        self.instantiated_ns = 0
        self.memory_bytes = 0

    def __repr__(self) -> str:
        return f"<NativeRun active={bool(self._record.active)}>"

    def front(self, name: str) -> Callable[[Any], tuple[Any, int]] | None:
        """Return what puts a native function before its reference, for `hostfuncs.abi.define`; None if there is none.

        Parameters:
            name: of the function.
        """
        address = self._library.functions.get(name)
        if address is None:
            return None

        def before(reference: Any) -> tuple[Any, int]:
            function = Function(self._address, capi.callback_address(reference))
            self._fronts.append(function)
            return capi.HostCallback(address), ctypes.addressof(function)

        return before

    def prepare(
        self, engine: int, pre: int, epoch_callback: int, ceilings: tuple[int, int, int, int, int], *, has_start: bool
    ) -> None:
        """Say what is run. All addresses must outlive this object.

        Parameters:
            engine, pre, epoch_callback: addresses.
            ceilings: for `wasmtime_store_limiter`.
            has_start: whether the module has `_start`.
        """
        record = self._record
        record.engine, record.pre, record.epoch_callback, record.has_start = engine, pre, epoch_callback, has_start
        (
            record.memory_limit,
            record.elements_limit,
            record.instances_limit,
            record.tables_limit,
            record.memories_limit,
        ) = ceilings

    def enter(self, args: bytes, environ: bytes, stdin: bytes) -> bool:
        """Run the guest.

        Parameters:
            args, environ: zero-terminated strings, one after the other. They and `stdin` must outlive the run.

        Returns:
            Whether it returned, or exited with 0, and had an instance. Otherwise `failure` says more. The store of a
            run that had no instance is left, and `delete` must follow.
        """
        well: int = self._library.run(self._address, args, len(args), environ, len(environ), stdin, len(stdin))
        self.instantiated_ns, self.memory_bytes = _TIME_AND_MEMORY.unpack_from(self._after)
        return well != 0

    def delete(self) -> None:
        """Delete the store of the run, if it has one."""
        self._library.delete(self._address)

    def failure(self) -> Failure:
        """Return how the last run failed."""
        stands, exited, exit_code, _, error, trap, place_bytes = _FAILURE.unpack_from(self._after, _FAILURE_AT)
        place = bytes(self._after[_PLACE_AT : _PLACE_AT + place_bytes]) if place_bytes else b""
        return Failure(bool(stands), exit_code if exited else None, trap, error, place)

    def take_output(self) -> tuple[bytes, bytes, int]:
        """Return stdout, the end that is kept of stderr, and how much it was, after a run without `hand_over`."""
        stdout_at, stdout_bytes, stdout_room, stderr_total = _OUTPUT.unpack_from(self._after, _TIME_AND_MEMORY.size)
        stdout = ctypes.string_at(stdout_at, stdout_bytes) if stdout_bytes else b""
        stderr = self._kept_end() if stderr_total else b""
        if stdout_room > _KEPT_ROOM or (stderr_total and self._record.err.room > _KEPT_ROOM):
            self._library.trim(self._address)
        return stdout, stderr, stderr_total

    def _kept_end(self) -> bytes:
        kept = self._record.err
        size = min(kept.used, self._record.stderr_limit)
        return ctypes.string_at(kept.bytes + kept.used - size, size) if size else b""

    def hand_over(self) -> HandedOver:
        """Have the reference answer from now on, until the end of the run."""
        record = self._record
        record.active = 0
        return HandedOver(
            stdin_at=record.stdin_at,
            stdout=ctypes.string_at(record.out.bytes, record.out.used) if record.out.used else b"",
            stderr=self._kept_end(),
            stderr_total=record.stderr_total,
        )
