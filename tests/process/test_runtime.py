"""Invocations of real guests through the code workers run, without the processes around it."""

import socket
import threading
from pathlib import Path

import pytest
import wasmtime

from sandboxd.limits import MIB, EngineSettings, OutboundSettings
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Call, GuestSpec, Invoke
from sandboxd.worker import engine, load
from sandboxd.worker.guests import GuestError
from sandboxd.worker.runtime import LONG_NS, MEASURED_ONE_IN, Runtime
from tests.process.runtimes import EXIT, WASI, WRITE, Worker, invoke, start

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


def test_processor_time_is_that_of_the_guest_and_not_of_its_sleep(worker: Worker) -> None:
    slept = worker.run("sleep", args=(b"300",))
    assert slept.outcome is Outcome.COMPLETED
    assert 0 <= slept.cpu_ns < slept.guest_ns // 2
    computed = worker.run(start("(loop $on (br $on))"), seconds=1)
    assert computed.outcome is Outcome.DEADLINE_EXCEEDED
    assert computed.cpu_ns > slept.cpu_ns


def test_processor_time_of_short_runs_is_measured_now_and_then(worker: Worker) -> None:
    """Each measurement takes two system calls. After a long run, as a busy machine makes of a short one, comes one."""
    runtime = worker.load("tiny")
    results = [invoke(runtime, number=number, stdin=b"x") for number in range(100)]
    left = 0
    for result in results:
        assert (result.cpu_ns >= 0) == (left == 0), result
        left = 0 if result.guest_ns >= LONG_NS else (left or MEASURED_ONE_IN) - 1
    assert sum(result.cpu_ns >= 0 for result in results) >= 100 // MEASURED_ONE_IN


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


def test_a_file_that_is_no_artifact(worker: Worker, tmp_path: Path) -> None:
    broken = tmp_path / "broken.cwasm"
    broken.write_bytes(b"\0asm\1\0\0\0")
    with pytest.raises(GuestError, match="the artifact does not load"):
        load.load(worker.engine, GuestSpec(binding="b", kind="module", artifact=str(broken), argv0=b"b"))
    with pytest.raises(GuestError, match="does not load"):
        load.load(worker.engine, GuestSpec(binding="b", kind="module", artifact=str(tmp_path / "no"), argv0=b"b"))
    with pytest.raises(GuestError, match="neither"):
        load.load(worker.engine, GuestSpec(binding="b", kind="script", artifact=str(broken), argv0=b"b"))


def test_bad_arguments_are_the_callers_fault(worker: Worker) -> None:
    result = worker.run("args", args=(b"a\0b",))
    assert (result.outcome, result.detail) == (Outcome.BAD_REQUEST, "args or env invalid: contains NUL character")


def test_a_guest_that_is_not_there(worker: Worker) -> None:
    runtime = Runtime(worker.engine, [None], OutboundSettings()).start()
    worker.runtimes.append(runtime)
    for index in (0, 1, -1):
        result = runtime.run(Invoke(id=5, guest=index, call=Call(deadline_ns=1 << 62)))
        assert (result.id, result.outcome) == (5, Outcome.HOST_FAILED)


def test_a_failing_host_function_retires_the_worker(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_sources: object) -> int:
        raise RuntimeError("no time in /secret/path")

    monkeypatch.setattr("hostfuncs.wasip1.sources.SystemSources.cpu_time", broken)
    imports = f'(import "{WASI}" "clock_time_get" (func $c (param i32 i64 i32) (result i32)))'
    result = worker.run(start("(drop (call $c (i32.const 2) (i64.const 0) (i32.const 8)))", imports=imports))
    assert (result.outcome, result.detail, result.retire) == (Outcome.HOST_FAILED, "internal error", True)
    assert "no time in /secret/path" in capfd.readouterr().err


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
