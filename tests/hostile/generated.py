"""Attacks too long to be written by hand: modules that are large in one dimension."""

from collections.abc import Callable

import wasmtime

WASI = "wasi_snapshot_preview1"
_I32 = b"\x7f"
_FUNCTION_TYPE = b"\x60"


def leb(number: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while True:
        out.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(out)


def signed_leb(number: int) -> bytes:
    """Signed LEB128 of a number that is not negative: the highest bit of the last byte must stay free for the sign."""
    out = leb(number)
    return out if not out[-1] & 0x40 else out[:-1] + bytes((out[-1] | 0x80, 0))


def name(text: str) -> bytes:
    return leb(len(text)) + text.encode()


def section(number: int, content: bytes) -> bytes:
    return bytes((number,)) + leb(len(content)) + content


def vector(items: list[bytes]) -> bytes:
    return leb(len(items)) + b"".join(items)


def module(*sections: bytes) -> bytes:
    return b"\0asm\x01\0\0\0" + b"".join(sections)


def body(locals_: bytes, code: bytes) -> bytes:
    content = locals_ + code + b"\x0b"
    return leb(len(content)) + content


TYPES = section(1, vector([_FUNCTION_TYPE + b"\0\0"]))
START = section(7, vector([name("_start") + b"\0\0"]))
NO_LOCALS = b"\0"


def one_function(code: bytes, locals_: bytes = NO_LOCALS) -> bytes:
    """A module whose `_start` has this code."""
    return module(TYPES, section(3, vector([b"\0"])), START, section(10, vector([body(locals_, code)])))


def many_imports() -> bytes:
    """12,000 imports of one host function."""
    item = name(WASI) + name("sched_yield") + b"\0\0"
    return module(section(1, vector([_FUNCTION_TYPE + b"\0\x01" + _I32])), section(2, vector([item] * 12_000)))


def many_functions() -> bytes:
    """20,000 functions."""
    count = 20_000
    return module(
        TYPES, section(3, vector([b"\0"] * count)), START, section(10, vector([body(NO_LOCALS, b"")] * count))
    )


def many_exports() -> bytes:
    """50,000 exports of one function."""
    exports = [name(f"e{number}") + b"\0\0" for number in range(50_000)]
    return module(
        TYPES, section(3, vector([b"\0"])), section(7, vector(exports)), section(10, vector([body(NO_LOCALS, b"")]))
    )


def many_locals() -> bytes:
    """100,000 locals, twice what implementations agreed on as the most."""
    return one_function(b"", leb(1) + leb(100_000) + _I32)


def giant_table_of_branches() -> bytes:
    """A `br_table` with 7,000,000 targets."""
    return one_function(b"\x02\x40\x41\x00\x0e" + leb(7_000_000) + b"\0" * 7_000_000 + b"\0\x0b")


def deep_blocks() -> bytes:
    """200,000 blocks within each other."""
    return one_function(b"\x02\x40" * 200_000 + b"\x0b" * 200_000)


def deep_types() -> bytes:
    """100,000 recursive types in one group, each a list of the one before."""
    count = 100_000
    types = [b"\x5e\x63" + signed_leb(max(0, number - 1)) + b"\0" for number in range(count)]
    return module(section(1, vector([b"\x4e" + vector(types)])))


def long_chain_of_values() -> bytes:
    """A single expression of 100,000 additions: much work for a register allocator."""
    return one_function(b"\x41\x01" * 2 + b"\x6a\x41\x01" * 100_000 + b"\x6a\x1a")


def many_memories() -> bytes:
    """Two memories: each could be as large as the limit."""
    return bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1) (memory 1) (func (export "_start")))'))


def shared_memory() -> bytes:
    """A memory that several threads could share."""
    return bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1 1 shared) (func (export "_start")))'))


def large_data() -> bytes:
    """64 MiB of data for a memory of one page."""
    code = section(10, vector([body(NO_LOCALS, b"")]))
    data = b"\0\x41\x00\x0b" + leb(64 << 20) + b"x" * (64 << 20)
    return module(TYPES, section(3, b"\x01\0"), section(5, b"\x01\0\x01"), START, code, section(11, vector([data])))


def wide_recursion() -> bytes:
    """Calls itself for ever with a frame of 8 KiB, so that the stack's end is passed in large steps."""
    locals_ = 1000
    sets = "".join(f"(local.set {n} (call $same (local.get {n - 1})))" for n in range(2, locals_ + 1))
    total = "".join(f"(local.set 0 (i64.xor (local.get 0) (local.get {n})))" for n in range(1, locals_ + 1))
    return bytes(
        wasmtime.wat2wasm(f"""(module
            (func $same (param i64) (result i64) (local.get 0))
            (func $deeper (param i64) (result i64) (local {"i64 " * locals_})
                (local.set 1 (i64.add (local.get 0) (i64.const 1)))
                {sets}
                (local.set 0 (call $deeper (local.get {locals_})))
                {total}
                (local.get 0))
            (func (export "_start") (drop (call $deeper (i64.const 0)))))""")
    )


COMPILE_BOMBS: tuple[Callable[[], bytes], ...] = (
    many_imports,
    many_functions,
    many_exports,
    many_locals,
    giant_table_of_branches,
    deep_blocks,
    deep_types,
    long_chain_of_values,
    many_memories,
    shared_memory,
    large_data,
)
