"""Core WebAssembly guests: frames to runs of a `hostfuncs.running.core.CoreRunner`, and back. This is the hot path."""

from __future__ import annotations

import wasmtime

from hostfuncs import limits
from hostfuncs.running.core import CoreRunner
from hostfuncs.running.endings import COMPLETED
from hostfuncs.running.parking import Wait
from sandboxd.limits import EngineSettings
from sandboxd.limits.keys import converted, key_of
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import GuestSpec, Invoke, OutboundUsage, Result
from sandboxd.worker.endings import KEY_NAMES, outcome_of, report
from sandboxd.worker.guests import GuestError, Services
from sandboxd.worker.mounts import file_settings


class CoreGuest:
    """A core module of one binding. See `sandboxd.worker.guests.Guest`.

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
            module = wasmtime.Module.deserialize_file(engine, spec.artifact)
        except wasmtime.WasmtimeError as error:
            raise GuestError(f"the artifact does not load: {error}") from None
        self._runner = CoreRunner(
            engine,
            module,
            converted(spec.limits, limits.Limits),
            argv0=spec.argv0,
            env=spec.env,
            strict=spec.strict_sandbox,
            files=file_settings(spec),
            settings=converted(settings, limits.EngineSettings),
            names=KEY_NAMES,
            initialize=spec.initialize,
        )
        if self._runner.imports_http:
            # Before the fork, along with the first guest that needs it.
            import sandboxd.worker.egress  # noqa: F401

    def __repr__(self) -> str:
        return f"<CoreGuest {self.spec.binding} {self._runner!r}>"

    def fault(self) -> str:
        """See Guest."""
        refused = self._runner.refusal()
        return refused.message if refused is not None else ""

    @property
    def runs(self) -> bool:
        """See Guest."""
        return self._runner.runs

    @property
    def calls_out(self) -> bool:
        """See Guest."""
        return self._runner.imports_http

    def prepare(self, services: Services) -> None:
        """See Guest."""
        egress = None
        if self._runner.imports_http:
            from sandboxd.worker.egress import egress_for

            egress = egress_for(self.spec, services.outbound)
        self._runner.program.echo = services.echo
        self._runner.prepare(services.deadlines, egress)

    def run(self, invoke: Invoke, wait: Wait | None = None) -> Result:
        """See Guest."""
        call, runner = invoke.call, self._runner
        try:
            if wait is None:
                runner.begin(call.args, call.env, call.stdin)
            else:
                runner.begin_parking(call.args, call.env, wait)
        except ValueError as invalid:
            return Result(id=invoke.id, outcome=Outcome.BAD_REQUEST, detail=f"args or env invalid: {invalid}")
        ending = runner.run(call.deadline_ns)
        usage = runner.usage
        outbound: tuple[OutboundUsage, ...] = ()
        if usage:
            from sandboxd.worker.egress import usage_of

            outbound = usage_of(usage)
        if ending is COMPLETED:
            outcome = Outcome.COMPLETED
        else:
            outcome = outcome_of(ending)
            report(self.spec.binding, ending)
        return Result(
            id=invoke.id,
            outcome=outcome,
            stdout=runner.stdout,
            exit_code=ending.exit_code,
            detail=ending.message,
            trace=ending.trace,
            stderr=runner.stderr,
            stderr_total=runner.stderr_total,
            instantiate_ns=runner.instantiate_ns,
            guest_ns=runner.guest_ns,
            memory_bytes=runner.memory_bytes,
            outbound=outbound,
            limit=key_of(ending.limit) if ending.limit else "",
            retire=outcome is Outcome.HOST_FAILED,
        )
