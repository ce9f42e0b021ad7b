"""`hostfuncs.run` and `hostfuncs.Program`: guests of every kind, run with nothing of the server."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hostfuncs
from hostfuncs import HttpRequest, Limits, Outcome, Policy, Program
from hostfuncs import program as program_module
from sandboxd import outcome as server
from tests.guests import path as guest
from tests.guests.cache import PROGRAMS
from tests.host.component_text import component
from tests.origins import Origin
from tests.waiting import until

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "tests/guests/component/wat/hello.wat"
FORGETFUL = b'(module (func (export "_start")) (memory (export "memory") 1))'
EXIT_7 = b"""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 7))))"""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


def test_a_command_of_preview_1() -> None:
    with Program(guest("args"), name="prog") as program:
        assert program.run(args=["one", b"two"]).stdout == b"prog\none\ntwo\n"
        assert program.run().stdout == b"prog\n"
    result = hostfuncs.run(guest("upper"), stdin=b"hello")
    assert (result.outcome, result.exit_code, result.message, result.stdout) == (Outcome.COMPLETED, 0, "", b"HELLO")
    assert result.ok


def test_nothing_of_this_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    with Program(guest("env")) as program:
        assert program.run().stdout == b""
        assert program.run(env={"A": "b=c", "É": b"\xff"}).stdout.splitlines() == [b"A=b=c", "É=".encode() + b"\xff"]


def test_an_exit_code() -> None:
    result = hostfuncs.run(EXIT_7)
    assert (result.outcome, result.exit_code, result.message) == (
        Outcome.EXIT_NONZERO, 7, "module closed with exit_code(7)",
    )  # fmt: skip
    assert not result.ok


@pytest.mark.parametrize(
    ("body", "outcome", "message", "limit"),
    [
        ("unreachable", Outcome.TRAPPED, "wasm error: unreachable", ""),
        ("(loop (br 0))", Outcome.DEADLINE_EXCEEDED, "module closed with context deadline exceeded", "timeout_ms"),
        ("(call $start)", Outcome.TRAPPED,
         "wasm error: stack overflow: more than 1 MiB (wasm_stack_bytes) in use", "wasm_stack_bytes"),
    ],
)  # fmt: skip
def test_what_a_guest_does_is_in_the_result(body: str, outcome: Outcome, message: str, limit: str) -> None:
    text = f'(module (func $start (export "_start") {body}) (memory (export "memory") 1))'
    result = hostfuncs.run(text.encode(), timeout=0.2 if "loop" in body else 20)
    assert (result.outcome, result.message, result.limit) == (outcome, message, limit)


def test_a_limit_is_named_by_its_field() -> None:
    result = hostfuncs.run(guest("cat"), stdin=b"x" * 2000, limits=Limits(stdout_bytes=1024))
    assert (result.outcome, result.limit) == (Outcome.OUTPUT_EXCEEDED, "stdout_bytes")
    assert result.message == "wrote more than 1 KiB (stdout_bytes) to stdout"
    result = hostfuncs.run(b'(module (memory (export "memory") 3))', limits=Limits(memory_bytes=65536))
    assert (result.outcome, result.limit) == (Outcome.MEMORY_EXCEEDED, "memory_bytes")


@pytest.mark.parametrize("limit", hostfuncs.Limit)
def test_every_limit_is_a_setting_of_the_server_too(limit: hostfuncs.Limit) -> None:
    from sandboxd.limits.keys import key_of

    assert key_of(limit)


def test_every_outcome_is_one_of_the_server_too() -> None:
    assert {outcome.value for outcome in Outcome} <= {outcome.value for outcome in server.Outcome}


def test_a_module_with_two_memories_is_refused_for_each_would_have_the_limit() -> None:
    result = hostfuncs.run(b'(module (memory (export "memory") 1) (memory 1))')
    assert result.outcome is Outcome.MEMORY_EXCEEDED


def test_a_command_of_wasi_0_2() -> None:
    assert hostfuncs.run(HELLO).stdout == b"hello, world\n"


def test_a_component_that_returns_an_error() -> None:
    result = hostfuncs.run(component("(i32.const 1)").encode())
    assert (result.outcome, result.exit_code) == (Outcome.EXIT_NONZERO, 1)


@pytest.mark.build
def test_a_handler(origin: Origin) -> None:
    from tests.guests.component.build import python_component

    policy = Policy.parse([origin.url("")])
    with Program(python_component("proxy", "proxy"), policy=policy, cache=PROGRAMS) as program:
        with pytest.raises(ValueError, match="request: the guest handles requests"):
            program.run()
        request = HttpRequest(
            method="POST", url="https://a.test:8443/describe?q=1", headers=[("X-Name", "value")], body=b"body"
        )
        result = program.run(request=request)
    assert result.ok, result
    assert result.response is not None
    assert result.response.status == 201  # what tests/guests/component/proxy.py says
    described = json.loads(result.response.body)
    assert (described["method"], described["path"]) == ("POST", "/describe?q=1")
    assert result.stdout.startswith(b"called with /describe?q=1")


def test_a_request_for_a_guest_that_takes_none() -> None:
    with pytest.raises(ValueError, match="request: the guest is a core module"):
        hostfuncs.run(FORGETFUL, request=HttpRequest())
    with pytest.raises(ValueError, match="the component handles no requests"):
        hostfuncs.run(HELLO, request=HttpRequest())


@pytest.mark.build
def test_a_guest_calls_out_where_the_policy_lets_it(origin: Origin) -> None:
    from tests.host.legacy_guests import c_client

    with Program(c_client(), policy=Policy.parse([f"http://{origin.authority}"])) as program:
        for _ in range(3):
            result = program.run(args=[origin.url("/bytes/5")])
            assert result.ok, result
            assert [(record.outcome, record.denied) for record in result.outbound] == [("ok", "")]
    closed = hostfuncs.run(c_client(), args=[origin.url("/bytes/5")])
    assert [record.denied for record in closed.outbound] == ["host"]


@pytest.mark.build
def test_within_an_event_loop_guests_that_make_requests_are_told_where_to_run(origin: Origin) -> None:
    from tests.host.legacy_guests import c_client

    async def main(program: Program) -> None:
        with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread"):
            program.run(args=[origin.url("/bytes/5")])
        assert (await asyncio.to_thread(program.run, args=[origin.url("/bytes/5")])).ok

    with Program(c_client(), policy=Policy.parse([origin.url("")])) as program:
        asyncio.run(main(program))
    with Program(guest("upper")) as plain:

        async def shout() -> bytes:
            return plain.run(stdin=b"x").stdout

        assert asyncio.run(shout()) == b"X"


def test_threads_run_one_program_at_the_same_time() -> None:
    with Program(guest("upper")) as program, ThreadPoolExecutor(8) as pool:
        texts = [f"text {number}".encode() for number in range(200)]
        results = pool.map(lambda text: program.run(stdin=text).stdout, texts)
        assert list(results) == [text.upper() for text in texts]


def test_a_deadline_ends_only_its_own_run() -> None:
    """Two threads: guests that compute for ever in one, short ones in the other, in one engine."""
    with Program(guest("loop")) as endless, Program(guest("upper")) as short:
        results: list[Outcome] = []
        thread = threading.Thread(target=lambda: results.extend(endless.run(timeout=0.05).outcome for _ in range(5)))
        thread.start()
        while thread.is_alive():
            assert short.run(stdin=b"a").stdout == b"A"
        thread.join()
    assert results == [Outcome.DEADLINE_EXCEEDED] * 5


@pytest.mark.parametrize("timeout", [0, -1, -float("inf")])
def test_a_deadline_that_has_passed(timeout: float) -> None:
    with Program(guest("upper")) as program:
        assert program.run(stdin=b"a", timeout=timeout).outcome is Outcome.DEADLINE_EXCEEDED
        assert program.run(stdin=b"a").stdout == b"A"


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 1e10, 10**400])
def test_a_timeout_that_is_no_number_of_seconds(timeout: float) -> None:
    with Program(FORGETFUL) as program, pytest.raises(ValueError, match="timeout is not a number up to 1000000000"):
        program.run(timeout=timeout)


@pytest.mark.parametrize(
    "wasm",
    [b"", b"\0asm", b"\0asm\1\0\0\0\xff", b"\0asm\x0d\0\1\0\xff", b"text", b"(module", b"(" * 100_000, b"(\xff)",
     b'(module (import "a" "b" (func)))', b'(module (import "types" "no" (func)))',
     b'(module (memory (export "memory") i64 1))', b'(module (func (export "_start") (param i32)))', b"(component)"],
)  # fmt: skip
def test_what_is_no_guest_is_refused(wasm: bytes) -> None:
    with pytest.raises(hostfuncs.GuestError):
        Program(wasm)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"args": "one"}, TypeError), ({"args": [1]}, TypeError), ({"args": 1}, TypeError),
        ({"args": ["\0"]}, ValueError), ({"args": ["\ud800"]}, ValueError),
        ({"env": [("a", "b")]}, TypeError), ({"env": {"a": 1}}, TypeError), ({"env": {"": "b"}}, ValueError),
        ({"env": {"a=b": "c"}}, ValueError), ({"env": {"a": "\0"}}, ValueError),
        ({"stdin": "text"}, TypeError), ({"stdin": None}, TypeError), ({"timeout": "1"}, TypeError),
        ({"timeout": True}, TypeError), ({"timeout": None}, TypeError), ({"request": "GET /"}, TypeError),
    ],
)  # fmt: skip
def test_wrong_arguments_of_a_run(arguments: dict[str, object], error: type[Exception]) -> None:
    with Program(guest("upper")) as program:
        with pytest.raises(error, match=f"^{next(iter(arguments))}"):
            program.run(**arguments)  # type: ignore[arg-type]
        assert program.run(stdin=b"a").stdout == b"A"


@pytest.mark.parametrize(
    "arguments",
    [{"name": 1}, {"limits": 5}, {"limits": {}}, {"policy": "*"}, {"outbound": {}}, {"wasm": 5}, {"wasm": None},
     {"mounts": 1}, {"mounts": [1]}, {"tmp": 1}],
)  # fmt: skip
def test_wrong_arguments_of_a_program(arguments: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=f"^{next(iter(arguments))}"):
        Program(**{"wasm": FORGETFUL, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 1 << 63, 1 << 64, 10**30])
@pytest.mark.parametrize("field", ["memory_bytes", "stdout_bytes", "table_elements", "outbound_body_bytes"])
def test_limits_beyond_what_can_be_enforced_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} is"):
        Limits(**{field: value})


@pytest.mark.parametrize("value", [1.5, "1", None, True])
def test_limits_are_whole_numbers(value: object) -> None:
    with pytest.raises(TypeError, match=r"memory_bytes is .*, not a whole number"):
        Limits(memory_bytes=value)  # type: ignore[arg-type]


def test_limits_of_nothing_and_of_everything() -> None:
    nothing = Limits(**dict.fromkeys(Limits.__dataclass_fields__, 0))
    assert hostfuncs.run(FORGETFUL, limits=nothing).outcome is Outcome.MEMORY_EXCEEDED
    assert hostfuncs.run(b"(module)", limits=nothing).ok
    everything = dict.fromkeys(Limits.__dataclass_fields__, 1 << 40)
    everything |= {"memory_bytes": 1 << 32, "table_elements": (1 << 32) - 1}
    assert hostfuncs.run(guest("upper"), stdin=b"a", limits=Limits(**everything)).stdout == b"A"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: hostfuncs.Mount(source=5, target="/d"), TypeError),
        (lambda: hostfuncs.Mount(source=".", target=None), TypeError),
        (lambda: hostfuncs.Mount(source=".", target="d"), ValueError),
        (lambda: hostfuncs.Tmp(target=b"/t", size=1, files=1), TypeError),
        (lambda: hostfuncs.Tmp(target="/t", size="1", files=1), TypeError),
        (lambda: hostfuncs.Tmp(target="/t", size=1, files=None), TypeError),
        (lambda: hostfuncs.Tmp(target="/t", size=-1, files=1), ValueError),
    ],
)
def test_folders_that_cannot_be(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_a_closed_program_does_not_run() -> None:
    program = Program(guest("upper"))
    program.close()
    program.close()
    with pytest.raises(RuntimeError, match="the program is closed"):
        program.run()


def test_closing_does_not_disturb_a_run_of_another_thread() -> None:
    program = Program(guest("loop"))
    results: list[Outcome] = []
    thread = threading.Thread(target=lambda: results.append(program.run(timeout=2).outcome))
    thread.start()
    until(lambda: program_module._running, "the guest runs")
    program.close()
    thread.join()
    assert results == [Outcome.DEADLINE_EXCEEDED]


def test_one_compiled_guest_with_other_limits() -> None:
    with Program(guest("cat")) as program, program.configured(limits=Limits(stdout_bytes=1)) as narrow:
        assert narrow.run(stdin=b"ab").outcome is Outcome.OUTPUT_EXCEEDED
        assert program.run(stdin=b"ab").stdout == b"ab"
        program.close()
        assert narrow.run(stdin=b"a").stdout == b"a"


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        Program("/no/such/guest.wasm")


def test_public_names_are_documented_and_load_late() -> None:
    import subprocess

    for name in hostfuncs.__all__:
        assert getattr(hostfuncs, name).__doc__, name
        assert name in dir(hostfuncs)
    with pytest.raises(AttributeError):
        hostfuncs.nothing  # noqa: B018
    code = "import sys, hostfuncs; hostfuncs.Limits, hostfuncs.Outcome; print('wasmtime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
