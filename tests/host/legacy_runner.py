"""Runs core guests that import Dapr's wasi-http, with nothing of the server: hostfuncs and an engine."""

import ctypes
import time
from dataclasses import dataclass, field
from pathlib import Path

import wasmtime

from hostfuncs import legacy_http, wasip1
from hostfuncs.abi import GuestEnded, InvocationState, capi
from hostfuncs.outbound import Outbound, OutboundLimits, Policy, UsageRecord


@dataclass
class Ran:
    """How a run ended."""

    stdout: bytes
    ended: GuestEnded | None
    """Why the host ended the guest."""
    failure: str | None
    """A fault of the host. Always a bug."""
    trap: str
    """The engine's own text, if it trapped."""
    usage: list[UsageRecord]
    log: list[bytes]

    @property
    def message(self) -> str:
        """What the host said when it ended the guest; "" if it did not."""
        return str(self.ended) if self.ended is not None else ""


@dataclass
class Runner:
    """One engine and one guest, run as often as wanted; the connections stay."""

    guest: Path | str
    """A file, or text of a module."""
    outbound: Outbound = field(default_factory=Outbound)
    policy: Policy = field(default_factory=lambda: Policy.parse(["*://127.0.0.1:*", "*://localhost:*"]))
    limits: OutboundLimits = field(default_factory=OutboundLimits)
    entries: int = 4096

    def __post_init__(self) -> None:
        self.engine = wasmtime.Engine()
        self.log: list[bytes] = []
        if isinstance(self.guest, str):
            self.module = wasmtime.Module(self.engine, wasmtime.wat2wasm(self.guest))
        else:
            self.module = wasmtime.Module.from_file(self.engine, str(self.guest))
        self.state = InvocationState()
        self.program = wasip1.Program(self.state, stdout_limit=1 << 24, stderr_limit=1 << 16)
        self.calls = legacy_http.Calls(
            self.state,
            realloc_usable=legacy_http.realloc_usable(self.module),
            entries=self.entries,
            log=self.log.append,
        )
        linker = wasmtime.Linker(self.engine)
        wasip1.link(linker, self.program)
        legacy_http.link(linker, self.calls)
        self.pre = linker.instantiate_pre(self.module)

    def run(self, *args: str, stdin: bytes = b"", timeout_s: float = 20) -> Ran:
        """Run the guest's `_start` once."""
        deadline = time.monotonic_ns() + int(timeout_s * 1e9)
        state = self.state
        self.log.clear()
        self.program.begin(wasip1.Strings([b"guest", *(a.encode() for a in args)]), wasip1.Strings(), stdin)
        state.begin(deadline)
        self.calls.begin(lambda: self.outbound.begin(self.policy, self.limits, deadline, state.check))
        instance = (ctypes.c_uint64 * (capi.INSTANCE_BYTES // 8))()
        externs = (ctypes.c_uint64 * (2 * capi.EXTERN_BYTES // 8))()
        values = (ctypes.c_uint64 * 4)()
        trap = (ctypes.c_uint64 * 1)()
        memory = ctypes.addressof(externs)
        start = memory + capi.EXTERN_BYTES
        text = ""
        store = capi.store_new(capi.address_of(self.engine), None, None)
        try:
            context = capi.store_context(store)
            where = ctypes.addressof(instance)
            state.enter(context, where)
            error = capi.instance_pre_instantiate(capi.address_of(self.pre), context, where, ctypes.addressof(trap))
            if not error and not trap[0]:
                if capi.instance_export_get(context, where, b"memory", 6, memory):
                    state.memory.attach(context, memory + capi.EXTERN_ITEM_OFFSET)
                assert capi.instance_export_get(context, where, b"_start", 6, start)
                error = capi.func_call_unchecked(
                    context, start + capi.EXTERN_ITEM_OFFSET, ctypes.addressof(values), 1, ctypes.addressof(trap)
                )
            if trap[0]:
                text = capi.take_trap(trap[0])[1]
            if error:
                text = capi.take_error(error)
        finally:
            state.finish()
            capi.store_delete(store)
            usage = self.calls.finish()
        ended = state.ended
        if isinstance(ended, wasip1.proc.ProcExit) and ended.code == 0:
            ended, text = None, ""
        return Ran(bytes(self.program.stdout), ended, state.failure, text, usage, list(self.log))
