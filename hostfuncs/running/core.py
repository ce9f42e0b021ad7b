"""Run core WebAssembly modules: instantiate the module, whose imports are resolved already, and call `_start`.

This is the server's hot path. The buffers for results of the C API are made once. All that is the same in each run of a
guest is laid out when the guest is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING

import wasmtime

from hostfuncs import wasip1
from hostfuncs.abi import GuestEnded, GuestTrapped, ProcExit, capi
from hostfuncs.limits import EngineSettings, Limits
from hostfuncs.outcome import Outcome
from hostfuncs.running import core_imports, core_parking
from hostfuncs.running.endings import COMPLETED, PLAIN_NAMES, Ending, LimitNames
from hostfuncs.running.errors import GuestError
from hostfuncs.running.parking import Gate, ParkPoint, Wait
from hostfuncs.running.runner import GuestRunner

if TYPE_CHECKING:
    from hostfuncs.files import FileSettings
    from hostfuncs.native import Failure, NativeRun
    from hostfuncs.outbound import UsageRecord
    from hostfuncs.running.core_http import CoreHttp
    from hostfuncs.running.deadline import DeadlineThread
    from hostfuncs.running.egress import Egress

_START = core_imports.START.encode()
_MEMORY = b"memory"
_RESULTS = core_imports.RESULTS


class CoreRunner(GuestRunner):
    """A core module. See GuestRunner.

    Parameters:
        engine: from `hostfuncs.running.engine`.
        module: the module, compiled for this engine.
        limits: the limits of each run.
        argv0: the program's name.
        env: the variables of each run.
        strict: whether there is no HTTP, and clocks and randomness are useless for timing attacks.
        files: the folders that the guest finds; None for none.
        settings, names: see GuestRunner.

    Attributes:
        program: the state of preview 1's functions.
        stdout: the output of the last run, until the next `begin`.
        stderr: the end of its standard error, as long as the limits allow.
        stderr_total: the number of bytes that it wrote to standard error.

    Raises:
        GuestError: the module imports something that this host does not have, its `memory` or `_start` cannot be used,
            or a NUL character is in `argv0` or `env`.
    """

    __slots__ = (
        "_args",
        "_begins_with",
        "_egress",
        "_environ",
        "_error",
        "_externs",
        "_gate",
        "_has_memory",
        "_has_start",
        "_http",
        "_initialize",
        "_input",
        "_instance",
        "_instance_address",
        "_instantiated",
        "_memory_extern",
        "_memory_handle",
        "_native",
        "_place",
        "_pre",
        "_pre_address",
        "_start_extern",
        "_start_handle",
        "_start_name",
        "_trap",
        "_trap_address",
        "_values",
        "_values_address",
        "program",
        "stderr",
        "stderr_total",
        "stdout",
    )

    def __init__(
        self,
        engine: wasmtime.Engine,
        module: wasmtime.Module,
        limits: Limits,
        *,
        argv0: bytes = b"",
        env: Sequence[tuple[bytes, bytes]] = (),
        strict: bool = False,
        files: FileSettings | None = None,
        settings: EngineSettings,
        names: LimitNames = PLAIN_NAMES,
        initialize: str = "",
    ) -> None:
        # WASI preview 1 uses one memory. wasmtime would apply the memory limit to each of several memories separately.
        super().__init__(engine, limits, instances=1, memories=1, settings=settings, names=names)
        begins_with = core_imports.check_memory(module)
        self._has_memory = begins_with is not None
        self._begins_with = begins_with or 0
        self._has_start = core_imports.has_start(module)
        self._initialize, self._start_name = b"", _START
        if initialize:
            core_imports.check_initialize(module, initialize)
            self._initialize = initialize.encode()
            if initialize == core_imports.WIZER_INITIALIZE and core_imports.has_start(
                module, core_imports.WIZER_RESUME
            ):
                self._has_start, self._start_name = True, core_imports.WIZER_RESUME.encode()
        self._gate: Gate | None = None
        if self._begins_with > limits.memory_bytes:
            self._refused = self._sentences.begins_too_large(self._begins_with)
        self.program = wasip1.Program(
            self.state,
            stdout_limit=limits.stdout_bytes,
            stderr_limit=limits.stderr_bytes,
            sources=wasip1.StrictSources if strict else wasip1.SystemSources,
            new_files=partial(files.open, limits, strict=strict) if files else None,
        )
        try:
            self._args = wasip1.Strings([argv0])
            self._environ = wasip1.Strings([name + b"=" + value for name, value in env])
        except ValueError as error:
            raise GuestError(f"the guest's name or an env value {error}") from None
        self._http: CoreHttp | None = core_imports.http_for(module, self.program, limits)
        self._holds_something = self._http is not None or bool(files)
        self._native: NativeRun | None = None
        if settings.native_functions and self._has_memory and not self._holds_something and not initialize:
            self._native = core_imports.native_for(self.program, limits)
        self._pre = core_imports.link(engine, module, self.program, self._http, self._native)

    def __repr__(self) -> str:
        return f"<CoreRunner {self.state!r}>"

    @property
    def imports_http(self) -> bool:
        """See GuestRunner."""
        return self._http is not None

    @property
    def runs(self) -> bool:
        """Whether the module has `_start`. Without it, a run ends once the module is instantiated."""
        return self._has_start

    def refusal(self) -> Ending | None:
        """Return the ending that every run has because the limits allow no instance; None if they allow one.

        Call it before `prepare`, or in its place. No code of the guest runs: the store's epoch deadline has passed
        already, so a start function traps before its first instruction.
        """
        if self._refused is not None:
            return self._refused
        text = core_imports.refused_instance(self._engine_address, self._pre, self._ceilings)
        return None if text is None else self._sentences.too_large("module", text)

    def prepare(self, deadlines: DeadlineThread, egress: Egress | None) -> None:
        """See GuestRunner."""
        self._deadlines = deadlines
        self._egress = egress
        if self._http is not None:
            assert egress is not None
            self._http.prepare(egress)
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
        self._error: int | None = None
        self._place = b""
        if self._native is not None:
            self._native.prepare(
                self._engine_address,
                self._pre_address,
                deadlines.callback_address,
                self._ceilings,
                has_start=self._has_start,
            )

    def begin(self, args: Sequence[bytes], env: Sequence[tuple[bytes, bytes]], stdin: bytes | memoryview) -> None:
        """Set up the next run.

        Parameters:
            args: argv after the program's name.
            env: variables that follow those of every run.
            stdin: all of standard input.

        Raises:
            ValueError: an argument or a variable contains a NUL character.
        """
        self._begin(args, env, stdin)
        # Native functions keep what the guest writes to the end of the run.
        if self._native is not None and self.program.echo is None:
            self._input = stdin if isinstance(stdin, bytes) else bytes(stdin)
            self.program.recall = self._recall

    def _begin(self, args: Sequence[bytes], env: Sequence[tuple[bytes, bytes]], stdin: bytes | memoryview) -> None:
        self.stdout = self.stderr = b""
        self.stderr_total = 0
        self._gate = None
        self.program.begin(
            self._args.extended(args) if args else self._args,
            # A comprehension would make a function for each run.
            self._environ.extended(map(b"=".join, env)) if env else self._environ,
            stdin,
        )

    def _recall(self) -> None:
        """Let the functions in Python answer for the rest of a run that the functions in C have begun."""
        assert self._native is not None
        so_far = self._native.hand_over()
        program = self.program
        program.recall = None
        program.stdin_at = so_far.stdin_at
        program.stdout += so_far.stdout
        program.stderr.append(so_far.stderr, so_far.stderr_total - len(so_far.stderr))

    def begin_parking(self, args: Sequence[bytes], env: Sequence[tuple[bytes, bytes]], wait: Wait) -> None:
        """Set up a run that is parked when it first needs its input. See `hostfuncs.running.parking`.

        Parameters:
            args, env: see `begin`.
            wait: called when the guest is parked.

        Raises:
            ValueError: an argument or a variable contains a NUL character.
        """
        self._begin(args, env, b"")
        gate = self._gate = core_parking.gate_for(self.program, wait, environ=self._environ, resume=self._resume)
        if self._http is not None:
            assert self._egress is not None
            from hostfuncs.running.egress import awaiting

            self._http.prepare(awaiting(self._egress, gate, self.state))

    def _in_store(self) -> Ending | None:
        """See GuestRunner."""
        program = self.program
        ending = super()._in_store() if program.recall is None else self._in_native_store()
        if program.recall is None:
            self.stdout = bytes(program.stdout)
            self.stderr = program.stderr.value()
            self.stderr_total = program.stderr.total
        else:
            assert self._native is not None
            program.recall = None
            self.stdout, self.stderr, self.stderr_total = self._native.take_output()
        return ending

    def _in_native_store(self) -> Ending | None:
        """Make, use and delete a store in one call, as `_in_store` and `_enter` do."""
        native, program, state = self._native, self.program, self.state
        assert native is not None
        ending: Ending | None = COMPLETED
        left = True
        try:
            well = native.enter(program.args.block, program.environ.block, self._input)
            self._ended_ns = monotonic_ns()
            self._instantiated_ns = native.instantiated_ns
            self.memory_bytes = native.memory_bytes
            if not well:
                failure = native.failure()
                ending = self._native_failure(failure)
            left = not (well or failure.stands)
        finally:
            state.finish()
            if left:
                native.delete()
        return ending

    def _native_failure(self, failure: Failure) -> Ending | None:
        """Take over how a native run failed. Return its ending if it is known without wasmtime's text."""
        state = self.state
        self._instantiated = failure.stands
        self._trap[0], self._error = failure.trap, failure.error
        if not failure.stands:
            self.memory_bytes = state.memory.size()
        if state.ended is not None or state.failure is not None:
            return None
        if failure.exited is not None:
            if failure.trap or failure.error:
                state.ended = ProcExit(failure.exited)
                return None
            ending = self._sentences.exited(failure.exited)
            return self._with_cause(ending) if failure.exited else ending
        self._place = failure.place
        known = self._sentences.known_trap(failure.place) if failure.place else None
        if known is None:
            return None
        capi.trap_delete(failure.trap)
        return known if known.limit else self._with_cause(known)

    def _enter(self, context: int) -> Ending | None:
        trap = self._trap
        trap[0] = 0
        if self._http is not None:
            self._http.begin()
        state, instance = self.state, self._instance_address
        self._error = capi.instance_pre_instantiate(self._pre_address, context, instance, self._trap_address)
        self._instantiated_ns = monotonic_ns()
        self._instantiated = not self._error and not trap[0]
        if not self._instantiated:
            return None
        state.instance = instance
        if self._has_memory:
            capi.instance_export_get(context, instance, _MEMORY, len(_MEMORY), self._memory_extern)
            state.memory.attach(context, self._memory_handle)
        if self._initialize and not self._call_initialize(context):
            return None
        if self._has_start:
            name = self._start_name
            capi.instance_export_get(context, instance, name, len(name), self._start_extern)
            self._error = capi.func_call_unchecked(
                context, self._start_handle, self._values_address, _RESULTS, self._trap_address
            )
            if self._error or trap[0]:
                return None
        if self._has_memory:
            self.memory_bytes = capi.memory_data_size(context, self._memory_handle)
        return COMPLETED

    def _call_initialize(self, context: int) -> bool:
        """Call the function that comes before `_start`, and park the run after it. Return False if the run is over."""
        name = self._initialize
        capi.instance_export_get(context, self._instance_address, name, len(name), self._start_extern)
        self._error = capi.func_call_unchecked(
            context, self._start_handle, self._values_address, _RESULTS, self._trap_address
        )
        if self._error or self._trap[0]:
            return False
        if self._gate is not None:
            try:
                self._gate.arrive(ParkPoint.READY)
            except GuestEnded as ended:
                self.state.note(ended)
                return False
        return True

    def _release(self) -> Sequence[UsageRecord]:
        files = self.program.files
        self._file_limit = None if files is None else files.quota.reached
        if files is not None:
            self.program.end()
        return () if self._http is None else self._http.finish()

    def _failed(self) -> Ending:
        trap = self._trap[0]
        place, self._place = self._place, b""
        code: int | None = None
        text = ""
        if trap and isinstance(self.state.ended, ProcExit):
            # The trap's text would have the place of the exit, which is not used, and would take microseconds.
            capi.trap_delete(trap)
        elif trap:
            code, text = capi.take_trap(trap)
        if self._error:
            text = capi.take_error(self._error)
        sentences = self._sentences
        ending = sentences.host(self.state, text)
        if ending is None:
            if isinstance(self.state.ended, GuestTrapped):
                code, text = self.state.ended.code, self.state.ended.message
            elif not trap and not self._instantiated:
                return sentences.too_large("module", text)
            ending = sentences.trapped(code, text, place)
            failed_by_itself = ending.outcome is Outcome.TRAPPED and not ending.limit
        else:
            failed_by_itself = ending.outcome is Outcome.EXIT_NONZERO
        return self._with_cause(ending) if failed_by_itself else ending

    def _with_cause(self, ending: Ending) -> Ending:
        """Return the ending of a guest that failed by itself, with the limit that most likely made it fail."""
        if self._file_limit is not None:
            return self._sentences.refused_file(ending, self._file_limit)
        if self._was_refused_memory():
            return self._sentences.refused_memory(ending, self.memory_bytes)
        return ending

    def _was_refused_memory(self) -> bool:
        """Return whether a guest that failed was most likely refused memory.

        WebAssembly reports a refused `memory.grow` only to the guest, and wasmtime's limiter cannot report it. The host
        can see that the memory has grown, and that the rest is too small for another step: allocators grow by a
        fraction of their size, or by one request.
        """
        limit = self.limits.memory_bytes
        return self.memory_bytes > self._begins_with and limit - self.memory_bytes <= limit // 4
