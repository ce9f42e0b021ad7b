"""Dapr's wasi-http for core modules, as an extension of a core guest: see `sandboxd.worker.linking.Extension`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import wasmtime

from hostfuncs import legacy_http, wasip1
from sandboxd.wire.messages import GuestSpec, OutboundUsage
from sandboxd.worker import egress
from sandboxd.worker.guests import Services


class LegacyHttp:
    """One guest's outbound HTTP.

    Parameters:
        spec: whose policy and limits apply.
        module: its `cabi_realloc` allocates what the host hands out.
        program: the lines the guest logs go to its stderr.
    """

    def __init__(self, spec: GuestSpec, module: wasmtime.Module, program: wasip1.Program) -> None:
        self._spec = spec
        self._program = program
        self._calls = legacy_http.Calls(
            program.state,
            realloc_usable=legacy_http.realloc_usable(module),
            entries=spec.limits.host_entries,
            log=self._log,
        )
        self.functions: Mapping[str, Collection[str]] = {
            name: frozenset(function.name for function in functions) for name, functions in legacy_http.MODULES.items()
        }

    def __repr__(self) -> str:
        return f"<LegacyHttp {self._calls!r}>"

    def _log(self, line: bytes) -> None:
        self._program.stderr.append(line + b"\n")

    def link(self, linker: wasmtime.Linker) -> None:
        """See Extension."""
        legacy_http.link(linker, self._calls)

    def prepare(self, services: Services) -> None:
        """See Extension."""
        self._settings = services.outbound
        self._policy = egress.policy_for(self._spec, services.outbound)
        self._limits = egress.limits_for(self._spec.limits)

    def begin(self, deadline_ns: int) -> None:
        """See Extension. Opens nothing yet: most runs of a guest that can make requests make none."""
        state = self._program.state
        self._calls.begin(
            lambda: egress.outbound_for(self._settings).begin(self._policy, self._limits, deadline_ns, state.check)
        )

    def finish(self) -> tuple[OutboundUsage, ...]:
        """See Extension."""
        return egress.usage_of(self._calls.finish())
