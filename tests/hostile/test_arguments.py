"""Any numbers in any host function, and any bytes for a module: an answer, or the end of that guest. Never more.

In this process, so that one that dies takes the test with it.
"""

import asyncio
import hashlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import wasmtime
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hostfuncs import wasip1
from sandboxd.limits import MIB, EngineSettings, Limits, OutboundSettings
from sandboxd.modules import fingerprint, preamble
from sandboxd.modules.compiler import Compiler, CompileSettings
from sandboxd.modules.errors import CompileError, RefusedError
from sandboxd.modules.store import Store
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Call, GuestSpec, Invoke, Result
from sandboxd.worker import engine, guests, load
from sandboxd.worker.runtime import Runtime
from tests.guests import hostile, path
from tests.hostile.hostfunctions import NAMES, PAGE, ZEROS, digits, forwarding
from tests.process.runtimes import worker_engine

LAST_ERRNO = 76
"""`notcapable`, the last of typenames.witx."""
LIMITS = Limits(memory_bytes=2 * MIB, stdout_bytes=100_000, stderr_bytes=1000)
SECOND = 10**9

_numbers = itertools.count(1)


def runtime_of(artifact: Path) -> Runtime:
    spec = GuestSpec(binding="b", kind="module", artifact=str(artifact), argv0=b"guest", limits=LIMITS)
    return Runtime(worker_engine(), [load.load(worker_engine(), spec)], OutboundSettings()).start()


def run(runtime: Runtime, stdin: bytes, seconds: float) -> Result:
    deadline = time.monotonic_ns() + int(seconds * SECOND)
    return runtime.run(Invoke(id=next(_numbers), guest=0, call=Call(deadline_ns=deadline, stdin=stdin)))


@cache
def compiled() -> bytes:
    compiling = engine.build(EngineSettings(), compiling=True)
    return bytes(wasmtime.Module(compiling, forwarding()).serialize())


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    artifact = tmp_path_factory.mktemp("caller") / "caller.cwasm"
    artifact.write_bytes(compiled())
    runtime = runtime_of(artifact)
    yield runtime
    runtime.close()


NEAR = st.sampled_from([0, ZEROS, 8192, PAGE, 1 << 31, 1 << 32, 1 << 63, 1 << 64]).flatmap(
    lambda middle: st.integers(max(0, middle - 70), min((1 << 64) - 1, middle + 70))
)
ANY = st.one_of(NEAR, st.integers(0, PAGE), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1))

POSSIBLE = {
    "fd_write": {Outcome.OUTPUT_EXCEEDED},
    "poll_oneoff": {Outcome.DEADLINE_EXCEEDED},
}
"""How a function may end its guest."""


@pytest.mark.parametrize("function", NAMES)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_any_arguments_are_answered(caller: Runtime, function: str, data: st.DataObject) -> None:
    params = wasip1.FUNCTIONS[function].params
    arguments = tuple(data.draw(ANY) for _ in params)
    # Long enough that only a guest that sleeps can be late.
    result = run(caller, b'"' + digits(function, arguments).encode() + b'"', 0.1 if function == "poll_oneoff" else 20)
    assert result.outcome in {Outcome.COMPLETED, Outcome.EXIT_NONZERO} | POSSIBLE.get(function, set()), result
    assert not result.retire
    if function != "proc_exit":
        assert result.exit_code <= LAST_ERRNO
    assert len(result.stdout) <= LIMITS.stdout_bytes
    assert len(result.stderr) <= LIMITS.stderr_bytes


SMALL = ("tiny", "args", "exit", "trap")
MUTATIONS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 6)), max_size=4)


@cache
def originals() -> tuple[bytes, ...]:
    return (
        *(path(name).read_bytes() for name in SMALL),
        *(hostile.attack(name) for name in ("wild_call", "thrower", "garbage_bomb", "exits", "allocates_in_start")),
    )


def mutated(original: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    """Pieces replaced by others, behind the magic number and the version."""
    data = bytearray(original)
    for where, piece, length in changes:
        at = 8 + int(where * (len(data) - 8))
        data[at : at + length] = piece
    return bytes(data)


def artifact_of(data: bytes, folder: Path) -> Path | str:
    """Return the artifact of the compile subprocess, or why it refuses."""
    try:
        guest = preamble.read(data)
        preamble.refuse(guest, strict_sandbox=False)
        limits = CompileSettings(timeout_s=30, memory_bytes=1024 * MIB)
        it = Compiler(Store(folder / "cache"), EngineSettings(), fingerprint.current(EngineSettings()), limits)
        artifact = asyncio.run(it.compile(data, hashlib.sha256(data).hexdigest(), "module"))
    except (RefusedError, CompileError) as refused:
        return str(refused)
    return Path(artifact.path)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, len(SMALL) + 4), MUTATIONS)
@example(0, [])
@example(6, [(0.5, b"", 1)])
def test_any_module_is_refused_or_runs_to_an_end(number: int, changes: list[tuple[float, bytes, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        artifact = artifact_of(mutated(originals()[number], changes), Path(folder))
        if isinstance(artifact, str):
            assert artifact.startswith("wasm: ")
            assert "\n" not in artifact
            return
        try:
            runtime = runtime_of(artifact)
        except guests.GuestError:
            return
        try:
            result = run(runtime, b'"255"', 0.3)
        finally:
            runtime.close()
    assert result.outcome is not Outcome.HOST_FAILED, result
    assert not result.retire
