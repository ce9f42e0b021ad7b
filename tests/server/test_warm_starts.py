"""Warm starts behind a real server: the answer is that of a cold run, and nothing is left behind."""

import base64
import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests import guests
from tests.process import tree
from tests.running import PATIENT, RunningServer, write_components
from tests.server.warm import INPUTS, LARGE_BODIES, ask, module, pair, same, warm_up
from tests.waiting import until

BYTE_FIRST = """
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) "before:")
  (func $put (param $from i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $from))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
  (func $get (param $most i32) (result i32)
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (local.get $most))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
    (i32.load (i32.const 16)))
  (func (export "_start") (local $first i32) (local $size i32)
    (call $put (i32.const 32) (i32.const 7))
    (local.set $size (call $get (i32.const 1)))
    (local.set $first (i32.load8_u (i32.const 65536)))
    (if (i32.and (local.get $size) (i32.eq (local.get $first) (i32.const 0x74))) (then unreachable))
    (if (i32.and (local.get $size) (i32.eq (local.get $first) (i32.const 0x78))) (then (call $exit (i32.const 7))))
    (if (i32.and (local.get $size) (i32.eq (local.get $first) (i32.const 0x6c))) (then (loop $on (br $on))))
    (loop $more
      (if (local.get $size)
        (then
          (call $put (i32.const 65536) (local.get $size))
          (local.set $size (call $get (i32.const 50000)))
          (br $more))))))
"""
"""Writes, reads one byte, and does what that asks for: trap, exit with 7, loop; or it echoes."""
NEVER_READS = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 32) "done")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 32))
    (i32.store (i32.const 4) (i32.const 4))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))
"""
SAYS_READY = NEVER_READS.replace(
    '(func (export "_start")',
    """
  (func (export "make_ready") (local $left i32)
    (local.set $left (i32.const 10000000))
    (loop $more (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.store8 (i32.const 32) (i32.const 0x44)))
  (func (export "_start")""",
)
"""Its function takes some milliseconds, and makes `done` of what is written `Done`."""
LOOPS_FIRST = '(module (memory (export "memory") 1) (func (export "_start") (loop $on (br $on))))'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("warm")
    documents = [
        *pair("byte", module(folder, "byte", BYTE_FIRST)),
        *pair("late", module(folder, "late", BYTE_FIRST), timeout="2s"),
        *pair("never", module(folder, "never", NEVER_READS)),
        *pair("quick", module(folder, "quick", BYTE_FIRST), instances=0),
        *pair("loops", module(folder, "loops", LOOPS_FIRST), timeout="300ms"),
        *pair("ready", module(folder, "ready", SAYS_READY), warmUntil="make_ready"),
        *pair("random", guests.path("random"), strictSandbox="true"),
    ]
    with RunningServer(
        write_components(folder / "r", documents), "--workers", "2", environ=LARGE_BODIES | PATIENT
    ) as running:
        yield running


def test_the_answer_is_that_of_a_cold_run(server: RunningServer) -> None:
    warm_up(server, "byte-warm")
    for what, stdin in INPUTS.items():
        assert same(server, "byte", stdin) == (200, b"before:" + stdin), what


@pytest.mark.parametrize(
    ("name", "stdin", "words"),
    [("byte", b"t", b"unreachable"), ("byte", b"x", b"exit_code(7)"), ("late", b"l", b"deadline")],
)
def test_traps_exit_codes_and_deadlines_after_the_park(
    server: RunningServer, name: str, stdin: bytes, words: bytes
) -> None:
    warm_up(server, f"{name}-warm")
    status, body = same(server, name, stdin)
    assert status >= 500
    assert words in body


def test_processor_time_is_that_of_the_child(server: RunningServer) -> None:
    warm_up(server, "late-warm")
    before = server.metric("sandboxd_guest_cpu_seconds_total", binding="late-warm")
    assert ask(server, "late-warm", b"l")[0] == 500  # computes until its deadline
    assert server.metric("sandboxd_guest_cpu_seconds_total", binding="late-warm") > before


def test_a_guest_that_needs_no_input_runs_cold_and_the_log_says_so(server: RunningServer) -> None:
    for _ in range(3):
        assert ask(server, "never-warm", b"") == (200, b"done")
    line = server.wait_for(lambda line: line.get("event") == "template" and line.get("binding") == "never-warm")
    assert "before it read stdin" in line["message"]
    until(lambda: server.metric("sandboxd_warm_templates", state="failed") >= 1, "the template is given up")
    assert ask(server, "never-warm", b"") == (200, b"done")
    assert server.metric("sandboxd_warm_misses_total", binding="never-warm", reason="failed") >= 1


def test_a_guest_that_reads_nothing_is_parked_after_the_function_that_makes_it_ready(server: RunningServer) -> None:
    warm_up(server, "ready-warm")
    line = server.wait_for(lambda line: line.get("event") == "template" and line.get("binding") == "ready-warm")
    assert line["message"].endswith("its guest is ready")
    assert same(server, "ready", b"not read") == (200, b"Done")


def test_a_guest_that_starts_quickly_runs_cold_unless_children_are_configured(server: RunningServer) -> None:
    asked = 0

    def given_up() -> bool:
        nonlocal asked
        asked += 1
        assert ask(server, "quick-warm", b"a") == (200, b"before:a")
        return server.metric("sandboxd_warm_misses_total", binding="quick-warm", reason="quick") >= 1

    until(given_up, "the template is given up")
    line = server.wait_for(lambda line: line.get("binding") == "quick-warm" and "starts within" in line["message"])
    assert line["event"] == "template"
    assert server.metric("sandboxd_warm_invocations_total", binding="quick-warm") < asked
    warm_up(server, "byte-warm")  # the same guest, with warmInstances


def test_a_guest_that_hangs_before_its_first_read_is_given_up(server: RunningServer) -> None:
    for _ in range(3):
        assert ask(server, "loops-warm", b"")[0] == 500
    line = server.wait_for(lambda line: line.get("event") == "template" and line.get("binding") == "loops-warm")
    assert "deadline" in line["message"]


def test_the_strict_sandbox_is_the_same_warm_and_cold(server: RunningServer) -> None:
    # It prints random bytes without reading, so it is never parked; what it prints is fixed nevertheless.
    assert ask(server, "random-warm", b"") == ask(server, "random-cold", b"")


def test_callers_that_hang_up_end_the_guest_that_runs_for_them(server: RunningServer) -> None:
    warm_up(server, "byte-warm")
    body = json.dumps({"operation": "execute", "data": base64.b64encode(b"l").decode()}).encode()
    with server.client() as client:
        for _ in range(3):
            with pytest.raises(Exception, match="timed out"):
                client.post("/v1.0/bindings/byte-warm", content=body, timeout=0.1)
    until(lambda: server.metric("sandboxd_pool_workers", state="busy") == 0, "the guests have ended")
    assert same(server, "byte", b"ok") == (200, b"before:ok")


def processes(server: RunningServer) -> list[int]:
    return [pid for pid in server.processes() if pid != server.process.pid]


def group(pid: int) -> int:
    """Return the process group of a process; 0 if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def test_killed_templates_and_children_cost_nobody_an_answer(server: RunningServer) -> None:
    warm_up(server, "byte-warm")
    answered: list[tuple[int, bytes]] = []
    over = threading.Event()

    def call() -> None:
        with server.client() as client:
            body = json.dumps({"operation": "execute", "data": base64.b64encode(b"hello").decode()}).encode()
            for _ in range(60):
                reply = client.post("/v1.0/bindings/byte-warm", content=body)
                answered.append((reply.status_code, reply.content))
        over.set()

    zygote = tree.zygote(server)
    caller = threading.Thread(target=call)
    caller.start()
    turn = 0
    while not over.wait(0.02):
        # Templates lead process groups, which their children are in; workers are in the zygote's.
        below = [pid for pid in tree.children(zygote) if group(pid) not in (0, zygote)]
        if below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(below[turn * 7 % len(below)], signal.SIGKILL)
        turn += 1
    caller.join(60)
    assert len(answered) == 60
    # What a killed process had begun is lost, as everywhere; the others have their answer.
    assert {status for status, _ in answered} <= {200, 500}
    assert all(body == b"before:hello" for status, body in answered if status == 200)
    warm_up(server, "byte-warm", bound_s=180)  # a template that failed again and again is not tried for a minute


def test_nothing_is_left_of_many_runs(server: RunningServer) -> None:
    warm_up(server, "byte-warm")

    def counts() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (server.process.pid, *tree.zygotes(server))]

    def settled() -> bool:
        # One may have been starting at the first look. If each run left something, there would be far more.
        few = all(now <= was + 8 for now, was in zip(counts(), before, strict=True))
        return few and len(processes(server)) <= expected + 1

    for stdin in (b"a", b"t", b"x"):
        ask(server, "byte-warm", stdin)
    until(
        lambda: server.metric("sandboxd_warm_children") == server.metric("sandboxd_warm_templates", state="parked"),
        "each template has its child",
    )
    expected = len(processes(server))
    before = counts()
    body = {
        s: json.dumps({"operation": "execute", "data": base64.b64encode(s).decode()}).encode()
        for s in (b"a", b"t", b"x")
    }
    with server.client() as client:
        for number in range(150):
            client.post("/v1.0/bindings/byte-warm", content=body[(b"a", b"t", b"x")[number % 3]])
    until(settled, "processes and descriptors are as before")
