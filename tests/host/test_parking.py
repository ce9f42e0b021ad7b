"""Runs that are parked at their first use of input, and go on with it. Without a fork: see tests/server for those."""

import time
from collections.abc import Iterator

import pytest
import wasmtime

from hostfuncs.abi import Cancelled, capi
from hostfuncs.limits import EngineSettings, Limits
from hostfuncs.outcome import Outcome
from hostfuncs.running import engine
from hostfuncs.running.core import CoreRunner
from hostfuncs.running.deadline import DeadlineThread
from hostfuncs.running.errors import GuestError
from hostfuncs.running.parking import Input, ParkPoint
from hostfuncs.wasip1 import StrictSources, SystemSources
from tests.guests import path as guest

ENVIRONMENT_AND_STDIN = """
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $read_once
    (i32.store (i32.const 0) (i32.const 4096))
    (i32.store (i32.const 4) (i32.const 100))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16))))
  (func $show
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $get (i32.const 1024) (i32.const 2048)))
    (i32.store (i32.const 0) (i32.const 2048))
    (i32.store (i32.const 4) (i32.load (i32.const 20)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
  (func (export "_start") %s))
"""


@pytest.fixture(scope="module")
def deadlines() -> Iterator[DeadlineThread]:
    thread = DeadlineThread(ENGINE)
    thread.start()
    yield thread
    thread.close()


ENGINE = engine.build(EngineSettings(), parallel_compilation=False, pooling=False)


def runner_of(
    deadlines: DeadlineThread, module: bytes | str, *, strict: bool = False, initialize: str = ""
) -> CoreRunner:
    compiled = wasmtime.Module(ENGINE, module)
    runner = CoreRunner(
        ENGINE,
        compiled,
        Limits(),
        argv0=b"g",
        env=[(b"FIXED", b"1")],
        strict=strict,
        settings=EngineSettings(),
        initialize=initialize,
    )
    runner.prepare(deadlines, None)
    return runner


def in_a_minute() -> int:
    return time.monotonic_ns() + 60 * 10**9


def test_a_run_goes_on_with_the_input_that_it_is_given(deadlines: DeadlineThread) -> None:
    runner = runner_of(deadlines, guest("cat").read_bytes())
    points = []

    def wait(at: ParkPoint) -> Input:
        points.append(at)
        return Input(stdin=b"what it reads", deadline_ns=in_a_minute())

    runner.begin_parking([], [], wait)
    assert runner.run(in_a_minute()).outcome is Outcome.COMPLETED
    assert points == [ParkPoint.STDIN]
    assert bytes(runner.program.stdout) == b"what it reads"


def test_the_deadline_of_the_input_counts(deadlines: DeadlineThread) -> None:
    runner = runner_of(deadlines, guest("cat").read_bytes())
    runner.begin_parking([], [], lambda _: Input(stdin=b"", deadline_ns=time.monotonic_ns() - 1))
    assert runner.run(in_a_minute()).outcome is Outcome.DEADLINE_EXCEEDED


@pytest.mark.parametrize("ends_process", [False, True])
def test_the_store_is_left_to_the_kernel_if_the_process_ends_with_the_run(
    deadlines: DeadlineThread, monkeypatch: pytest.MonkeyPatch, ends_process: bool
) -> None:
    delete, deleted = capi.store_delete, []
    monkeypatch.setattr(capi, "store_delete", deleted.append)
    runner = runner_of(deadlines, guest("cat").read_bytes())
    given = Input(stdin=b"x", deadline_ns=in_a_minute(), ends_process=ends_process)
    runner.begin_parking([], [], lambda _: given)
    assert runner.run(in_a_minute()).outcome is Outcome.COMPLETED
    assert runner.stdout == b"x"
    assert len(deleted) == (0 if ends_process else 1)
    for store in deleted:
        delete(store)


def test_a_wait_may_end_the_run(deadlines: DeadlineThread) -> None:
    runner = runner_of(deadlines, guest("cat").read_bytes())

    def wait(_: ParkPoint) -> Input:
        raise Cancelled

    runner.begin_parking([], [], wait)
    assert runner.run(in_a_minute()).outcome is Outcome.CANCELLED


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("(call $read_once) (call $show)", b"FIXED=1\0TRACEPARENT=x\0"),
        ("(drop (call $sizes (i32.const 16) (i32.const 20))) (call $read_once) (call $show)", b"FIXED=1\0"),
    ],
)
def test_the_environment_is_that_of_the_input_unless_the_guest_has_asked_before(
    deadlines: DeadlineThread, body: str, shown: bytes
) -> None:
    runner = runner_of(deadlines, ENVIRONMENT_AND_STDIN % body)
    given = Input(stdin=b"x", env=((b"TRACEPARENT", b"x"),), deadline_ns=in_a_minute())
    runner.begin_parking([], [], lambda _: given)
    assert runner.run(in_a_minute()).outcome is Outcome.COMPLETED
    assert bytes(runner.program.stdout) == shown


def test_processor_time_goes_on_in_a_process_whose_clock_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000
    monkeypatch.setattr("hostfuncs.wasip1.sources.time.thread_time_ns", lambda: now)
    sources = SystemSources()
    assert sources.cpu_time() == 0
    now = 1_700
    assert sources.cpu_time() == 700
    sources.suspend()
    now = 5  # as after a fork
    sources.resume()
    assert sources.cpu_time() == 700
    now = 15
    assert sources.cpu_time() == 710


def test_strict_clocks_go_on_from_the_current_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100 * 10**9
    monkeypatch.setattr("hostfuncs.wasip1.sources.time.time_ns", lambda: now)
    sources = StrictSources()
    first, drawn, waited = sources.realtime(), sources.random(4), sources.monotonic()
    sources.suspend()
    now += 7 * 10**9
    sources.resume()
    cold = StrictSources()
    assert (cold.realtime(), cold.random(4), cold.monotonic()) == (first + 7 * 10**9, drawn, waited)
    assert (sources.realtime(), sources.random(4), sources.monotonic()) == (
        cold.realtime(),
        cold.random(4),
        cold.monotonic(),
    )


INITIALIZED = ENVIRONMENT_AND_STDIN.replace(
    '(func (export "_start") %s))',
    """
  (func $put (param $char i32)
    (i32.store8 (i32.const 3000) (local.get $char))
    (i32.store (i32.const 0) (i32.const 3000))
    (i32.store (i32.const 4) (i32.const 1))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
  (func (export "init") (call $put (i32.const 0x69)) %s)
  (func (export "wizer.initialize") (call $put (i32.const 0x77)))
  (func (export "wizer.resume") (call $put (i32.const 0x72)))
  (func (export "_start") (call $put (i32.const 0x73)) %s)
  (func (export "with_result") (result i32) (i32.const 0))
  (global (export "no_function") i32 (i32.const 0)))""",
)
"""`init` writes i, `_start` s, `wizer.initialize` w and `wizer.resume` r."""


def parked(runner: CoreRunner, given: Input) -> list[ParkPoint]:
    """Run to the end, parked, and return where."""
    points = []

    def wait(at: ParkPoint) -> Input:
        points.append(at)
        return given

    runner.begin_parking([], [], wait)
    assert runner.run(in_a_minute()).outcome is Outcome.COMPLETED
    return points


@pytest.mark.parametrize(
    ("name", "stdout"), [("", b"s"), ("init", b"is"), ("wizer.initialize", b"wr"), ("wizer.resume", b"rs")]
)
def test_the_function_that_comes_first_comes_first_cold_and_parked(
    deadlines: DeadlineThread, name: str, stdout: bytes
) -> None:
    runner = runner_of(deadlines, INITIALIZED % ("", ""), initialize=name)
    for _ in range(2):
        runner.begin([], [], b"")
        assert runner.run(in_a_minute()).outcome is Outcome.COMPLETED
        assert runner.stdout == stdout
        given = Input(stdin=b"", deadline_ns=in_a_minute())
        assert parked(runner, given) == ([ParkPoint.READY] if name else [])
        assert runner.stdout == stdout


def test_what_it_asks_of_its_environment_first_may_be_told_again(deadlines: DeadlineThread) -> None:
    runner = runner_of(deadlines, INITIALIZED % ("(call $show)", "(call $show)"), initialize="init")
    given = Input(stdin=b"", env=((b"TRACEPARENT", b"2"),), deadline_ns=in_a_minute())
    assert parked(runner, given) == [ParkPoint.READY]
    assert runner.stdout == b"iFIXED=1\0sFIXED=1\0TRACEPARENT=2\0"


def test_a_run_that_reads_in_its_first_function_is_parked_there_and_only_there(deadlines: DeadlineThread) -> None:
    runner = runner_of(deadlines, INITIALIZED % ("(call $read_once)", ""), initialize="init")
    assert parked(runner, Input(stdin=b"x", deadline_ns=in_a_minute())) == [ParkPoint.STDIN]
    assert runner.stdout == b"is"


def test_the_deadline_of_the_input_counts_after_the_first_function_too(deadlines: DeadlineThread) -> None:
    runner = runner_of(deadlines, INITIALIZED % ("", ""), initialize="init")
    runner.begin_parking([], [], lambda _: Input(stdin=b"", deadline_ns=time.monotonic_ns() - 1))
    assert runner.run(in_a_minute()).outcome is Outcome.DEADLINE_EXCEEDED
    assert runner.stdout == b"i"


def test_a_trap_in_the_first_function_ends_the_run(deadlines: DeadlineThread) -> None:
    runner = runner_of(deadlines, INITIALIZED % ("unreachable", ""), initialize="init")
    runner.begin([], [], b"")
    assert runner.run(in_a_minute()).outcome is Outcome.TRAPPED
    assert runner.stdout == b"i"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", 'the module does not export "absent"'),
        ("with_result", 'the export "with_result" is not a function without parameters and results'),
        ("no_function", 'the export "no_function" is not a function without parameters and results'),
    ],
)
def test_what_cannot_be_called_first_is_refused(deadlines: DeadlineThread, name: str, message: str) -> None:
    with pytest.raises(GuestError) as refused:
        runner_of(deadlines, INITIALIZED % ("", ""), initialize=name)
    assert str(refused.value) == message
