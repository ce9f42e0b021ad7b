"""Invocations of real guests through the code workers run, without the processes around it."""

import socket
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from sandboxd.limits import MIB, EngineSettings, Limits
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import GuestSpec, Invoke, OutboundSettings, Result
from sandboxd.worker import engine, guests
from sandboxd.worker.guests import GuestError
from sandboxd.worker.runtime import Runtime
from tests.host.wat import artifact_of

GUESTS = Path(__file__).parent.parent / "guests" / "bin"
WASI = "wasi_snapshot_preview1"
SECOND = 10**9


@cache
def worker_engine() -> wasmtime.Engine:
    """One for all tests, as it reserves tens of GiB of address space."""
    return engine.build(EngineSettings())


class Worker:
    """A runtime whose guests are loaded when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = worker_engine()
        self.runtimes: list[Runtime] = []

    def load(self, wat: str, **options: Any) -> Runtime:
        """A runtime with one guest, from text or the name of a committed guest."""
        if "(" not in wat:
            compiler = engine.build(EngineSettings(), compiling=True)
            artifact = self.folder / f"{wat}.cwasm"
            artifact.write_bytes(wasmtime.Module(compiler, (GUESTS / f"{wat}.wasm").read_bytes()).serialize())
        else:
            artifact = artifact_of(wat, self.folder)
        spec = GuestSpec(**{"binding": "b", "kind": "module", "artifact": str(artifact), "argv0": b"guest"} | options)
        runtime = Runtime(self.engine, [guests.load(self.engine, spec)], OutboundSettings()).start()
        self.runtimes.append(runtime)
        return runtime

    def run(
        self, wat: str, *, stdin: bytes = b"", args: tuple[bytes, ...] = (), seconds: float = 20, **options: Any
    ) -> Result:
        """One invocation."""
        return invoke(self.load(wat, **options), stdin=stdin, args=args, seconds=seconds)


def invoke(runtime: Runtime, *, number: int = 1, seconds: float = 20, **options: Any) -> Result:
    deadline = time.monotonic_ns() + int(seconds * SECOND)
    return runtime.run(Invoke(id=number, guest=0, deadline_ns=deadline, **options))


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path)
    yield made
    for runtime in made.runtimes:
        runtime.close()


def start(body: str, *, imports: str = "", memory: str = '(memory (export "memory") 1)') -> str:
    return f'(module {imports} {memory} (func (export "_start") {body}))'


EXIT = f'(import "{WASI}" "proc_exit" (func $exit (param i32)))'
WRITE = f'(import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'


# what works -----------------------------------------------------------------------------------------------------------


def test_stdin_to_stdout(worker: Worker) -> None:
    data = bytes(range(256)) * 5000
    result = worker.run("cat", stdin=data)
    assert result.outcome is Outcome.COMPLETED
    assert result.stdout == data


def test_arguments_and_environment(worker: Worker) -> None:
    assert worker.run("args", args=(b"-ne", b"")).stdout == b"guest\n-ne\n\n"
    runtime = worker.load("env", env=((b"FIXED", b"1"),))
    result = invoke(runtime, env=((b"ASKED", b"a=b"),))
    assert b"FIXED=1" in result.stdout
    assert b"ASKED=a=b" in result.stdout
    assert b"ASKED" not in invoke(runtime).stdout


def test_every_invocation_starts_from_nothing(worker: Worker) -> None:
    wat = f"""(module {EXIT} (memory (export "memory") 1) (global $g (mut i32) (i32.const 0))
        (table 2 10 funcref)
        (func (export "_start")
            (if (i32.or (i32.load (i32.const 65000)) (i32.or (global.get $g) (i32.ne (memory.size) (i32.const 1))))
                (then (call $exit (i32.const 9))))
            (i32.store (i32.const 65000) (i32.const 1)) (global.set $g (i32.const 1))
            (drop (memory.grow (i32.const 5)))
            (i32.store (i32.const 300000) (i32.const 1))))"""
    runtime = worker.load(wat)
    for _ in range(50):
        assert invoke(runtime).outcome is Outcome.COMPLETED


def test_a_guest_that_exports_no_memory_may_call_the_host(worker: Worker) -> None:
    """Once it has returned, there is nobody left to ask how much memory it used."""
    yielding = f'(module (import "{WASI}" "sched_yield" (func $y (result i32))) (func (export "_start") BODY))'
    for memory in ("", "(memory 1)"):
        runtime = worker.load(
            yielding.replace("BODY", "(drop (call $y))").replace("(func (exp", f"{memory} (func (exp")
        )
        for _ in range(3):
            result = invoke(runtime)
            assert (result.outcome, result.memory_bytes) == (Outcome.COMPLETED, 0)


def test_usage_is_reported(worker: Worker) -> None:
    result = worker.run(start("(drop (memory.grow (i32.const 3)))"))
    assert result.memory_bytes == 4 * 65536
    assert result.guest_ns > 0
    assert result.instantiate_ns > 0


def test_without_start_the_run_is_over_at_once_as_in_wazero(worker: Worker) -> None:
    assert worker.run("(module)").outcome is Outcome.COMPLETED
    assert worker.run('(module (memory (export "memory") 1) (func (export "main") unreachable))').outcome is (
        Outcome.COMPLETED
    )


def test_results_of_start_are_ignored(worker: Worker) -> None:
    wat = '(module (func (export "_start") (result i32 i64) (i32.const 1) (i64.const 2)))'
    assert worker.run(wat).outcome is Outcome.COMPLETED


def test_a_start_function_can_write(worker: Worker) -> None:
    wat = f"""(module {WRITE} (memory (export "memory") 1) (data (i32.const 0) "\\10\\00\\00\\00\\02\\00\\00\\00")
        (data (i32.const 16) "hi")
        (func $s (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))) (start $s))"""
    result = worker.run(wat)
    assert (result.outcome, result.stdout) == (Outcome.COMPLETED, b"hi")


def test_stderr_is_kept_apart(worker: Worker) -> None:
    result = worker.run("stderr", args=(b"one",))
    assert result.outcome is Outcome.COMPLETED
    assert (result.stderr, result.stderr_total) == (b"one\n", 4)
    assert result.stdout == b"done\n"


# how guests end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "outcome"), [(0, Outcome.COMPLETED), (1, Outcome.EXIT_NONZERO), (0xFFFF_FFFF, Outcome.EXIT_NONZERO)]
)
def test_exit_codes(worker: Worker, code: int, outcome: Outcome) -> None:
    result = worker.run(start(f"(call $exit (i32.const {code}))", imports=EXIT))
    assert (result.outcome, result.exit_code) == (outcome, code)
    assert result.detail == ("" if code == 0 else f"module closed with exit_code({code})")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const 65536)))", "out of bounds memory access"),
        ("(memory.fill (i32.const 0) (i32.const 0) (i32.const 65537))", "out of bounds memory access"),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", "integer divide by zero"),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", "integer overflow"),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", "invalid conversion to integer"),
        ("(drop (i32.trunc_f32_s (f32.const 1e30)))", "integer overflow"),
        ("(call_indirect (type $t) (i32.const 0))", "invalid table access"),
        ("(call_indirect (type $t) (i32.const 99))", "invalid table access"),
        ("(call_indirect (type $u) (i32.const 1))", "indirect call type mismatch"),
        ("(call $deep)", "stack overflow: more than 1 MiB (wasm.stack) in use"),
    ],
)
def test_traps_have_wazeros_words(worker: Worker, body: str, text: str) -> None:
    """wazero, internal/wasmruntime/errors.go."""
    rest = "(type $t (func)) (type $u (func (param))) (type $v (func (result i32)))"
    body = body.replace("$u", "$v") if "$u" in body else body
    wat = f"""(module {rest} (memory (export "memory") 1) (table 2 funcref) (elem (i32.const 1) $deep)
        (func $deep (call $deep)) (func (export "_start") {body} {"drop" if "$v" in body else ""}))"""
    result = worker.run(wat)
    assert (result.outcome, result.detail) == (Outcome.TRAPPED, f"wasm error: {text}")
    assert not result.retire


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (b"unreachable", "unreachable"),
        (b"div", "integer divide by zero"),
        (b"memory", "out of bounds memory access"),
        (b"indirect", "invalid table access"),
        (b"abort", "unreachable"),
    ],
)
def test_a_c_program_that_traps_keeps_what_it_wrote(worker: Worker, how: bytes, text: str) -> None:
    result = worker.run("trap", args=(how,))
    assert (result.outcome, result.detail, result.stdout) == (Outcome.TRAPPED, f"wasm error: {text}", b"before\n")


def test_output_beyond_the_limit(worker: Worker) -> None:
    body = "(loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))"
    wat = f"""(module {WRITE} (memory (export "memory") 1) (data (i32.const 4) "\\e8\\03")
        (func (export "_start") {body}))"""
    result = worker.run(wat, limits=Limits(stdout_bytes=2500))
    assert result.outcome is Outcome.OUTPUT_EXCEEDED
    assert result.detail == "wrote more than 2500 bytes (stdoutLimit) to stdout"
    assert result.limit == "stdoutLimit"
    assert len(result.stdout) == 2000


@pytest.mark.parametrize(
    "body", ["(loop (br 0))", "(loop (call $start) (br 0))", "(call $yielding)", "(call $sleeping)", "(call $random)"]
)
def test_the_deadline_ends_every_kind_of_work(worker: Worker, body: str) -> None:
    wat = f"""(module
        (import "{WASI}" "sched_yield" (func $yield (result i32)))
        (import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "{WASI}" "random_get" (func $fill (param i32 i32) (result i32)))
        (memory (export "memory") 1000)
        (func $start)
        (func $yielding (loop (drop (call $yield)) (br 0)))
        (func $sleeping (i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const -1))
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))
        (func $random (loop (drop (call $fill (i32.const 0) (i32.const 65536000))) (br 0)))
        (func (export "_start") {body}))"""
    result = worker.run(wat, seconds=0.15)
    assert result.outcome is Outcome.DEADLINE_EXCEEDED
    assert result.detail == "module closed with context deadline exceeded"


def test_a_deadline_in_the_past_runs_nothing(worker: Worker) -> None:
    result = worker.run(start("(loop (br 0))"), seconds=-1)
    assert result.outcome is Outcome.DEADLINE_EXCEEDED
    assert result.guest_ns == 0


def test_a_deadline_during_instantiation(worker: Worker) -> None:
    result = worker.run("(module (func $s (loop (br 0))) (start $s))", seconds=0.1)
    assert result.outcome is Outcome.DEADLINE_EXCEEDED


def test_late_ticks_do_not_end_the_next_invocation(worker: Worker) -> None:
    """Overdue and short invocations in turn: the short ones all complete."""
    spin = """(module (import "wasi_snapshot_preview1" "args_sizes_get" (func $n (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (local i32) (drop (call $n (i32.const 0) (i32.const 4)))
            (if (i32.gt_u (i32.load (i32.const 0)) (i32.const 1)) (then (loop (br 0))))
            (loop (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                (br_if 0 (i32.lt_u (local.get 0) (i32.const 20000))))))"""
    runtime = worker.load(spin)
    for number in range(20):
        overdue = invoke(runtime, number=number, seconds=0.01, args=(b"forever",))
        assert overdue.outcome is Outcome.DEADLINE_EXCEEDED
        for _ in range(20):
            assert invoke(runtime, number=number).outcome is Outcome.COMPLETED


@pytest.mark.parametrize("guest", ["(loop (br 0))", "sleep"])
def test_an_invocation_is_cancelled_by_its_number(worker: Worker, guest: str) -> None:
    imports = f'(import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'
    sleep = """(i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const -1))
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))"""
    runtime = worker.load(start(sleep if guest == "sleep" else guest, imports=imports))
    runtime.interrupt(1)
    stop = threading.Event()

    def cancel() -> None:
        while not stop.is_set():
            runtime.interrupt(2)
            stop.wait(0.01)

    thread = threading.Thread(target=cancel)
    thread.start()
    result = invoke(runtime, number=2)
    stop.set()
    thread.join()
    assert result.outcome is Outcome.CANCELLED
    assert invoke(runtime, number=3, seconds=0.05).outcome is Outcome.DEADLINE_EXCEEDED


def test_stack_overflow_leaves_the_process_usable(worker: Worker) -> None:
    runtime = worker.load(
        "(module (func $f (param i64 i64) (call $f (local.get 1) (local.get 0)))"
        ' (func (export "_start") (call $f (i64.const 1) (i64.const 2))))'
    )
    for _ in range(5):
        result = invoke(runtime)
        assert (result.outcome, result.detail) == (
            Outcome.TRAPPED,
            "wasm error: stack overflow: more than 1 MiB (wasm.stack) in use",
        )


# memory ---------------------------------------------------------------------------------------------------------------


def test_growth_stops_at_the_limit(worker: Worker) -> None:
    body = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))"
    result = worker.run(start(body), limits=Limits(memory_bytes=4 * MIB))
    assert result.outcome is Outcome.COMPLETED
    assert result.memory_bytes == 4 * MIB


@pytest.mark.parametrize(("end", "code"), [("unreachable", 0), ("(call $exit (i32.const 3))", 3)])
def test_failing_for_want_of_memory(worker: Worker, end: str, code: int) -> None:
    body = f"(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) {end}"
    result = worker.run(start(body, imports=EXIT), limits=Limits(memory_bytes=4 * MIB))
    assert (result.outcome, result.exit_code) == (Outcome.MEMORY_EXCEEDED, code)
    assert result.detail.endswith("; 4 MiB of memory were in use of 4 MiB (memoryLimit)")
    assert result.limit == "memoryLimit"


def test_failing_with_memory_to_spare(worker: Worker) -> None:
    result = worker.run(start("(drop (memory.grow (i32.const 10))) unreachable"), limits=Limits(memory_bytes=4 * MIB))
    assert result.outcome is Outcome.TRAPPED


@pytest.mark.parametrize("memory", ['(memory (export "memory") 65)', "(memory 65)"])
def test_a_memory_that_begins_above_the_limit(worker: Worker, memory: str) -> None:
    result = worker.run(start("", memory=memory), limits=Limits(memory_bytes=4 * MIB))
    assert (result.outcome, result.limit) == (Outcome.MEMORY_EXCEEDED, "memoryLimit")
    assert "memory to begin with" in result.detail
    assert "4 MiB (memoryLimit)" in result.detail


def test_a_table_above_the_limit(worker: Worker) -> None:
    result = worker.run("(module (table 2000 funcref))", limits=Limits(table_elements=1000))
    assert (result.outcome, result.limit) == (Outcome.MEMORY_EXCEEDED, "tableElements")
    assert result.detail == "the module needs more table elements to begin with than 1000 (tableElements)"


# loading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wat", "text"),
    [
        ('(module (import "env" "f" (func)))', r"module\[env\] not instantiated: the guest imports env\.f"),
        (
            '(module (import "wasi_unstable" "fd_write" (func)))',
            r"module\[wasi_unstable\] not instantiated.*wasm32-wasip1",
        ),
        ('(module (import "types" "nothing" (func)))', '"nothing" is not exported in module "types"'),
        (f'(module (import "{WASI}" "nothing" (func)))', f'"nothing" is not exported in module "{WASI}"'),
        (f'(module (import "{WASI}" "fd_write" (func)))', "imports do not fit.*fd_write"),
        ('(module (memory (export "memory") i64 1))', "64-bit"),
        ('(module (func (export "memory")))', "not a memory"),
        ('(module (func (export "_start") (param i32)))', "not a function without parameters"),
        ('(module (memory (export "_start") 1))', "not a function without parameters"),
    ],
)
def test_guests_that_cannot_be_linked(worker: Worker, wat: str, text: str) -> None:
    with pytest.raises(GuestError, match=text):
        worker.load(wat)


def test_an_artifact_that_is_none(worker: Worker, tmp_path: Path) -> None:
    broken = tmp_path / "broken.cwasm"
    broken.write_bytes(b"\0asm\1\0\0\0")
    with pytest.raises(GuestError, match="the artifact does not load"):
        guests.load(worker.engine, GuestSpec(binding="b", kind="module", artifact=str(broken), argv0=b"b"))
    with pytest.raises(GuestError, match="does not load"):
        guests.load(worker.engine, GuestSpec(binding="b", kind="module", artifact=str(tmp_path / "no"), argv0=b"b"))
    with pytest.raises(GuestError, match="neither"):
        guests.load(worker.engine, GuestSpec(binding="b", kind="script", artifact=str(broken), argv0=b"b"))


def test_bad_arguments_are_the_callers_fault(worker: Worker) -> None:
    result = worker.run("args", args=(b"a\0b",))
    assert (result.outcome, result.detail) == (Outcome.BAD_REQUEST, "args or env invalid: contains NUL character")


def test_a_guest_that_is_not_there(worker: Worker) -> None:
    runtime = Runtime(worker.engine, [None], OutboundSettings()).start()
    worker.runtimes.append(runtime)
    for index in (0, 1, -1):
        result = runtime.run(Invoke(id=5, guest=index, deadline_ns=1 << 62))
        assert (result.id, result.outcome) == (5, Outcome.HOST_FAILED)


def test_a_failing_host_function_retires_the_worker(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(size: int) -> bytes:
        raise RuntimeError(f"no randomness of {size} bytes in /secret/path")

    monkeypatch.setattr("hostfuncs.wasip1.sources.SystemSources.random", staticmethod(broken))
    imports = f'(import "{WASI}" "random_get" (func $r (param i32 i32) (result i32)))'
    result = worker.run(start("(drop (call $r (i32.const 0) (i32.const 8)))", imports=imports))
    assert (result.outcome, result.detail, result.retire) == (Outcome.HOST_FAILED, "internal error", True)
    assert "no randomness of 8 bytes" in capfd.readouterr().err


def test_strict_sandbox_runs_alike_twice(worker: Worker) -> None:
    runtime = worker.load("random", strict_sandbox=True)
    first = invoke(runtime)
    assert first.outcome is Outcome.COMPLETED
    assert invoke(runtime).stdout == first.stdout
    system = worker.load("random")
    assert invoke(system).stdout != invoke(system).stdout


# outbound HTTP --------------------------------------------------------------------------------------------------------

LEGACY = """(module
    (import "types" "log-it" (func $log (param i32 i32)))
    (import "types" "new-outgoing-request" (func $request
        (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "types" "new-fields" (func $fields (param i32 i32) (result i32)))
    (import "types" "future-incoming-response-get" (func $get (param i32 i32)))
    (import "default-outgoing-HTTP" "handle" (func $handle (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "http://") (data (i32.const 16) "AUTHORITY") (data (i32.const 64) "/")
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "_start")
        (call $log (i32.const 16) (i32.const AUTHORITY_LENGTH))
        (call $get
            (call $handle (call $request (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 1)
                (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 16) (i32.const AUTHORITY_LENGTH) (call $fields (i32.const 0) (i32.const 0)))
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
            (i32.const 512))
        (if (i32.load (i32.const 516)) (then unreachable))))"""


def legacy(authority: str) -> str:
    return LEGACY.replace("AUTHORITY_LENGTH", str(len(authority))).replace("AUTHORITY", authority)


def test_a_core_module_reaches_an_origin(worker: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin:
        heard: list[bytes] = []

        def serve() -> None:
            connection, _ = origin.accept()
            with connection:
                heard.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        authority = f"127.0.0.1:{origin.getsockname()[1]}"
        result = worker.run(legacy(authority), allowed_outbound_hosts=(f"http://{authority}",))
        thread.join(10)
    assert result.outcome is Outcome.COMPLETED, result
    assert heard[0].startswith(b"GET / HTTP/1.1\r\n")
    assert result.stderr == authority.encode() + b"\n"
    assert [usage.outcome for usage in result.outbound] == ["ok"]


def test_a_core_module_is_held_to_its_policy(worker: Worker) -> None:
    result = worker.run(legacy("127.0.0.1:9"), allowed_outbound_hosts=())
    assert (result.outcome, result.detail) == (Outcome.TRAPPED, "wasm error: unreachable")
    assert [usage.denied for usage in result.outbound] == ["host"]


def test_a_waiting_request_ends_with_the_deadline(worker: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as origin:
        authority = f"127.0.0.1:{origin.getsockname()[1]}"
        result = worker.run(legacy(authority), seconds=0.3, allowed_outbound_hosts=(f"http://{authority}",))
    assert result.outcome is Outcome.DEADLINE_EXCEEDED


# the engine -----------------------------------------------------------------------------------------------------------


def test_an_artifact_of_the_compiler_loads_in_a_worker_and_back(worker: Worker) -> None:
    compiler = engine.build(EngineSettings(), compiling=True)
    binary = wasmtime.wat2wasm(start(""))
    wasmtime.Module.deserialize(worker.engine, wasmtime.Module(compiler, binary).serialize())
    wasmtime.Module.deserialize(compiler, wasmtime.Module(worker.engine, binary).serialize())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (EngineSettings(max_memory_bytes=0), "max_memory_bytes"),
        (EngineSettings(max_memory_bytes=(4096 * MIB) + 1), "max_memory_bytes"),
        (EngineSettings(max_memories=0), "max_memories"),
        (EngineSettings(max_memories=1001), "max_memories"),
        (EngineSettings(wasm_stack_bytes=1 << 40), "stack"),
    ],
)
def test_settings_that_would_abort_the_process_are_refused(settings: EngineSettings, text: str) -> None:
    from sandboxd.errors import SandboxdError

    with pytest.raises(SandboxdError, match=text):
        engine.build(settings)
