"""One run of a component: `wasi:cli/run` as a command, or `wasi:http/incoming-handler` with a request."""

from __future__ import annotations

import ctypes
import functools
import time

import wasmtime
from wasmtime import component as wc

from hostfuncs import wasip1
from hostfuncs.abi import InvocationState, capi
from hostfuncs.outbound import Exchanges
from hostfuncs.wasip2 import (
    BytesSource,
    Call,
    Collected,
    Host,
    IncomingRequest,
    KeptTail,
    Request,
    Responder,
    ResponseOutparam,
    Source,
    Stdio,
)
from hostfuncs.wasip2 import capi as component_capi
from hostfuncs.wasip2.lower import Arguments, lowerer
from hostfuncs.wasip2.types import Own
from sandboxd.limit_keys import key_of
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import GuestSpec, HttpRequest, HttpResponse, Invoke, OutboundUsage, Result
from sandboxd.worker import egress, endings
from sandboxd.worker.component_ending import exited, why
from sandboxd.worker.component_load import entrances, link_component
from sandboxd.worker.component_response import CollectedResponse
from sandboxd.worker.guests import GuestError, Services
from sandboxd.worker.stream import Flow, StreamedResponse

DEFAULT_REQUEST = HttpRequest(method="POST", scheme="http", authority="localhost", path="/")
"""What a handler gets from a caller who gave nothing but data."""


class ComponentGuest:
    """A component of one binding. See `sandboxd.worker.guests.Guest`.

    Parameters:
        engine: from `sandboxd.worker.engine`.
        spec: the binding.

    Raises:
        GuestError: see `sandboxd.worker.guests.load`.
    """

    def __init__(self, engine: wasmtime.Engine, spec: GuestSpec) -> None:
        self.spec = spec
        try:
            component = wc.Component.deserialize_file(engine, spec.artifact)
        except wasmtime.WasmtimeError as error:
            raise GuestError(f"the artifact does not load: {error}") from None
        self._state = InvocationState()
        self._host = Host(self._state, entries=spec.limits.host_entries)
        self._entrances = entrances(engine, component)
        self._linked = link_component(engine, component, self._host, strict=spec.strict_sandbox)
        self._new_sources = wasip1.StrictSources if spec.strict_sandbox else wasip1.SystemSources
        self._lower_request = lowerer(Own(IncomingRequest))
        self._lower_outparam = lowerer(Own(ResponseOutparam))

    def __repr__(self) -> str:
        return f"<ComponentGuest {self.spec.binding} {self._state!r}>"

    def prepare(self, services: Services) -> None:
        """See Guest."""
        self._watch = services.watch
        self._stack_bytes = services.stack_bytes
        self._engine_address = capi.address_of(services.engine)
        self._outbound_settings = services.outbound
        self._policy = egress.policy_for(self.spec, services.outbound)
        self._link = services.link
        self._outbound_limits = egress.limits_for(self.spec.limits)
        self._instance = ctypes.create_string_buffer(component_capi.INSTANCE_SIZE)
        self._function = ctypes.create_string_buffer(component_capi.FUNC_SIZE)
        self._results = ctypes.create_string_buffer(component_capi.VAL_SIZE)
        self._exchanges: Exchanges | None = None

    def _begin_exchanges(self, deadline_ns: int) -> Exchanges:
        outbound = egress.outbound_for(self._outbound_settings)
        self._exchanges = outbound.begin(self._policy, self._outbound_limits, deadline_ns, self._state.check)
        return self._exchanges

    def run(self, invoke: Invoke) -> Result:
        """See Guest."""
        state, host, limits, watch = self._state, self._host, self.spec.limits, self._watch
        if any(b"\0" in text for text in (*invoke.args, *(part for pair in invoke.env for part in pair))):
            return Result(id=invoke.id, outcome=Outcome.BAD_REQUEST, detail="args or env invalid: contain a zero byte")
        began = time.monotonic_ns()
        if began >= invoke.deadline_ns:
            limit = key_of("timeout_ms")
            return Result(id=invoke.id, outcome=Outcome.DEADLINE_EXCEEDED, detail=endings.DEADLINE_TEXT, limit=limit)
        stderr = KeptTail(limits.stderr_bytes)
        body = Collected(limits.stdout_bytes)
        handling = self._entrances.run is None or (invoke.http is not None and self._entrances.handle is not None)
        flow: Flow | None = None
        response: CollectedResponse | StreamedResponse | None = None
        if handling and invoke.streaming:
            flow = Flow(self._link, invoke, limits)
            response = flow.response
        elif handling:
            response = CollectedResponse(body)
        state.begin(invoke.deadline_ns, watch.cancelled)
        host.begin(
            Call(args=(self.spec.argv0, *invoke.args), env=self.spec.env + invoke.env),
            # What a handler prints is for its operator; the reply is the response's body.
            stdio=Stdio(None, stderr, stderr) if handling else Stdio(BytesSource(invoke.stdin), body, stderr),
            sources=self._new_sources(),
            exchanges=functools.partial(self._begin_exchanges, invoke.deadline_ns),
            responder=response,
            inlet=None if flow is None else flow.inlet,
        )
        outbound: tuple[OutboundUsage, ...] = ()
        # Armed before the store counts epochs: a tick in between would be lost if the thread did not tick again.
        watch.arm(invoke.id, state, invoke.deadline_ns)
        store = capi.store_new(self._engine_address, None, None)
        try:
            context = capi.store_context(store)
            capi.store_limiter(store, limits.memory_bytes, limits.table_elements, -1, -1, -1)
            capi.store_epoch_deadline_callback(store, watch.callback_address, None, None)
            capi.context_set_epoch_deadline(context, 1)
            state.enter(context, 0)
            host.enter(context)
            error = self._linked.instantiate(self._instance)
            instantiated = time.monotonic_ns()
            in_guest = not error or component_capi.has_guest_frames(error)
            returned_err = False
            if not error:
                if response is None:
                    error, returned_err = self._call_run(context)
                else:
                    source = BytesSource(invoke.stdin) if flow is None else flow.request
                    error = self._call_handle(context, invoke, source, response)
            ended = time.monotonic_ns()
            text = capi.take_error(error) if error else ""
        finally:
            watch.disarm()
            host.finish()
            state.finish()
            capi.store_delete(store)
            if self._exchanges is not None:
                outbound = egress.usage_of(self._exchanges.close())
                self._exchanges = None
        if state.interrupt is not None:
            raise state.interrupt
        head: HttpResponse | None = None
        if error:
            outcome, exit_code, detail, limit = why(
                self.spec.binding, state, text, in_guest=in_guest, limits=limits, stack_bytes=self._stack_bytes
            )
        elif response is not None:
            outcome, exit_code, detail, head = response.outcome()
            limit = ""
        else:
            outcome, exit_code, detail, limit = exited(1 if returned_err else 0)
        return Result(
            id=invoke.id,
            outcome=outcome,
            stdout=body.value(),
            exit_code=exit_code,
            detail=detail,
            stderr=stderr.tail.value() if stderr.tail.total else b"",
            stderr_total=stderr.tail.total,
            instantiate_ns=instantiated - began,
            guest_ns=ended - instantiated,
            outbound=outbound,
            http=head,
            limit=limit,
            retire=outcome is Outcome.HOST_FAILED,
        )

    def _enter(self, context: int, index: wc.ExportIndex | None) -> int:
        """Find an exported function; gives back its address."""
        assert index is not None
        address = ctypes.addressof(self._function)
        found = component_capi.instance_get_func(
            ctypes.addressof(self._instance), context, capi.address_of(index), address
        )
        assert found, "the component's own export index"
        return address

    def _call_run(self, context: int) -> tuple[int, bool]:
        """Call `run`; gives back the error, if any, and whether it returned `err`."""
        function = self._enter(context, self._entrances.run)
        results = ctypes.addressof(self._results)
        error: int | None = component_capi.func_call(function, context, None, 0, results, 1)
        # A result<_, _> owns nothing: its kind, then whether it is ok.
        return error or 0, not error and self._results.raw[component_capi.PAYLOAD] == 0

    def _call_handle(self, context: int, invoke: Invoke, body: Source, response: Responder) -> int:
        """Call `handle` with the request; gives back the error, if any."""
        wanted = invoke.http or DEFAULT_REQUEST
        request = Request(
            method=wanted.method,
            scheme=wanted.scheme,
            authority=wanted.authority,
            path=wanted.path,
            headers=wanted.headers,
            body=body,
        )
        function = self._enter(context, self._entrances.handle)
        arguments = Arguments(
            [
                self._lower_request(IncomingRequest(request), self._host),
                self._lower_outparam(ResponseOutparam(response), self._host),
            ]
        )
        try:
            error: int | None = component_capi.func_call(function, context, arguments.address, arguments.count, None, 0)
        finally:
            arguments.free()
        return error or 0
