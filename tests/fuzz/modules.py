"""The first look at a guest's bytes: what it is, or one line why not. Never wasmtime, never long."""

import wasmtime

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from sandboxd.modules import preamble
    from sandboxd.modules.errors import RefusedError

_TEXTS = (
    '(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))'
    ' (memory (export "memory") 1) (global (mut i64) (i64.const 1)) (table 2 funcref) (func (export "_start")))',
    '(component (import "wasi:http/types@0.2.0" (instance (export "fields" (type (sub resource)))))'
    ' (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))',
)
SEEDS = tuple(bytes(wasmtime.wat2wasm(text)) for text in _TEXTS)


def target(data: bytes) -> None:
    for magic in (b"", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"):
        try:
            guest = preamble.read(magic + data)
            assert guest.kind in ("module", "component")
            assert len(guest.imports) <= preamble.MAX_IMPORTS
            assert len(guest.exports) <= preamble.MAX_EXPORTS
            for strict in (False, True):
                preamble.refuse(guest, strict_sandbox=strict)
        except RefusedError as refused:
            assert str(refused)
            assert refused.remedy


if __name__ == "__main__":
    fuzz(target)
