"""A guest that calls any one function of WASI preview 1 with the numbers its stdin holds, and exits with the answer.

stdin is a JSON string, as callers of a server send it: 16 hexadecimal digits for the position of the function in NAMES,
and as many for each of its parameters.
"""

import random
import struct

import wasmtime

from hostfuncs import wasip1

WASI = wasip1.MODULE
NAMES = tuple(sorted(wasip1.FUNCTIONS))
LETTERS = {"i": "i32", "I": "i64"}
PAGE = 65536
"""The guest's memory: one page."""
ZEROS = 4096
"""2 KiB of zeros begin here: an empty vector, a clock that has come, nothing to be written."""
_BUFFER, _NUMBERS, _LENGTH = 8, 512, 500


def pattern() -> bytes:
    """Return the content of memory from 8,192 on: small numbers, pointers to its edges, and huge ones, in disorder."""
    chooser = random.Random(20)
    words = [0, 1, 2, 3, 7, 8, 16, 24, 48, PAGE - 8, PAGE - 1, PAGE, PAGE + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    return struct.pack("<4096I", *(chooser.choice(words) for _ in range(4096)))


def _import(name: str) -> str:
    host = wasip1.FUNCTIONS[name]
    types = " ".join(LETTERS[letter] for letter in host.params)
    return f'(import "{WASI}" "{name}" (func ${name} (param {types}) {"(result i32)" if host.result else ""}))'


def _case(number: int, name: str) -> str:
    host = wasip1.FUNCTIONS[name]
    loads = " ".join(
        f"({LETTERS[letter]}.load (i32.const {_NUMBERS + 8 + 8 * at}))" for at, letter in enumerate(host.params)
    )
    call = f"(call ${name} {loads})"
    call = f"(call $proc_exit {call})" if host.result else call
    return f"(if (i32.eq (i32.load (i32.const {_NUMBERS})) (i32.const {number})) (then {call}))"


def text() -> str:
    """The guest."""
    data = "".join(f"\\{byte:02x}" for byte in pattern())
    imports = "\n".join(map(_import, NAMES))
    cases = "\n".join(_case(number, name) for number, name in enumerate(NAMES))
    word = f"(i32.add (i32.const {_NUMBERS}) (i32.shl (i32.shr_u (local.get $at) (i32.const 4)) (i32.const 3)))"
    digit = """(i64.add (i64.and (local.get $c) (i64.const 15))
        (i64.mul (i64.const 9) (i64.shr_u (local.get $c) (i64.const 6))))"""
    return f"""(module
        {imports}
        (memory (export "memory") 1)
        (data (i32.const 0) "\\{_BUFFER - 1:02x}\\00\\00\\00\\00\\01")
        (data (i32.const 8192) "{data}")
        (func (export "_start") (local $at i32) (local $c i64)
            (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const {_LENGTH})))
            (block $done (loop $next
                (local.set $c (i64.load8_u (i32.add (local.get $at) (i32.const {_BUFFER}))))
                (br_if $done (i64.eqz (i64.and (local.get $c) (i64.const 0x50))))
                (i64.store {word} (i64.or (i64.shl (i64.load {word}) (i64.const 4)) {digit}))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $next)))
            {cases}))"""


def forwarding() -> bytes:
    """It, as a binary."""
    return bytes(wasmtime.wat2wasm(text()))


def digits(function: str, arguments: tuple[int, ...]) -> str:
    """The data of a request that has it call a function. The guest's stdin is this in quotes."""
    return "".join(f"{number & 0xFFFF_FFFF_FFFF_FFFF:016x}" for number in (NAMES.index(function), *arguments))
