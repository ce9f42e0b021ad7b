"""Guests that carry out a script of calls, and say at their end what memory they have and what they were answered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import wasmtime

from hostfuncs import native, wasip1
from hostfuncs.limits import EngineSettings, Limits
from hostfuncs.running import engine
from hostfuncs.running.core import CoreRunner
from hostfuncs.running.deadline import DeadlineThread
from hostfuncs.running.endings import Ending
from tests.guests import ToolMissingError, skip_or_fail
from tests.host.wat import LETTERS

PAGE = 65536


@dataclass(frozen=True)
class Write:
    """The guest stores bytes in its memory."""

    at: int
    data: bytes


@dataclass(frozen=True)
class Invoke:
    """The guest calls a function of preview 1."""

    name: str
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Grow:
    """The guest's memory grows by a page."""


Step = Write | Invoke | Grow


class Outcome(NamedTuple):
    """Everything that an embedder learns of a run."""

    ending: Ending
    stdout: bytes
    stderr: bytes
    stderr_total: int
    memory_bytes: int


def need_native() -> None:
    """Skip the test where the library was not built; in CI it fails."""
    if native.find() is None:
        skip_or_fail(ToolMissingError("hostfuncs/native/_preview1.so", "a C compiler and make install build it"))


@cache
def _engine() -> wasmtime.Engine:
    return engine.build(EngineSettings(), pooling=False)


@cache
def _deadlines() -> DeadlineThread:
    thread = DeadlineThread(_engine())
    thread.start()
    return thread


def text(steps: list[Step], *, start: bool = False, dump: bool = True, around: str = "{}") -> str:
    """A guest that takes these steps.

    Parameters:
        start: in the start function, before there is an instance, instead of in `_start`.
        dump: it writes the answers and its memory to stderr at its end.
        around: what it does besides, with `{}` for the steps.
    """
    names = sorted({step.name for step in steps if isinstance(step, Invoke)} | {"fd_write"})
    imports = " ".join(
        f'(import "{wasip1.MODULE}" "{name}" (func ${name} (param {_types(name)})'
        f" {'(result i32)' if wasip1.FUNCTIONS[name].result else ''}))"
        for name in names
    )
    body, data, answers = [], [], 0
    for step in steps:
        if isinstance(step, Write):
            escaped = "".join(f"\\{byte:02x}" for byte in step.data)
            body.append(f"(memory.init $d{len(data)} (i32.const {step.at}) (i32.const 0) (i32.const {len(step.data)}))")
            data.append(f'(data $d{len(data)} "{escaped}")')
        elif isinstance(step, Grow):
            body.append("(drop (memory.grow (i32.const 1)))")
        else:
            function = wasip1.FUNCTIONS[step.name]
            given = " ".join(
                f"({LETTERS[letter]}.const {_signed(number, letter)})"
                for letter, number in zip(function.params, step.arguments, strict=True)
            )
            call = f"(call ${step.name} {given})"
            if function.result:
                call = f"(global.set $a{answers} {call})"
                answers += 1
            body.append(call)
    kept = " ".join(f"(global $a{number} (mut i32) (i32.const -1))" for number in range(answers))
    if dump:
        body.append(_say("0", "(i32.mul (memory.size) (i32.const 65536))"))
        body.extend(f"(i32.store (i32.const {16 + 4 * at}) (global.get $a{at}))" for at in range(answers))
        body.append(_say("16", f"(i32.const {4 * answers})"))
    function = f"(func $run {around.format(' '.join(body))}) " + (
        "(start $run)" if start else '(export "_start" (func $run))'
    )
    return f'(module {imports} (memory (export "memory") 1 4) {" ".join(data)} {kept} {function})'


def _say(at: str, size: str) -> str:
    return (
        f"(i32.store (i32.const 0) (i32.const {at})) (i32.store (i32.const 4) {size})"
        " (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))"
    )


def _types(name: str) -> str:
    return " ".join(LETTERS[letter] for letter in wasip1.FUNCTIONS[name].params)


def _signed(number: int, letter: str) -> int:
    bits = 64 if letter == "I" else 32
    return number - (1 << bits) if number >= 1 << (bits - 1) else number


def runner(wat: str, limits: Limits, *, native_functions: bool, strict: bool = False) -> CoreRunner:
    """A guest, ready to run."""
    made = CoreRunner(
        _engine(),
        wasmtime.Module(_engine(), wasmtime.wat2wasm(wat)),
        limits,
        argv0=b"guest",
        env=((b"FIXED", b"1"),),
        strict=strict,
        settings=EngineSettings(native_functions=native_functions),
    )
    made.prepare(_deadlines(), None)
    return made


def run(
    made: CoreRunner,
    *,
    args: tuple[bytes, ...] = (),
    env: tuple[tuple[bytes, bytes], ...] = (),
    stdin: bytes | memoryview = b"",
    seconds: float = 60,
) -> Outcome:
    """One run."""
    made.begin(args, env, stdin)
    ending = made.run(time.monotonic_ns() + int(seconds * 1e9))
    return Outcome(ending, made.stdout, made.stderr, made.stderr_total, made.memory_bytes)
