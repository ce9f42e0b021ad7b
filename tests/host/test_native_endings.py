"""How runs end whose host functions are in C: what is remembered of an ending is what wasmtime would tell again.

Each run is compared with one in Python, where every ending is made anew from wasmtime's text.
"""

import random
import struct

import pytest

from hostfuncs.limits import Limits
from hostfuncs.outcome import Outcome
from hostfuncs.running.core import CoreRunner
from tests.host.native import PAGE, need_native, run, runner

PLACES = 20
"""More than are remembered."""
LIMITS = Limits(memory_bytes=16 * PAGE, stdout_bytes=64)

UNREACHABLE, DIVIDE, LOAD, TABLE, OVERFLOW, EXIT, DEPTH = range(7)

FAILS = f"""
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (table 2 funcref)
  (elem (i32.const 1) $exit)
  (type $none (func))
  {" ".join(f"(func $place{number} unreachable)" for number in range(PLACES))}
  (func $unreachable (param $which i32)
    {" ".join(f"(if (i32.eq (local.get $which) (i32.const {n})) (then (call $place{n})))" for n in range(PLACES))})
  (func $deep (param $depth i32)
    (if (local.get $depth) (then (call $deep (i32.sub (local.get $depth) (i32.const 1)))) (else unreachable))
    (drop (memory.size)))
  (func $endless (call $endless) (drop (memory.size)))
  (func $is (param $kind i32) (result i32) (i32.eq (i32.load (i32.const 16)) (local.get $kind)))
  (func (export "_start") (local $which i32)
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 12))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (memory.grow (i32.load (i32.const 24))))
    (local.set $which (i32.load (i32.const 20)))
    (if (call $is (i32.const {UNREACHABLE})) (then (call $unreachable (local.get $which))))
    (if (call $is (i32.const {DIVIDE})) (then (drop (i32.div_u (i32.const 1) (local.get $which)))))
    (if (call $is (i32.const {LOAD})) (then (drop (i32.load (i32.sub (i32.const -8) (local.get $which))))))
    (if (call $is (i32.const {TABLE})) (then (call_indirect (type $none) (local.get $which))))
    (if (call $is (i32.const {OVERFLOW})) (then (call $endless)))
    (if (call $is (i32.const {EXIT})) (then (call $exit (local.get $which))))
    (if (call $is (i32.const {DEPTH})) (then (call $deep (local.get $which))))))
"""


@pytest.fixture(scope="module")
def both() -> tuple[CoreRunner, CoreRunner]:
    """The guest with host functions in Python, and with those in C."""
    need_native()
    in_python, in_c = (runner(FAILS, LIMITS, native_functions=native) for native in (False, True))
    return in_python, in_c


def told(both: tuple[CoreRunner, CoreRunner], kind: int, which: int, pages: int = 0) -> str:
    """What is told of a run that fails in one way; twice, and alike by both."""
    in_python, in_c = both
    stdin = struct.pack("<3I", kind, which, pages)
    expected = run(in_python, stdin=stdin)
    for _ in range(2):
        assert run(in_c, stdin=stdin) == expected, (kind, which, pages)
    return expected.ending.message + expected.ending.trace


def test_each_place_keeps_its_own_text(both: tuple[CoreRunner, CoreRunner]) -> None:
    texts = [told(both, UNREACHABLE, which) for which in (*range(PLACES), 0, PLACES - 1)]
    assert len(set(texts)) == PLACES
    assert all(f"\n\t.place{which}(...)\n" in text for which, text in enumerate(texts[:PLACES]))
    assert texts[PLACES:] == [texts[0], texts[PLACES - 1]]


def test_one_function_by_several_ways(both: tuple[CoreRunner, CoreRunner]) -> None:
    """The same instruction traps, and only its callers differ."""
    texts = [told(both, DEPTH, depth) for depth in (0, 1, 2, 1, 0)]
    assert texts[0] == texts[4] != texts[1] == texts[3] != texts[2]


def test_one_place_by_several_traps(both: tuple[CoreRunner, CoreRunner]) -> None:
    """A call through the table traps because nothing is there, because it is another type, or beyond the end."""
    texts = [told(both, TABLE, which) for which in (0, 1, 2, 1, 0)]
    assert texts[0] == texts[4] != texts[1] == texts[3]
    assert "indirect call type mismatch" in texts[1]
    assert "invalid table access" in texts[2]


def test_a_stack_longer_than_what_is_compared(both: tuple[CoreRunner, CoreRunner]) -> None:
    assert told(both, DEPTH, 500).count("\n\t") > 5
    assert "stack overflow" in told(both, OVERFLOW, 0)


@pytest.mark.parametrize("kind", [UNREACHABLE, EXIT])
def test_memory_is_looked_at_in_each_run(both: tuple[CoreRunner, CoreRunner], kind: int) -> None:
    """The text tells of the memory where it is nearly used up, which the place does not tell."""
    texts = [told(both, kind, 1, pages) for pages in (0, 14, 13, 0, 14)]
    assert "in use" in texts[1]
    assert texts[0] == texts[3] != texts[1] == texts[4] != texts[2]


def test_exit_codes(both: tuple[CoreRunner, CoreRunner]) -> None:
    codes = [*range(1, PLACES), 255, 256, 2**31, 2**32 - 1, 1]
    assert [told(both, EXIT, code) for code in codes] == [f"module closed with exit_code({code})" for code in codes]
    assert run(both[1], stdin=struct.pack("<3I", EXIT, 0, 0)).ending.outcome is Outcome.COMPLETED


def test_any_order(both: tuple[CoreRunner, CoreRunner]) -> None:
    chosen = random.Random(20)
    for _ in range(400):
        told(both, chosen.randrange(7), chosen.choice((0, 1, 2, 3, 5, 19)), chosen.choice((0, 0, 1, 13, 14, 200)))
