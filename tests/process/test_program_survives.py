"""Whatever a script does with `hostfuncs`, its process survives. Each case has a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests import path as guest

ROOT = Path(__file__).parents[2]

PREAMBLE = f"""
import os, signal, sys, threading, time
import hostfuncs, hostfuncs.program
from hostfuncs import Outcome, Program
# Whatever started the tests in the background may have had SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
LOOP, SLEEP, UPPER = {str(guest("loop"))!r}, {str(guest("sleep"))!r}, {str(guest("upper"))!r}
def ring(number):
    # A signal to this process once a guest runs, and not before, however slow the machine is.
    def when_one_runs():
        while not hostfuncs.program._running:
            time.sleep(0.001)
        os.kill(os.getpid(), number)
    threading.Thread(target=when_one_runs, daemon=True).start()
NAP = b'''(module (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")
  (i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const 3600000000000))
  (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))'''
"""


def script(code: str, timeout: float = 180) -> str:
    """Run a script that must end well, with warnings as errors, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", PREAMBLE + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("wasm", ["LOOP", "NAP"])
def test_ctrl_c_ends_the_guest(wasm: str) -> None:
    out = script(f"""
with Program({wasm}) as program:
    for _ in range(5):
        try:
            ring(signal.SIGINT)
            program.run(timeout=50)
        except KeyboardInterrupt:
            print("interrupted")
    print(program.run(timeout=0.01).outcome, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
""")
    assert out == "interrupted\n" * 5 + "deadline_exceeded True\n"


def test_signals_in_short_runs_that_call_the_host_all_the_time() -> None:
    """A handler that raises anywhere in a host function must never reach the engine."""
    out = script("""
CHATTY = b'''(module (import "wasi_snapshot_preview1" "clock_time_get" (func $t (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start") (local i32)
  (loop (drop (call $t (i32.const 1) (i64.const 0) (i32.const 0)))
    (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 4000))))))'''
class Alarm(BaseException): pass
def raising(*_): raise Alarm
signal.signal(signal.SIGALRM, raising)
rung = 0
with Program(CHATTY) as program:
    for number in range(200):
        try:
            # Once, between the beginning of the run and its middle.
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + number * 2e-5)
            program.run()
            time.sleep(5)
            print("no exception in run", number)
        except Alarm:
            rung += 1
print(rung, hostfuncs.run(UPPER, stdin=b"a").stdout)
""")
    assert out == "200 b'A'\n"


def test_a_handler_that_is_set_within_a_run() -> None:
    """By another handler here; a transport may do the same."""
    out = script("""
CHATTY = b'''(module (import "wasi_snapshot_preview1" "clock_time_get" (func $t (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")
  (loop (drop (call $t (i32.const 1) (i64.const 0) (i32.const 0))) (br 0))))'''
class Alarm(BaseException): pass
def raising(*_): raise Alarm
def setting(*_):
    before = signal.signal(signal.SIGALRM, raising)
    assert before in (signal.SIG_DFL, raising), before
    signal.setitimer(signal.ITIMER_REAL, 0.0003)
signal.signal(signal.SIGVTALRM, setting)
rung = 0
with Program(CHATTY) as program:
    for number in range(40):
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.002)
        try:
            program.run(timeout=50)
        except Alarm:
            rung += 1
print(rung, signal.getsignal(signal.SIGALRM) is raising)
""")
    assert out == "40 True\n"


def test_a_handler_that_raises_nothing_disturbs_nothing() -> None:
    out = script("""
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
ring(signal.SIGUSR1)
while not seen:
    outcome = hostfuncs.run(LOOP, timeout=0.5).outcome
print(outcome, seen)
""")
    assert out == "deadline_exceeded [1]\n"


def test_a_run_within_a_run_is_refused() -> None:
    out = script("""
with Program(LOOP) as program:
    def nested(*_):
        try:
            program.run()
        except RuntimeError as error:
            refused.append(error)
    refused = []
    signal.signal(signal.SIGUSR1, nested)
    ring(signal.SIGUSR1)
    while not refused:
        outcome = program.run(timeout=0.5).outcome
    print(*refused)
    print(outcome)
""")
    assert out == ("this thread is within the run of a guest already; use another thread\ndeadline_exceeded\n")


def test_a_run_with_hardly_a_frame_left() -> None:
    out = script("""
with Program(UPPER) as program:
    def deeper():
        try:
            return program.run(stdin=b"a").outcome, deeper()
        except RecursionError:
            return "end"
    deeper()
    print(program.run(stdin=b"a").stdout)
""")
    assert out == "b'A'\n"


def test_a_thread_whose_stack_is_too_small() -> None:
    out = script("""
def small():
    try:
        hostfuncs.run(UPPER)
    except RuntimeError as error:
        print(error)
threading.stack_size(256 * 1024)
thread = threading.Thread(target=small)
thread.start()
thread.join()
RECURSE = b'(module (func $f (export "_start") (call $f)))'
threading.stack_size(2 << 20)
thread = threading.Thread(target=lambda: print(hostfuncs.run(RECURSE).outcome))
thread.start()
thread.join()
""")
    assert "is too small for guests, which need 2048 KiB" in out
    assert out.endswith("trapped\n")


def test_a_guest_is_not_compiled_on_a_stack_that_is_too_small() -> None:
    out = script("""
def small():
    try:
        Program(UPPER)
    except RuntimeError as error:
        print(error)
threading.stack_size(32 * 1024)  # the least that Python takes
thread = threading.Thread(target=small)
thread.start()
thread.join()
""")
    assert "this thread's stack of 32 KiB is too small for guests" in out


@pytest.mark.parametrize(("stack_mib", "depth"), [(2, 2500), (8, 13_500)])
def test_a_stack_that_is_nearly_used_up(stack_mib: int, depth: int) -> None:
    """Calls through C, as `functools.reduce` makes them, use the stack that a guest that recurses needs."""
    out = script(f"""
import functools
RECURSE = Program(b'(module (func $f (export "_start") (call $f)))')
sys.setrecursionlimit(1_000_000)
def deeper(left):
    if left:
        return functools.reduce(lambda *_: deeper(left - 1), (1, 2))
    try:
        print(RECURSE.run().outcome)
    except RuntimeError as error:
        print(error)
threading.stack_size({stack_mib} << 20)
for depth in ({depth}, 0):
    thread = threading.Thread(target=deeper, args=(depth,))
    thread.start()
    thread.join()
""")
    assert "of this thread's stack are left" in out or "recursion" in out  # later versions of Python count C's calls
    assert out.endswith("trapped\n")


def test_the_interpreter_exits_while_daemon_threads_run_guests() -> None:
    out = script("""
program = Program(LOOP)
naps = Program(NAP)
for each in (program, naps, program):
    threading.Thread(target=lambda each=each: each.run(timeout=3600), daemon=True).start()
from hostfuncs import program as module
until = time.monotonic() + 50
while len(module._running) < 3 and time.monotonic() < until:
    time.sleep(0.001)
print("out")
""")
    assert out == "out\n"


def test_a_program_that_is_not_closed() -> None:
    assert script("program = Program(UPPER)\nprint(program.run(stdin=b'a').stdout)") == "b'A'\n"


def test_a_fork_keeps_deadlines_and_programs() -> None:
    out = script("""
with Program(LOOP) as program:
    print(program.run(timeout=0.1).outcome, flush=True)
    pid = os.fork()
    if not pid:
        with Program(UPPER) as own:
            print(program.run(timeout=0.1).outcome, own.run(stdin=b"a").stdout, flush=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), program.run(timeout=0.1).outcome)
""")
    assert out == "deadline_exceeded\ndeadline_exceeded b'A'\n0 deadline_exceeded\n"


def test_many_threads_start_close_and_interrupt_at_random() -> None:
    out = script("""
import random
program = Program(UPPER)
under_way = threading.Event()
def work(seed):
    dice = random.Random(seed)
    for number in range(50):
        if number == 10:
            under_way.set()
        try:
            if dice.random() < 0.05:
                Program(LOOP).run(timeout=0.01)
            else:
                program.run(stdin=b"a", timeout=dice.choice([0, 1e-6, 1, 1e9]))
        except RuntimeError as error:
            assert "closed" in str(error), error
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
for thread in threads: thread.start()
assert under_way.wait(50)
program.close()
for thread in threads: thread.join()
print("survived")
""")
    assert out == "survived\n"


def test_sigterm_as_exit() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
ring(signal.SIGTERM)
hostfuncs.run(LOOP, timeout=50)
"""],
        cwd=ROOT,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 7
