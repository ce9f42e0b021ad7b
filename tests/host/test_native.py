"""The functions in C against those in Python: the same guest with the same input, run once with either.

Not tested here: how fast they are (bench/invoke.py), and which of them a server's guests get (tests/process).
"""

import struct
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostfuncs import native, wasip1
from hostfuncs.limits import Limits
from hostfuncs.outcome import Outcome as Ended
from tests.host.native import PAGE, Grow, Invoke, Outcome, Step, Write, need_native, run, runner, text
from tests.host.preview1 import FAULT, INVAL, SUCCESS

LIMITS = Limits(stdout_bytes=4000, stderr_bytes=1 << 20)
STDIN = bytes(range(1, 251)) * 8

EDGES = (
    *(PAGE - room for room in (25, 24, 23, 8, 7, 4, 3, 1)),
    *(PAGE, PAGE + 1, 2 * PAGE - 4, 2 * PAGE, 0x7FFF_FFFF, 0x8000_0000, 2**32 - 4, 2**32 - 1),
)
GOOD = st.integers(0, 1500)
POINTERS = st.one_of(GOOD, GOOD, GOOD, GOOD, GOOD, st.sampled_from(EDGES), st.integers(0, 2**32 - 1))
SHORT = st.integers(0, 300)
LENGTHS = st.one_of(
    *[SHORT] * 4, st.sampled_from([0, 1999, 2000, 2001, 4000, 4001, PAGE, 0x7FFF_FFFF, 0x8000_0000, 2**32 - 1])
)
FEW = st.integers(1, 4)
COUNTS = st.one_of(*[FEW] * 5, st.sampled_from([0, 63, 1023, 1024, 1025, 8192, 0x2000_0000, 0x8000_0000, 2**32 - 1]))
NUMBERS = st.one_of(st.integers(0, 3), st.integers(0, 3), st.sampled_from([4, 5, 2**31, 2**32 - 1]))
WIDE = st.one_of(st.integers(0, 3), st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1]))
ARRAYS = (64, 100, 200, 1000)
"""Where arrays of vectors are put, mostly."""
KINDS: dict[str, tuple[st.SearchStrategy[int], ...]] = {
    "args_get": (POINTERS, POINTERS),
    "args_sizes_get": (POINTERS, POINTERS),
    "environ_get": (POINTERS, POINTERS),
    "environ_sizes_get": (POINTERS, POINTERS),
    "clock_res_get": (NUMBERS, POINTERS),
    "clock_time_get": (NUMBERS, WIDE, POINTERS),
    "fd_fdstat_get": (NUMBERS, POINTERS),
    "fd_read": (st.just(0) | st.just(0) | NUMBERS, st.sampled_from(ARRAYS) | POINTERS, COUNTS, POINTERS),
    "fd_write": (st.integers(1, 2) | NUMBERS, st.sampled_from(ARRAYS) | POINTERS, COUNTS, POINTERS),
    "fd_seek": (NUMBERS, WIDE, NUMBERS, POINTERS),
    "random_get": (POINTERS, LENGTHS),
}


@st.composite
def vectors(draw: st.DrawFn) -> Write:
    """An array of vectors: often over what the vectors themselves name."""
    pairs = draw(st.lists(st.tuples(POINTERS, LENGTHS), min_size=1, max_size=4))
    return Write(
        draw(st.sampled_from(ARRAYS)),
        struct.pack(f"<{2 * len(pairs)}I", *(number for pair in pairs for number in pair)),
    )


def calls(names: tuple[str, ...]) -> st.SearchStrategy[Invoke]:
    """Calls of these functions, with pointers and numbers of all kinds, most of which are good."""

    def one(name: str) -> st.SearchStrategy[Invoke]:
        params = wasip1.FUNCTIONS[name].params
        kinds = KINDS.get(name, tuple(WIDE if letter == "I" else NUMBERS | POINTERS for letter in params))
        return st.tuples(*kinds).map(lambda arguments: Invoke(name, arguments))

    return st.sampled_from(names).flatmap(one)


OF_THE_SYSTEM = {"clock_time_get", "random_get", "proc_exit"}
STREAMS = ("fd_read", "fd_write", "fd_read", "fd_write", "args_get", "environ_get")
REST = tuple(name for name in native.FUNCTIONS if name not in OF_THE_SYSTEM)
OTHERS = (
    "fd_close",
    "fd_renumber",
    "fd_filestat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_tell",
    "path_open",
    "proc_raise",
)
"""Functions that are in Python only, which take over."""


@st.composite
def steps(draw: st.DrawFn, *groups: tuple[str, ...]) -> list[Step]:
    """Scripts of calls of these functions, with memory to make them interesting."""
    script: list[Step] = [draw(vectors()) for _ in range(2)]
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.integers(0, 9))
        if kind < 4:
            script.append(draw(vectors()))
        elif kind == 4:
            script.append(Write(draw(GOOD), draw(st.binary(min_size=1, max_size=40))))
        elif kind == 5:
            script.append(Grow())
        script.append(draw(calls(draw(st.sampled_from(groups)))))
    return script


def both(
    wat: str,
    *,
    limits: Limits = LIMITS,
    strict: bool = False,
    args: tuple[bytes, ...] = (b"-n", b"", b"two words"),
    env: tuple[tuple[bytes, bytes], ...] = ((b"ASKED", b"a=b"),),
    stdin: bytes | memoryview = STDIN,
) -> Outcome:
    """The outcome, which is the same with either. Each guest runs twice, as what one run leaves must not show."""
    need_native()
    outcomes = []
    for native_functions in (False, True):
        made = runner(wat, limits, native_functions=native_functions, strict=strict)
        for _ in range(2):
            outcomes.append(run(made, args=args, env=env, stdin=stdin))
    in_python, again, in_c, again_in_c = outcomes
    assert in_c == in_python
    assert again == in_python
    assert again_in_c == in_python
    return in_python


ENOUGH = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@ENOUGH
@given(steps(STREAMS, REST))
def test_what_a_guest_is_answered_and_finds_in_its_memory(script: list[Step]) -> None:
    both(text(script))


@ENOUGH
@given(steps(STREAMS, REST, OTHERS))
def test_python_takes_over_wherever_it_is_needed(script: list[Step]) -> None:
    both(text(script))


@settings(ENOUGH, max_examples=40)
@given(steps(STREAMS, REST, ("proc_exit",)))
def test_in_a_start_function_there_is_no_instance_yet(script: list[Step]) -> None:
    both(text(script, start=True))


@settings(ENOUGH, max_examples=40)
@given(steps(STREAMS, ("clock_time_get", "random_get", "clock_res_get"), OTHERS))
def test_the_strict_sandbox(script: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # The wall clock begins at the current second, which may end between two runs.
        patch.setattr(wasip1.sources, "time", SimpleNamespace(time_ns=lambda: 1_700_000_000_123_456_789))
        both(text(script), strict=True)


@settings(ENOUGH, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 300)), max_size=20), st.integers(0, 200))
def test_the_end_of_stderr_is_kept(writes: list[tuple[int, int]], limit: int) -> None:
    script: list[Step] = [Write(64, struct.pack("<2I", 1000, 0)), Write(1000, bytes(range(256)) * 2)]
    for number, (fd, length) in enumerate(writes):
        script += [
            Write(64, struct.pack("<2I", 1000 + number, length)),
            Invoke("fd_write", (fd, 64, 1, 8)),
        ]
    outcome = both(text(script, dump=False), limits=Limits(stdout_bytes=100_000, stderr_bytes=limit))
    assert len(outcome.stderr) == min(limit, outcome.stderr_total)


@pytest.mark.parametrize("code", [0, 1, 77, 2**31, 2**32 - 1])
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("before", [[], [Invoke("fd_close", (0,))]], ids=["in C", "taken over"])
def test_exit(code: int, start: bool, before: list[Step]) -> None:
    script: list[Step] = [Write(64, struct.pack("<2I", 64, 8)), Invoke("fd_write", (1, 64, 1, 8)), *before]
    outcome = both(text([*script, Invoke("proc_exit", (code,)), Invoke("fd_write", (1, 64, 1, 8))], start=start))
    assert outcome.ending.outcome is (Ended.EXIT_NONZERO if code else Ended.COMPLETED)
    assert outcome.ending.exit_code == code
    assert len(outcome.stdout) == 8
    assert not outcome.ending.trace


@pytest.mark.parametrize("code", [0, 1])
def test_the_memory_that_a_start_function_took_counts(code: int) -> None:
    script: list[Step] = [Grow(), Invoke("clock_res_get", (0, 0)), Grow(), Invoke("proc_exit", (code,))]
    assert both(text(script, start=True)).memory_bytes == 3 * PAGE


@pytest.mark.parametrize(("limit", "ended"), [(300, Ended.COMPLETED), (299, Ended.OUTPUT_EXCEEDED)])
def test_the_limit_of_stdout_counts_all_writes(limit: int, ended: Ended) -> None:
    script: list[Step] = [Write(64, struct.pack("<4I", 1000, 50, 1000, 50)), Write(1000, b"x" * 50)]
    script += [Invoke("fd_write", (1, 64, 2, 8))] * 3
    outcome = both(text(script, dump=False), limits=Limits(stdout_bytes=limit))
    assert outcome.ending.outcome is ended
    # As much as there was before the write, or the vector, that would have been too much.
    assert outcome.stdout == b"x" * (300 if ended is Ended.COMPLETED else 250)


@pytest.mark.parametrize(
    "pairs",
    [
        ((PAGE, 0),),
        ((PAGE + 1, 0),),
        ((2**32 - 1, 0),),
        ((1000, 5), (PAGE + 1, 0)),
        ((PAGE + 1, 0), (PAGE + 1, 0)),
        ((1000, 5), (PAGE - 4, 5), (1000, 5)),
        ((1000, len(STDIN) - 1), (PAGE, 1)),
        ((1000, len(STDIN)), (PAGE, 1)),
        ((1000, len(STDIN) + 1), (PAGE, 1)),
        ((1000, 0), (2000, 7), (3000, 0), (0, 1)),
        ((64, 8), (1000, 8)),
        ((72, 8), (1000, 8)),
    ],
    ids=str,
)
@pytest.mark.parametrize("told", [8, 64, PAGE - 4, PAGE - 3])
@pytest.mark.parametrize("fd", [0, 1, 2])
def test_vectors_with_nothing_outside_and_over_one_another(
    pairs: tuple[tuple[int, int], ...], told: int, fd: int
) -> None:
    array = struct.pack(f"<{2 * len(pairs)}I", *(number for pair in pairs for number in pair))
    call = Invoke("fd_write" if fd else "fd_read", (fd, 64, len(pairs), told))
    # The second call shows what the first one has taken.
    both(text([Write(64, array), Write(1000, b"x" * 300), call, Write(64, array), call]))


@pytest.mark.parametrize("count", [1023, 1024, 1025, 5000])
@pytest.mark.parametrize("function", ["fd_read", "fd_write"])
def test_many_vectors(count: int, function: str) -> None:
    array = b"".join(struct.pack("<2I", 50_000 + (at * 7) % 300, at % 3) for at in range(count))
    fd = 0 if function == "fd_read" else 1
    outcome = both(text([Write(64, array), Invoke(function, (fd, 64, count, 8))]))
    assert outcome.ending.outcome is Ended.COMPLETED


def test_vectors_of_more_than_memory_in_all() -> None:
    """Overlapping ones name more bytes than there are, and more than 32 bits can count."""
    array = struct.pack("<2I", 0, PAGE) * 1024
    limits = Limits(stdout_bytes=1 << 40, stderr_bytes=1000)
    outcome = both(text([Write(64, array), Invoke("fd_write", (1, 64, 1024, 8))], dump=False), limits=limits)
    assert len(outcome.stdout) == 1024 * PAGE
    both(text([Write(64, array), *[Invoke("fd_write", (2, 64, 1024, 8))] * 3]), limits=limits)


def test_much_output_twice() -> None:
    """Buffers are given back, and the next run has its own."""
    script: list[Step] = [Write(64, struct.pack("<2I", 0, PAGE))]
    script += [Invoke("fd_write", (fd, 64, 1, PAGE - 4)) for fd in (1, 2) * 20]
    outcome = both(text(script, dump=False), limits=Limits(stdout_bytes=20 * PAGE, stderr_bytes=3 * PAGE))
    assert (len(outcome.stdout), len(outcome.stderr), outcome.stderr_total) == (20 * PAGE, 3 * PAGE, 20 * PAGE)


def test_input_may_be_a_part_of_something() -> None:
    script: list[Step] = [Write(64, struct.pack("<2I", 1000, 100)), Invoke("fd_read", (0, 64, 1, 8))]
    outcome = both(text(script), stdin=memoryview(b"not this, but that, and no more")[10:18])
    assert outcome.stderr[1000:1009] == b"but that\0"


def test_nothing_given() -> None:
    script: list[Step] = [Invoke("args_sizes_get", (0, 4)), Invoke("environ_sizes_get", (8, 12))]
    script += [Invoke("args_get", (100, PAGE - 6)), Invoke("environ_get", (200, PAGE)), Invoke("fd_read", (0, 0, 0, 9))]
    outcome = both(text(script), args=(), env=(), stdin=b"")
    assert outcome.ending.outcome is Ended.COMPLETED


def test_what_ends_a_guest_otherwise_is_told_as_ever() -> None:
    def ending(around: str, **options: Any) -> Outcome:
        script: list[Step] = [Write(64, struct.pack("<2I", 64, 8)), Invoke("fd_write", (1, 64, 1, 8))]
        return both(text(script, dump=False, around=around), **options)

    trapping = ending("(drop (memory.grow (i32.const 1))) {} (unreachable)")
    assert trapping.ending.outcome is Ended.TRAPPED
    assert "wasm stack trace" in trapping.ending.trace
    assert (len(trapping.stdout), trapping.memory_bytes) == (8, 2 * PAGE)
    starving = ending("(drop (memory.grow (i32.const 3))) {} (unreachable)", limits=Limits(memory_bytes=4 * PAGE))
    assert starving.ending.outcome is Ended.MEMORY_EXCEEDED
    deep = both('(module (memory (export "memory") 1) (func $f (export "_start") (call $f)))')
    assert deep.ending.limit == "wasm_stack_bytes"


def test_a_deadline_ends_a_guest_that_calls_without_end() -> None:
    need_native()
    wat = text([Invoke("clock_time_get", (1, 0, 8))], dump=False, around="(loop $again {} (br $again))")
    for native_functions in (False, True):
        made = runner(wat, LIMITS, native_functions=native_functions)
        for _ in range(2):
            assert run(made, seconds=0.1).ending.outcome is Ended.DEADLINE_EXCEEDED


def test_the_clocks_of_the_system() -> None:
    need_native()
    wat = text([Invoke("clock_time_get", (clock, 0, 1000 + 8 * clock)) for clock in range(4)])
    made = runner(wat, LIMITS, native_functions=True)
    for _ in range(3):
        before = (time.time_ns(), time.monotonic_ns())
        told = struct.unpack_from("<4Q", run(made).stderr, 1000)
        after = (time.time_ns(), time.monotonic_ns())
        assert before[0] <= told[0] <= after[0]
        assert before[1] <= told[1] <= after[1]
        assert told[2] == 0
        assert told[3] < 60 * 10**9
    both(text([Invoke("clock_time_get", (clock, 0, pointer)) for clock in (0, 3, 4) for pointer in (PAGE - 7, PAGE)]))
    resolutions = both(text([Invoke("clock_res_get", (clock, 1000 + 8 * clock)) for clock in range(5)])).stderr
    assert struct.unpack_from("<4Q", resolutions, 1000) == (1000, 1, 1, 1)


@pytest.mark.parametrize("size", [0, 1, 8, 255, 256, 257, 40_000, PAGE])
def test_random_bytes_of_the_system(size: int) -> None:
    need_native()
    made = runner(text([Invoke("random_get", (PAGE - size, size))]), LIMITS, native_functions=True)
    first, second = (run(made).stderr for _ in range(2))
    # The vectors of the dump are in the first bytes.
    assert not any(first[16 : PAGE - size])
    if size > 200:
        assert first[-1000:] != second[-1000:]
        filled = first[max(16, PAGE - size) : PAGE]
        assert len(set(filled)) > 64
        assert any(filled[-8:])
    bad = [(PAGE - size + 1, size), (PAGE + 1, size), (2**32 - 1, size), (0, 2**32 - 1), (1, PAGE), (PAGE, 1 << 18)]
    script: list[Step] = [Invoke("random_get", arguments) for arguments in bad]
    assert struct.unpack_from("<6I", both(text(script)).stderr, PAGE) == (FAULT,) * 6


def test_more_random_bytes_than_c_makes_at_once() -> None:
    need_native()
    wat = text([Invoke("random_get", (0, 4 * PAGE))]).replace('"memory") 1 4', '"memory") 5')
    told = run(runner(wat, LIMITS, native_functions=True)).stderr
    assert all(any(told[at : at + 100]) for at in range(100, 4 * PAGE, PAGE))
    assert not any(told[4 * PAGE : 5 * PAGE])


@pytest.mark.parametrize("memory", ["", "(memory 1)"])
def test_a_guest_without_a_memory_to_share(memory: str) -> None:
    wat = f"""(module (import "{wasip1.MODULE}" "clock_time_get" (func $c (param i32 i64 i32) (result i32)))
        (import "{wasip1.MODULE}" "proc_exit" (func $x (param i32)))
        {memory} (func (export "_start") (call $x (call $c (i32.const 0) (i64.const 0) (i32.const 0)))))"""
    assert both(wat).ending.exit_code == FAULT


def test_unknown_numbers() -> None:
    script: list[Step] = [Invoke("clock_time_get", (4, 0, PAGE)), Invoke("clock_res_get", (2**32 - 1, PAGE))]
    script += [Invoke("fd_seek", (1, 0, 3, 0)), Invoke("sched_yield", ())]
    assert struct.unpack_from("<4I", both(text(script)).stderr, PAGE) == (INVAL, INVAL, INVAL, SUCCESS)
