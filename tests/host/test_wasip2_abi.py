"""Components written as text: what guests can do to the host's functions that no compiler would let them."""

import resource

import pytest

from hostfuncs.wasip2 import io_poll
from sandboxd.limits import MIB, Limits
from tests.host.component_text import component
from tests.host.components import Components

OK = "(i32.const 0)"


@pytest.mark.parametrize("version", ["0.2.0", "0.2.1", "0.2.6", "0.2.12"])
def test_every_minor_version_of_0_2_is_called(components: Components, version: str) -> None:
    text = component(
        f"(call $say (i32.const 2048) (i32.const 5)) {OK}", version=version, extra='(data (i32.const 2048) "hello")'
    )
    with components.load(text) as guest:
        result = guest.run()
    assert (result.outcome, result.stdout) == ("completed", b"hello")


def test_a_guest_runs_again_and_again_with_nothing_left_over(components: Components) -> None:
    with components.wat("hello") as guest:
        for _ in range(200):
            assert guest.run().stdout == b"hello, world\n"


@pytest.mark.parametrize(
    ("body", "outcome", "code"),
    [
        ("(i32.const 0)", "completed", 0),
        ("(i32.const 1)", "exit_nonzero", 1),
        ("(call $exit (i32.const 0)) (unreachable)", "completed", 0),
        ("(call $exit (i32.const 1)) (unreachable)", "exit_nonzero", 1),
    ],
)
def test_how_a_run_ends_decides_the_exit_code(components: Components, body: str, outcome: str, code: int) -> None:
    with components.load(component(body)) as guest:
        result = guest.run()
    assert (result.outcome, result.exit_code) == (outcome, code)
    assert result.detail == (f"module closed with exit_code({code})" if code else "")


# The list of pollables is at 2048, the resulting list's (pointer, length) at 1024.
POLL_TWICE = """
  (local.set $a (call $subscribe (call $stdin)))
  (i32.store (i32.const 2048) (local.get $a))
  (i32.store (i32.const 2052) (local.get $b))
  (call $poll (i32.const 2048) (i32.const {count}) (i32.const 1024))
  (call $say (i32.load (i32.const 1024)) (i32.mul (i32.load (i32.const 1028)) (i32.const 4)))
  (i32.const 0)"""


def test_a_pollable_may_be_in_the_list_twice(components: Components) -> None:
    body = POLL_TWICE.replace("(local.get $b)", "(local.get $a)").format(count=2)
    with components.load(component(body)) as guest:
        result = guest.run()
    assert (result.outcome, result.stdout) == ("completed", bytes([0, 0, 0, 0, 1, 0, 0, 0]))


def test_a_poll_list_without_end_traps(components: Components) -> None:
    # Each element costs the host time that the deadline cannot end.
    body = """(local.set $a (call $after (i64.const -1)))
      (drop (memory.grow (i32.const 8)))
      (local.set $b (i32.const 524288))
      (loop $l (i32.store (local.get $b) (local.get $a)) (local.set $b (i32.add (local.get $b) (i32.const 4)))
        (br_if $l (i32.lt_u (local.get $b) (i32.const 1048576))))
      (call $poll (i32.const 524288) (i32.const 65537) (i32.const 1024))
      (i32.const 0)"""
    with components.load(component(body)) as guest:
        result = guest.run()
    assert (result.outcome, result.detail) == (
        "trapped",
        "wasm error: a list of 65537 elements, at most 65536 are taken",
    )


def test_an_empty_poll_list_traps(components: Components) -> None:
    with components.load(component(POLL_TWICE.format(count=0))) as guest:
        result = guest.run()
    assert (result.outcome, result.detail) == ("trapped", "wasm error: wasi:io/poll poll: empty list")


@pytest.mark.parametrize("stale", ["(i32.const 77)", "(i32.const 0)", "(i32.const -1)", "(call $stdin)"])
def test_a_forged_handle_ends_the_guest_only(components: Components, stale: str) -> None:
    body = f"(drop (call $ready {stale})) {OK}"
    with components.load(component(body)) as guest:
        result = guest.run()
        assert result.outcome == "trapped"
        assert not result.retire
        assert guest.run().outcome == "trapped"


def test_a_dropped_handle_cannot_be_used(components: Components) -> None:
    body = f"""(local.set $a (call $after (i64.const 1)))
      (call $drop-pollable (local.get $a)) (call $block (local.get $a)) {OK}"""
    with components.load(component(body)) as guest:
        assert guest.run().outcome == "trapped"


def test_a_stream_cannot_be_dropped_before_its_pollable(components: Components) -> None:
    # wasmtime: test program cli_stream_pollable_lifetimes, argument "trap".
    body = f"""(local.set $a (call $stdin)) (local.set $b (call $subscribe (local.get $a)))
      (block $wrong (br_if $wrong (i32.eqz (call $ready (local.get $b)))) (call $drop-in (local.get $a))) {OK}"""
    with components.load(component(body)) as guest:
        result = guest.run()
    assert (result.outcome, result.detail) == (
        "trapped",
        "wasm error: input-stream ended while 1 resource(s) made from it are alive",
    )


def test_the_other_order_is_fine(components: Components) -> None:
    body = f"""(local.set $a (call $stdin)) (local.set $b (call $subscribe (local.get $a)))
      (call $drop-pollable (local.get $b)) (call $drop-in (local.get $a)) {OK}"""
    with components.load(component(body)) as guest:
        assert guest.run().outcome == "completed"


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (
            "(call $write (call $stdout) (i32.const 2048) (i32.const 65537) (i32.const 1024))",
            "wasi:io/streams write: more than check-write permitted",
        ),
        (
            "(call $blocking-write (call $stdout) (i32.const 2048) (i32.const 4097) (i32.const 1024))",
            "wasi:io/streams blocking-write-and-flush: 4097 bytes, at most 4096",
        ),
        (
            "(call $zeroes (call $stdout) (i64.const 0x7fffffffffffffff) (i32.const 1024))",
            "wasi:io/streams write-zeroes: more than check-write permitted",
        ),
        (
            "(call $random (i64.const 1048577) (i32.const 1024))",
            "wasi:random: 1048577 bytes asked for at once, at most 1048576",
        ),
    ],
)
def test_more_than_is_permitted_traps(components: Components, call: str, why: str) -> None:
    with components.load(component(f"{call} {OK}")) as guest:
        result = guest.run()
    assert (result.outcome, result.detail) == ("trapped", f"wasm error: {why}")


def test_what_is_permitted_is_taken(components: Components) -> None:
    body = """(local.set $a (call $stdout))
      (call $check (local.get $a) (i32.const 1024))
      (local.set $x (i64.load (i32.const 1032)))
      (call $zeroes (local.get $a) (local.get $x) (i32.const 1040))
      (call $write (local.get $a) (i32.const 2048) (i32.wrap_i64 (local.get $x)) (i32.const 1040))
      (call $random (i64.const 1048576) (i32.const 1024))
      (i32.ne (i32.load (i32.const 1028)) (i32.const 1048576))"""
    with components.load(component(body)) as guest:
        result = guest.run()
    assert (result.outcome, result.stdout) == ("completed", bytes(2 * 65536))


def test_a_huge_list_ends_the_guest_and_does_not_fill_the_host(components: Components) -> None:
    body = f"""(drop (memory.grow (i32.const 3000)))
      (call $write (call $stdout) (i32.const 0) (i32.const 190000000) (i32.const 1024)) {OK}"""
    with components.load(component(body)) as guest:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = guest.run()
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert result.outcome == "trapped"
    assert grown_kib < 300 * 1024


@pytest.mark.parametrize(("pointer", "length"), [(0x7FFFFFFF, 1000), (-8, 100), (16 * 65536 - 10, 4096)])
def test_a_list_outside_memory_traps(components: Components, pointer: int, length: int) -> None:
    body = f"(call $write (call $stdout) (i32.const {pointer}) (i32.const {length}) (i32.const 1024)) {OK}"
    with components.load(component(body)) as guest:
        assert guest.run().outcome == "trapped"


def test_handles_are_bounded(components: Components) -> None:
    body = "(loop $l (drop (call $stdout)) (br $l)) (unreachable)"
    with components.load(component(body), limits=Limits(host_entries=100)) as guest:
        result = guest.run()
    assert (result.outcome, result.detail) == (
        "trapped",
        "wasm error: more than 100 host resources alive at once (hostEntries)",
    )


def test_dropped_handles_do_not_count(components: Components) -> None:
    body = f"""(loop $l (call $drop-out (call $stdout))
      (local.set $a (i32.add (local.get $a) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $a) (i32.const 5000)))) {OK}"""
    with components.load(component(body), limits=Limits(host_entries=2)) as guest:
        assert guest.run().outcome == "completed"


@pytest.mark.parametrize(
    "body",
    [
        "(call $block (call $after (i64.const -1)))",
        "(loop $l (br_if $l (i32.eqz (call $ready (call $after (i64.const 0x7fffffffffffffff))))))",
        "(loop $l (br $l))",
        """(i32.store (i32.const 2048) (call $after (i64.const -1)))
           (call $poll (i32.const 2048) (i32.const 1) (i32.const 1024))""",
    ],
    ids=["block", "ask again and again", "compute", "poll"],
)
def test_the_deadline_ends_every_kind_of_waiting(components: Components, body: str) -> None:
    with components.load(component(f"{body} {OK}"), limits=Limits(host_entries=10_000_000)) as guest:
        result = guest.run(timeout_s=0.1)
        assert (result.outcome, result.detail) == (
            "deadline_exceeded",
            "module closed with context deadline exceeded",
        )
        assert guest.run(timeout_s=0.1).outcome == "deadline_exceeded"


def test_a_timer_among_others_wakes_poll(components: Components) -> None:
    body = """
      (i32.store (i32.const 2048) (call $after (i64.const -1)))
      (i32.store (i32.const 2052) (call $after (i64.const 2000000)))
      (call $poll (i32.const 2048) (i32.const 2) (i32.const 1024))
      (i32.ne (i32.load (i32.load (i32.const 1024))) (i32.const 1))"""
    with components.load(component(body)) as guest:
        assert guest.run().outcome == "completed"


def test_stdin_goes_through_splice(components: Components) -> None:
    data = bytes(range(256)) * 1000
    body = """(local.set $a (call $stdin)) (local.set $b (call $stdout))
      (loop $l (call $splice (local.get $b) (local.get $a) (i64.const -1) (i32.const 1024))
        (br_if $l (i32.eqz (i32.load8_u (i32.const 1024)))))
      ;; the error must be `closed`
      (i32.ne (i32.load8_u (i32.const 1032)) (i32.const 1))"""
    with components.load(component(body)) as guest:
        result = guest.run(stdin=data)
    assert (result.outcome, result.stdout) == ("completed", data)


def test_reading_zero_bytes_is_not_the_end(components: Components) -> None:
    body = """(local.set $a (call $stdin))
      (call $read (local.get $a) (i64.const 0) (i32.const 1024))
      (if (i32.load8_u (i32.const 1024)) (then (unreachable)))
      (call $read (local.get $a) (i64.const 2) (i32.const 1024))
      (call $say (i32.load (i32.const 1028)) (i32.load (i32.const 1032)))
      (i32.const 0)"""
    with components.load(component(body)) as guest:
        assert guest.run(stdin=b"abc").stdout == b"ab"


def test_stdout_beyond_the_limit_ends_the_guest(components: Components) -> None:
    body = f"""(local.set $a (call $stdout))
      (loop $l (call $zeroes (local.get $a) (i64.const 1000) (i32.const 1024)) (br $l)) {OK}"""
    with components.load(component(body), limits=Limits(stdout_bytes=10_500)) as guest:
        result = guest.run()
    assert (result.outcome, result.detail) == ("output_exceeded", "wrote more than 10500 bytes (stdoutLimit) to stdout")
    assert len(result.stdout) == 10_000


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("(unreachable)", "unreachable"),
        ("(i32.load (i32.const -1))", "out of bounds memory access"),
        ("(i32.div_u (i32.const 1) (local.get $a))", "integer divide by zero"),
        ("(call $forever) (i32.const 0)", "stack overflow"),
    ],
)
def test_traps_have_the_words_callers_know(components: Components, body: str, detail: str) -> None:
    text = component(body, extra="(func $forever (call $forever) (call $forever))")
    with components.load(text) as guest:
        result = guest.run()
    assert result.outcome == "trapped"
    assert detail in result.detail
    assert len(result.detail) < 250


def test_a_trap_in_a_start_function_is_a_trap(components: Components) -> None:
    text = component(OK, extra="(func $start (unreachable)) (start $start)")
    with components.load(text) as guest:
        result = guest.run()
    assert (result.outcome, result.detail) == ("trapped", "wasm error: unreachable")


def test_a_start_function_may_call_the_host(components: Components) -> None:
    text = component(
        OK, extra='(data (i32.const 2048) "early") (func $s (call $say (i32.const 2048) (i32.const 5))) (start $s)'
    )
    with components.load(text) as guest:
        assert guest.run().stdout == b"early"


def test_more_memory_than_allowed_to_begin_with(components: Components) -> None:
    with components.load(component(OK), limits=Limits(memory_bytes=MIB // 2)) as guest:
        result = guest.run()
    assert result.outcome == "memory_exceeded"


def test_memory_does_not_grow_beyond_the_limit(components: Components) -> None:
    body = "(i32.ne (memory.grow (i32.const 100)) (i32.const -1))"
    with components.load(component(body), limits=Limits(memory_bytes=2 * MIB)) as guest:
        assert guest.run().outcome == "completed"


def test_strict_clocks_and_random_are_the_same_in_every_run(components: Components) -> None:
    body = """
      (i64.store (i32.const 2048) (call $now)) (i64.store (i32.const 2056) (call $now))
      (call $block (call $after (i64.const 3600000000000)))
      (call $say (i32.const 2048) (i32.const 16))
      (call $random (i64.const 8) (i32.const 1024))
      (call $say (i32.load (i32.const 1024)) (i32.const 8))
      (i32.const 0)"""
    with components.load(component(body), strict_sandbox=True) as guest:
        first, second = guest.run(), guest.run()
    assert first.outcome == "completed"
    assert first.stdout[:16] == (0).to_bytes(8, "little") + (1_000_000).to_bytes(8, "little")
    # Go's rand.New(rand.NewSource(42)).Read, which is what wazero gives guests without a random source.
    assert first.stdout[16:] == bytes.fromhex("538c7f96b164bf1b")
    assert second.stdout == first.stdout


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_no_exception_of_a_host_function_reaches_the_engine(
    components: Components, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """It ends the guest. One that means to end the process does so after the store is deleted."""

    def broken(*_: object) -> bool:
        raise error

    signature, _ = io_poll.INTERFACE.functions["[method]pollable.ready"]
    monkeypatch.setitem(io_poll.INTERFACE.functions, "[method]pollable.ready", (signature, broken))
    with components.load(component(f"(drop (call $ready (call $after (i64.const 0)))) {OK}")) as guest:
        with pytest.raises(type(error)):
            guest.run()
        with pytest.raises(type(error)):
            guest.run()


@pytest.mark.parametrize("wrong", [ValueError("x"), "text", None])
def test_a_broken_host_function_is_the_hosts_fault(
    components: Components, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wrong: object
) -> None:
    def broken(*_: object) -> object:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    signature, _ = io_poll.INTERFACE.functions["poll"]
    monkeypatch.setitem(io_poll.INTERFACE.functions, "poll", (signature, broken))
    with components.load(component(POLL_TWICE.format(count=1))) as guest:
        result = guest.run()
    assert (result.outcome, result.detail, result.retire) == ("host_failed", "internal error", True)
    assert "b: host function failed" in capfd.readouterr().err


def test_zero_bytes_in_arguments_are_a_bad_request(components: Components) -> None:
    with components.wat("hello") as guest:
        assert guest.run("a\0b").outcome == "bad_request"
        assert guest.run(env=((b"A", b"\0"),)).outcome == "bad_request"
        assert guest.run().outcome == "completed"


def test_a_deadline_in_the_past(components: Components) -> None:
    with components.wat("hello") as guest:
        assert guest.run(timeout_s=-1).outcome == "deadline_exceeded"
