"""Components: frames to runs of a `hostfuncs.running.component.ComponentRunner`, and back."""

from __future__ import annotations

import time

import wasmtime
from wasmtime import component as wc

from hostfuncs import limits
from hostfuncs.running.component import ComponentRunner
from hostfuncs.running.parking import Wait
from hostfuncs.running.response import CollectedResponse
from hostfuncs.wasip2 import BytesSource, Collected, KeptTail, Request, Source, Stdio
from sandboxd.limits import EngineSettings
from sandboxd.limits.keys import converted, key_of
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Call, GuestSpec, HttpRequest, HttpResponse, Invoke, Result
from sandboxd.worker import egress
from sandboxd.worker.endings import KEY_NAMES, outcome_of, report
from sandboxd.worker.guests import GuestError, Services
from sandboxd.worker.mounts import file_settings
from sandboxd.worker.stream import Flow, RequestFlow, StreamedResponse

DEFAULT_REQUEST = HttpRequest(method="POST", scheme="http", authority="localhost", path="/")
"""The request that a handler gets from a caller who gave only data."""


class ComponentGuest:
    """A component of one binding. See `sandboxd.worker.guests.Guest`.

    Parameters:
        engine: from `sandboxd.worker.engine`.
        spec: the binding.
        settings: what the engine was built with.

    Raises:
        GuestError: see `sandboxd.worker.load.load`.
    """

    def __init__(self, engine: wasmtime.Engine, spec: GuestSpec, settings: EngineSettings) -> None:
        self.spec = spec
        try:
            component = wc.Component.deserialize_file(engine, spec.artifact)
        except wasmtime.WasmtimeError as error:
            raise GuestError(f"the artifact does not load: {error}") from None
        if spec.initialize:
            raise GuestError("warmUntil names a function, and only core modules can have one")
        self._runner = ComponentRunner(
            engine,
            component,
            converted(spec.limits, limits.Limits),
            argv0=spec.argv0,
            env=spec.env,
            strict=spec.strict_sandbox,
            files=file_settings(spec),
            settings=converted(settings, limits.EngineSettings),
            names=KEY_NAMES,
        )

    def __repr__(self) -> str:
        return f"<ComponentGuest {self.spec.binding} {self._runner!r}>"

    def fault(self) -> str:
        """See Guest. A component's memories are not known before it is instantiated, which runs its code."""
        return ""

    @property
    def runs(self) -> bool:
        """See Guest."""
        return True

    @property
    def calls_out(self) -> bool:
        """See Guest."""
        return self._runner.imports_http

    def prepare(self, services: Services) -> None:
        """See Guest."""
        self._channel = services.channel
        self._echo = services.echo
        self._runner.prepare(services.deadlines, egress.egress_for(self.spec, services.outbound))

    def run(self, invoke: Invoke, wait: Wait | None = None) -> Result:
        """See Guest. Only commands can be parked."""
        call, runner, limits, echo = invoke.call, self._runner, self.spec.limits, self._echo
        stderr = KeptTail(limits.stderr_bytes, echo)
        body = Collected(limits.stdout_bytes, echo and echo.stdout)
        response: CollectedResponse | StreamedResponse | None = None
        input_pump: RequestFlow | None = None
        try:
            if wait is not None:
                runner.begin_parking(call.args, call.env, wait, stdout=body, stderr=stderr)
            elif not runner.is_command or (call.http is not None and runner.is_handler):
                # What a handler prints is for its operator; the reply is the response's body.
                stdio = Stdio(None, stderr, stderr)
                if invoke.streaming:
                    flow = Flow(self._channel, invoke, limits)
                    response, source, input_pump = flow.response, flow.request, flow.input_pump
                else:
                    response, source = CollectedResponse(body), BytesSource(call.stdin)
                request = _request(call, source)
                runner.begin(call.args, call.env, stdio, request=request, responder=response, input_pump=input_pump)
            else:
                runner.begin(call.args, call.env, Stdio(BytesSource(call.stdin), body, stderr))
        except ValueError as invalid:
            return Result(id=invoke.id, outcome=Outcome.BAD_REQUEST, detail=f"args or env invalid: {invalid}")
        if input_pump is not None and time.monotonic_ns() < call.deadline_ns:
            input_pump.open()
        ending = runner.run(call.deadline_ns)
        report(self.spec.binding, ending)
        outcome = outcome_of(ending)
        head = response.complete_head if isinstance(response, CollectedResponse) else None
        return Result(
            id=invoke.id,
            outcome=outcome,
            stdout=body.value(),
            exit_code=ending.exit_code,
            detail=ending.message,
            trace=ending.trace,
            stderr=stderr.tail.value() if stderr.tail.total else b"",
            stderr_total=stderr.tail.total,
            instantiate_ns=runner.instantiate_ns,
            guest_ns=runner.guest_ns,
            outbound=egress.usage_of(runner.usage),
            http=None if head is None else HttpResponse(status=head.status, headers=head.headers),
            limit=key_of(ending.limit) if ending.limit else "",
            retire=outcome is Outcome.HOST_FAILED,
        )


def _request(call: Call, body: Source) -> Request:
    wanted = call.http or DEFAULT_REQUEST
    return Request(
        method=wanted.method,
        scheme=wanted.scheme,
        authority=wanted.authority,
        path=wanted.path,
        headers=wanted.headers,
        body=body,
    )
