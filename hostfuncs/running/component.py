"""Run components: `wasi:cli/run` as a command, or `wasi:http/incoming-handler` with a request."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol

import wasmtime
from wasmtime import component as wc

from hostfuncs import wasip1
from hostfuncs.abi import capi
from hostfuncs.limits import EngineSettings, Limits
from hostfuncs.outbound import Exchanges, UsageRecord
from hostfuncs.outcome import Outcome
from hostfuncs.running.component_load import find_entry_points, imports_http, link_component
from hostfuncs.running.endings import PLAIN_NAMES, Ending, LimitNames
from hostfuncs.running.engine import CORE_INSTANCES
from hostfuncs.running.errors import GuestError
from hostfuncs.running.parking import AwaitedSource, Gate, Input, Wait
from hostfuncs.running.runner import GuestRunner
from hostfuncs.wasip2 import Call, Host, IncomingRequest, InputPump, Request, Responder, ResponseOutparam, Sink, Stdio
from hostfuncs.wasip2 import capi as component_capi
from hostfuncs.wasip2.lower import Arguments, lowerer
from hostfuncs.wasip2.types import Own

if TYPE_CHECKING:
    from hostfuncs.files import FileSettings
    from hostfuncs.running.deadline import DeadlineThread
    from hostfuncs.running.egress import Egress


class ConcludingResponder(Responder, Protocol):
    """A responder that determines how a run ended after the guest's handler has returned."""

    def conclude(self) -> Ending:
        """See `hostfuncs.running.response.ResponseRecorder`."""
        ...


class ComponentRunner(GuestRunner):
    """A component. See GuestRunner.

    Parameters:
        engine: from `hostfuncs.running.engine`.
        component: the component, compiled for this engine.
        limits: the limits of each run.
        argv0: the program's name.
        env: the variables of each run.
        strict: whether there is no HTTP, and clocks and randomness are useless for timing attacks.
        files: the folders that the guest finds; None for none.
        settings, names: see GuestRunner.

    Raises:
        GuestError: the component imports what this host does not have, or exports neither entry point.
    """

    __slots__ = (
        "_argv0",
        "_egress",
        "_entry_points",
        "_env",
        "_error",
        "_exchanges",
        "_function",
        "_host",
        "_imports_http",
        "_in_guest",
        "_instance",
        "_linked",
        "_lower_outparam",
        "_lower_request",
        "_new_sources",
        "_request",
        "_responder",
        "_results",
    )

    def __init__(
        self,
        engine: wasmtime.Engine,
        component: wc.Component,
        limits: Limits,
        *,
        argv0: bytes = b"",
        env: Sequence[tuple[bytes, bytes]] = (),
        strict: bool = False,
        files: FileSettings | None = None,
        settings: EngineSettings,
        names: LimitNames = PLAIN_NAMES,
    ) -> None:
        super().__init__(
            engine, limits, instances=CORE_INSTANCES, memories=settings.max_memories, settings=settings, names=names
        )
        self._argv0 = argv0
        self._env = tuple(env)
        try:
            _check_strings((argv0,), self._env)
        except ValueError as error:
            raise GuestError(f"the guest's name or an env value {error}") from None
        self._host = Host(
            self.state,
            entries=limits.host_entries,
            memory_bytes=limits.host_memory_bytes,
            new_files=partial(files.open, limits, strict=strict) if files else None,
        )
        self._entry_points = find_entry_points(engine, component)
        self._imports_http = imports_http(engine, component)
        self._linked = link_component(engine, component, self._host, strict=strict)
        self._new_sources = wasip1.StrictSources if strict else wasip1.SystemSources
        self._lower_request = lowerer(Own(IncomingRequest))
        self._lower_outparam = lowerer(Own(ResponseOutparam))
        self._exchanges: Exchanges | None = None

    def __repr__(self) -> str:
        return f"<ComponentRunner {self.state!r}>"

    @property
    def imports_http(self) -> bool:
        """Whether the component imports outbound HTTP. See GuestRunner."""
        return self._imports_http

    @property
    def is_command(self) -> bool:
        """Whether the component exports `wasi:cli/run`."""
        return self._entry_points.run is not None

    @property
    def is_handler(self) -> bool:
        """Whether the component exports `wasi:http/incoming-handler`."""
        return self._entry_points.handle is not None

    def prepare(self, deadlines: DeadlineThread, egress: Egress | None) -> None:
        """See GuestRunner."""
        self._deadlines = deadlines
        self._egress = egress
        self._instance = ctypes.create_string_buffer(component_capi.INSTANCE_SIZE)
        self._function = ctypes.create_string_buffer(component_capi.FUNC_SIZE)
        self._results = ctypes.create_string_buffer(component_capi.VAL_SIZE)
        self._error: int | None = None

    def begin(
        self,
        args: Sequence[bytes],
        env: Sequence[tuple[bytes, bytes]],
        stdio: Stdio,
        *,
        request: Request | None = None,
        responder: ConcludingResponder | None = None,
        input_pump: InputPump | None = None,
    ) -> None:
        """Set up the next run: as a command, or, with a request, as a handler.

        Parameters:
            args: argv after the program's name.
            env: variables that follow those of every run.
            stdio: the standard streams.
            request: the request that the handler is called with.
            responder: receives the handler's response; given together with `request`.
            input_pump: brings the bytes that `stdio` or the request's body do not hold yet.

        Raises:
            ValueError: an argument or a variable contains a NUL character, or the component has no such entry point.
        """
        _check_strings(args, env)
        if not (self.is_command if request is None else self.is_handler):
            what = "is not a command" if request is None else "handles no requests"
            raise ValueError(f"the component {what}")
        self._request = request
        self._responder = responder
        self._host.begin(
            Call(args=(self._argv0, *args), env=(*self._env, *env)),
            stdio=stdio,
            sources=self._new_sources(),
            exchanges=self._open_exchanges,
            responder=responder,
            input_pump=input_pump,
        )

    def begin_parking(
        self,
        args: Sequence[bytes],
        env: Sequence[tuple[bytes, bytes]],
        wait: Wait,
        *,
        stdout: Sink,
        stderr: Sink,
    ) -> None:
        """Set up a run as a command that is parked when it first needs its input. See `hostfuncs.running.parking`.

        Parameters:
            args, env: see `begin`.
            wait: called when the guest is parked.
            stdout, stderr: receive its output.

        Raises:
            ValueError: see `begin`.
        """
        host = self._host

        def resume(given: Input) -> None:
            host.sources.resume()
            host.call = Call(args=(self._argv0, *args), env=(*self._env, *given.env))
            self._resume(given)

        gate = Gate(wait, suspend=lambda: host.sources.suspend(), resume=resume)
        self.begin(args, env, Stdio(AwaitedSource(gate), stdout, stderr))
        if self._egress is not None:
            from hostfuncs.running.egress import awaiting

            self._egress = awaiting(self._egress, gate, self.state)

    def _open_exchanges(self) -> Exchanges:
        assert self._egress is not None, "the component imports no outbound HTTP"
        self._exchanges = self._egress.begin(self.state.deadline_ns, self.state.check, self._host.account)
        return self._exchanges

    def _enter(self, context: int) -> Ending | None:
        self._host.enter(context)
        self._error = self._linked.instantiate(self._instance)
        self._instantiated_ns = monotonic_ns()
        self._in_guest = not self._error or component_capi.has_guest_frames(self._error)
        if self._error:
            return None
        return self._call_run(context) if self._request is None else self._call_handle(context, self._request)

    def _find(self, context: int, index: wc.ExportIndex | None) -> int:
        """Find an exported function, and return the address of its `wasmtime_component_func_t`."""
        assert index is not None
        address = ctypes.addressof(self._function)
        found = component_capi.instance_get_func(
            ctypes.addressof(self._instance), context, capi.address_of(index), address
        )
        assert found, "the component's own export index"
        return address

    def _call_run(self, context: int) -> Ending | None:
        function = self._find(context, self._entry_points.run)
        self._error = component_capi.func_call(function, context, None, 0, ctypes.addressof(self._results), 1)
        if self._error:
            return None
        # A result without payloads owns no memory. The first byte of its payload is 1 if it is ok.
        failed = self._results.raw[component_capi.PAYLOAD] == 0
        return self._with_file_limit(self._sentences.exited(1 if failed else 0))

    def _call_handle(self, context: int, request: Request) -> Ending | None:
        assert self._responder is not None
        function = self._find(context, self._entry_points.handle)
        arguments = Arguments(
            [
                self._lower_request(IncomingRequest(request), self._host),
                self._lower_outparam(ResponseOutparam(self._responder), self._host),
            ]
        )
        try:
            self._error = component_capi.func_call(function, context, arguments.address, arguments.count, None, 0)
        finally:
            arguments.free()
        return None if self._error else self._responder.conclude()

    def _release(self) -> Sequence[UsageRecord]:
        self._host.finish()
        exchanges, self._exchanges = self._exchanges, None
        return () if exchanges is None else exchanges.close()

    def _failed(self) -> Ending:
        assert self._error
        text = capi.take_error(self._error)
        ending = self._sentences.host(self.state, text)
        if ending is not None:
            return self._with_file_limit(ending)
        if self._in_guest:
            return self._with_file_limit(self._sentences.component_trapped(text))
        return self._sentences.too_large("component", text)

    def _with_file_limit(self, ending: Ending) -> Ending:
        """Add to the ending of a guest that failed by itself the limit on files that it met before."""
        limit = self._host.file_limit
        if limit is None or ending.limit or ending.outcome not in (Outcome.EXIT_NONZERO, Outcome.TRAPPED):
            return ending
        return self._sentences.refused_file(ending, limit)


def _check_strings(args: Sequence[bytes], env: Sequence[tuple[bytes, bytes]]) -> None:
    if any(b"\0" in text for text in (*args, *(part for pair in env for part in pair))):
        raise ValueError("contains NUL character")
