"""Dapr's wasi-http for the runs of a core guest."""

from __future__ import annotations

from collections.abc import Container

import wasmtime

from hostfuncs import legacy_http, wasip1
from hostfuncs.limits import Limits
from hostfuncs.outbound import Exchanges, UsageRecord
from hostfuncs.running.egress import Egress


class CoreHttp:
    """Outbound HTTP of one core guest.

    Parameters:
        module: the guest's module. Its `cabi_realloc` allocates memory for results.
        program: receives the guest's log lines on its stderr.
        limits: the limits of each run.
    """

    def __init__(self, module: wasmtime.Module, program: wasip1.Program, limits: Limits) -> None:
        self._program = program
        self._calls = legacy_http.Calls(
            program.state,
            realloc_usable=legacy_http.realloc_usable(module),
            entries=limits.host_entries,
            memory_bytes=limits.host_memory_bytes,
            log=self._log,
        )

    def __repr__(self) -> str:
        return f"<CoreHttp {self._calls!r}>"

    def _log(self, line: bytes) -> None:
        self._program.stderr.append(line + b"\n")

    def link(self, linker: wasmtime.Linker, names: Container[tuple[str, str]]) -> None:
        """Define the functions in a linker that the guest imports, by module and name."""
        legacy_http.link(linker, self._calls, names=names)

    def prepare(self, egress: Egress) -> None:
        """Set the egress of later runs. Call it before the first run."""
        self._egress = egress

    def begin(self) -> None:
        """Begin a run. Nothing is opened yet, because most runs of a guest that can make requests make none."""
        self._calls.begin(self._open)

    def _open(self) -> Exchanges:
        state = self._program.state
        return self._egress.begin(state.deadline_ns, state.check, self._calls.account)

    def finish(self) -> list[UsageRecord]:
        """End the run, release everything, and return a record of each request."""
        return self._calls.finish()


FUNCTIONS = {name: frozenset(function.name for function in group) for name, group in legacy_http.MODULES.items()}
"""Import module -> the names of its functions."""
