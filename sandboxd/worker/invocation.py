"""One run of a core WebAssembly guest: a fresh store, an instance from what was linked before the fork, `_start`.

This is the hot path. Buffers for results of the C API are made once; everything that is equal for all invocations of a
binding was laid out when it was loaded.
"""

from __future__ import annotations

import ctypes
import sys
import time

import wasmtime

from hostfuncs import wasip1
from hostfuncs.abi import (
    Cancelled,
    DeadlineExceeded,
    GuestTrapped,
    HostTrap,
    InvocationState,
    OutputExceeded,
    ProcExit,
    capi,
)
from sandboxd.limit_keys import key_of, named, shown
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import GuestSpec, Invoke, OutboundUsage, Result
from sandboxd.worker import endings, linking, traps
from sandboxd.worker.guests import GuestError, Services

START = b"_start"
MEMORY = b"memory"
MEMORY_BYTES = "memory_bytes"
INSTANTIATING, RUNNING = range(2)

_RESULTS = 16
"""Results `_start` may have; they are ignored, as in wazero."""


class CoreGuest:
    """A core module of one binding. See `sandboxd.worker.guests.Guest`.

    Parameters:
        engine: from `sandboxd.worker.engine`.
        spec: the binding.

    Raises:
        GuestError: see `sandboxd.worker.guests.load`.
    """

    def __init__(self, engine: wasmtime.Engine, spec: GuestSpec) -> None:
        self.spec = spec
        try:
            module = wasmtime.Module.deserialize_file(engine, spec.artifact)
        except wasmtime.WasmtimeError as error:
            raise GuestError(f"the artifact does not load: {error}") from None
        begins_with = linking.check_memory(module)
        self._has_memory = begins_with is not None
        self._begins_with = begins_with or 0
        self._has_start = _check_start(module)
        self._state = InvocationState()
        self._program = wasip1.Program(
            self._state,
            stdout_limit=spec.limits.stdout_bytes,
            stderr_limit=spec.limits.stderr_bytes,
            sources=wasip1.StrictSources if spec.strict_sandbox else wasip1.SystemSources,
        )
        try:
            self._args = wasip1.Strings([spec.argv0])
            self._environ = wasip1.Strings([name + b"=" + value for name, value in spec.env])
        except ValueError as error:
            raise GuestError(f"the name or an env value of the binding {error}") from None
        self._extensions = linking.extensions_for(spec, module, self._program)
        self._pre = linking.link(engine, module, self._program, self._extensions)

    def __repr__(self) -> str:
        return f"<CoreGuest {self.spec.binding} {self._state!r}>"

    def prepare(self, services: Services) -> None:
        """See Guest."""
        self._watch = services.watch
        self._stack_bytes = services.stack_bytes
        self._engine_address = capi.address_of(services.engine)
        self._pre_address = capi.address_of(self._pre)
        self._instance = (ctypes.c_uint64 * (capi.INSTANCE_BYTES // 8))()
        self._instance_address = ctypes.addressof(self._instance)
        self._externs = (ctypes.c_uint64 * (2 * capi.EXTERN_BYTES // 8))()
        self._memory_extern = ctypes.addressof(self._externs)
        self._memory_handle = self._memory_extern + capi.EXTERN_ITEM_OFFSET
        self._start_extern = self._memory_extern + capi.EXTERN_BYTES
        self._start_handle = self._start_extern + capi.EXTERN_ITEM_OFFSET
        self._values = (ctypes.c_uint64 * (2 * _RESULTS))()
        self._values_address = ctypes.addressof(self._values)
        self._trap = (ctypes.c_uint64 * 1)()
        self._trap_address = ctypes.addressof(self._trap)
        for extension in self._extensions:
            extension.prepare(services)

    def run(self, invoke: Invoke) -> Result:
        """See Guest."""
        state, program, limits = self._state, self._program, self.spec.limits
        try:
            program.begin(
                self._args.extended(invoke.args) if invoke.args else self._args,
                self._environ.extended([name + b"=" + value for name, value in invoke.env])
                if invoke.env
                else self._environ,
                invoke.stdin,
            )
        except ValueError as invalid:
            return Result(id=invoke.id, outcome=Outcome.BAD_REQUEST, detail=f"args or env invalid: {invalid}")
        if self._begins_with > limits.memory_bytes:
            return Result(
                id=invoke.id,
                outcome=Outcome.MEMORY_EXCEEDED,
                detail=f"needs {shown(MEMORY_BYTES, self._begins_with)} of memory to begin with, more than "
                + named(MEMORY_BYTES, limits.memory_bytes),
                limit=key_of(MEMORY_BYTES),
            )
        began = time.monotonic_ns()
        if began >= invoke.deadline_ns:
            limit = key_of("timeout_ms")
            return Result(id=invoke.id, outcome=Outcome.DEADLINE_EXCEEDED, detail=endings.DEADLINE_TEXT, limit=limit)
        watch = self._watch
        state.begin(invoke.deadline_ns, watch.cancelled)
        for extension in self._extensions:
            extension.begin(invoke.deadline_ns)
        trap = self._trap
        trap[0] = 0
        # Armed before the store counts epochs: a tick in between would be lost if the thread did not tick again.
        watch.arm(invoke.id, state, invoke.deadline_ns)
        store = capi.store_new(self._engine_address, None, None)
        outbound: tuple[OutboundUsage, ...] = ()
        try:
            context = capi.store_context(store)
            capi.store_limiter(store, limits.memory_bytes, limits.table_elements, -1, -1, -1)
            capi.store_epoch_deadline_callback(store, watch.callback_address, None, None)
            capi.context_set_epoch_deadline(context, 1)
            instance = self._instance_address
            state.enter(context, 0)
            error = capi.instance_pre_instantiate(self._pre_address, context, instance, self._trap_address)
            instantiated = time.monotonic_ns()
            stage = INSTANTIATING
            if not error and not trap[0]:
                stage = RUNNING
                state.instance = instance
                if self._has_memory:
                    capi.instance_export_get(context, instance, MEMORY, len(MEMORY), self._memory_extern)
                    state.memory.attach(context, self._memory_handle)
                if self._has_start:
                    capi.instance_export_get(context, instance, START, len(START), self._start_extern)
                    error = capi.func_call_unchecked(
                        context, self._start_handle, self._values_address, _RESULTS, self._trap_address
                    )
            ended = time.monotonic_ns()
            memory = state.memory.size()
        finally:
            watch.disarm()
            state.finish()
            capi.store_delete(store)
            for extension in self._extensions:
                outbound += extension.finish()
        if state.interrupt is not None:
            raise state.interrupt
        stderr = program.stderr
        if not error and not trap[0]:
            outcome, exit_code, detail, limit = Outcome.COMPLETED, 0, "", ""
        else:
            outcome, exit_code, detail, limit = self._why(error, trap[0], stage, memory)
        return Result(
            id=invoke.id,
            outcome=outcome,
            stdout=bytes(program.stdout),
            exit_code=exit_code,
            detail=detail,
            stderr=stderr.value() if stderr.total else b"",
            stderr_total=stderr.total,
            instantiate_ns=instantiated - began,
            guest_ns=ended - instantiated,
            memory_bytes=memory,
            outbound=outbound,
            limit=limit,
            retire=outcome is Outcome.HOST_FAILED,
        )

    def _why(self, error: int | None, trap: int, stage: int, memory: int) -> tuple[Outcome, int, str, str]:
        """Outcome, exit code, text and limit's key of a run that the engine says has failed; frees what it said."""
        code: int | None = None
        text = ""
        if trap:
            code, text = capi.take_trap(trap)
        if error:
            text = capi.take_error(error)
        state = self._state
        if state.failure is not None:
            print(f"host function for {self.spec.binding} failed:\n{state.failure}", file=sys.stderr, flush=True)
            return Outcome.HOST_FAILED, 0, "internal error", ""
        match state.ended:
            case ProcExit(code=status):
                if status == 0:
                    return Outcome.COMPLETED, 0, "", ""
                detail = f"module closed with exit_code({status})"
                if self._starved(memory):
                    return Outcome.MEMORY_EXCEEDED, status, *self._memory_text(detail, memory)
                return Outcome.EXIT_NONZERO, status, detail, ""
            case Cancelled():
                return Outcome.CANCELLED, 0, "module closed with context canceled", ""
            case OutputExceeded() | DeadlineExceeded() | HostTrap() as ended:
                return endings.of(ended)
            case GuestTrapped(code=inner, message=message):
                code, text = inner, message
        if not trap and stage == INSTANTIATING:
            # Imports were resolved when the guest was linked, and the pool has room for one: only a limit is left.
            print(f"{self.spec.binding} cannot be instantiated: {text}", file=sys.stderr, flush=True)
            return endings.too_large("module", text, self.spec.limits)
        if code == traps.STACK_OVERFLOW:
            return endings.stack_overflow(self._stack_bytes)
        if code is None and traps.last_line(text).startswith(endings.NO_HEAP):
            return endings.heap_exhausted(self.spec.limits)
        detail = traps.describe(code, text)
        if self._starved(memory):
            return Outcome.MEMORY_EXCEEDED, 0, *self._memory_text(detail, memory)
        return Outcome.TRAPPED, 0, detail, ""

    def _starved(self, memory: int) -> bool:
        """Whether a guest that failed was most likely refused memory.

        WebAssembly tells the guest alone that `memory.grow` was refused; the engine's limiter has no way to report it.
        What can be seen is that the memory has grown, and to where too little is left for another step: allocators
        grow by a fraction of what they have, or by one request.
        """
        limit = self.spec.limits.memory_bytes
        return memory > self._begins_with and limit - memory <= limit // 4

    def _memory_text(self, detail: str, memory: int) -> tuple[str, str]:
        limit = named(MEMORY_BYTES, self.spec.limits.memory_bytes)
        return f"{detail}; {shown(MEMORY_BYTES, memory)} of memory were in use of {limit}", key_of(MEMORY_BYTES)


def _check_start(module: wasmtime.Module) -> bool:
    """Whether there is a `_start` to call; without one the run is over once instantiated, as in wazero.

    Raises:
        GuestError: it is something that cannot be called without arguments.
    """
    for export in module.exports:
        if export.name == START.decode():
            kind = export.type
            if not isinstance(kind, wasmtime.FuncType) or len(kind.params) or len(kind.results) > _RESULTS:
                raise GuestError('the export "_start" is not a function without parameters')
            return True
    return False
