"""Limits of time, output, stack and memory, through the code of a worker without the processes around it."""

import pytest

from sandboxd.limits import MIB, Limits
from sandboxd.outcome import Outcome
from tests.process.runtimes import EXIT, WASI, WRITE, Worker, invoke, start


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
