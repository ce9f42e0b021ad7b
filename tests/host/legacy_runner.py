"""Runs core guests that import Dapr's wasi-http, with nothing of the server: hostfuncs and an engine."""

import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import wasmtime

from hostfuncs.abi import GuestEnded, ProcExit
from hostfuncs.limits import EngineSettings, Limits
from hostfuncs.outbound import Outbound, OutboundLimits, Policy, UsageRecord
from hostfuncs.running import engine
from hostfuncs.running.core import CoreRunner
from hostfuncs.running.deadline import DeadlineThread
from hostfuncs.running.egress import Egress


@dataclass
class Ran:
    """The end of a run."""

    stdout: bytes
    ended: GuestEnded | None
    """Why the host ended the guest."""
    failure: str | None
    """A fault of the host. Always a bug."""
    trap: str
    """What was said of a guest that ended otherwise than by itself; empty if it ended itself."""
    usage: list[UsageRecord]
    log: list[bytes]

    @property
    def message(self) -> str:
        """Return the host's message when it ended the guest; "" if it did not."""
        return str(self.ended) if self.ended is not None else ""


@cache
def _engine() -> wasmtime.Engine:
    return engine.build(EngineSettings(), pooling=False)


@dataclass
class Runner:
    """One guest, run as often as wanted; the connections stay."""

    guest: Path | str
    """A file, or text of a module."""
    outbound: Outbound = field(default_factory=Outbound)
    policy: Policy = field(default_factory=lambda: Policy.parse(["*://127.0.0.1:*", "*://localhost:*"]))
    limits: OutboundLimits = field(default_factory=OutboundLimits)
    entries: int = 4096
    host_memory: int = Limits().host_memory_bytes

    def __post_init__(self) -> None:
        binary = wasmtime.wat2wasm(self.guest) if isinstance(self.guest, str) else self.guest.read_bytes()
        self.module = wasmtime.Module(_engine(), binary)
        self.runner = CoreRunner(
            _engine(),
            self.module,
            Limits(host_entries=self.entries, host_memory_bytes=self.host_memory),
            argv0=b"guest",
            settings=EngineSettings(),
        )

    def run(self, *args: str, stdin: bytes = b"", timeout_s: float = 20) -> Ran:
        """Run the guest's `_start` once."""
        runner = self.runner
        deadlines = DeadlineThread(_engine())
        runner.prepare(deadlines, Egress(outbound=lambda: self.outbound, policy=self.policy, limits=self.limits))
        deadlines.start()
        try:
            runner.begin([arg.encode() for arg in args], [], stdin)
            ending = runner.run(time.monotonic_ns() + int(timeout_s * 1e9))
        finally:
            deadlines.close()
        ended, program = runner.state.ended, runner.program
        if isinstance(ended, ProcExit) and ended.code == 0:
            ended = None
        log = program.stderr.value().splitlines()
        return Ran(bytes(program.stdout), ended, runner.state.failure, ending.message, list(runner.usage), log)
