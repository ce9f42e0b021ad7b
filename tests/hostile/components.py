"""Attacks by components, made with the text of tests/host/component_text.py."""

import wasmtime

from tests.host.component_text import component

_NEVER = "(local.set $a (call $after (i64.const -1)))"

BODIES = {
    "c_endless_loop": "(loop (br 0)) (i32.const 0)",
    "c_endless_host_calls": "(loop (drop (call $now)) (br 0)) (i32.const 0)",
    "c_blocked": f"{_NEVER} (call $block (local.get $a)) (i32.const 0)",
    "c_cyclic_poll": f"""{_NEVER}
        (loop $fill
          (i32.store (i32.add (i32.const 2048) (local.get $b)) (local.get $a))
          (local.set $b (i32.add (local.get $b) (i32.const 4)))
          (br_if $fill (i32.lt_u (local.get $b) (i32.const 4000))))
        (call $poll (i32.const 2048) (i32.const 1000) (i32.const 1024)) (i32.const 0)""",
    "c_long_poll": f"""{_NEVER}
        (drop (memory.grow (i32.const 8)))
        (local.set $b (i32.const 524288))
        (loop $fill (i32.store (local.get $b) (local.get $a)) (local.set $b (i32.add (local.get $b) (i32.const 4)))
          (br_if $fill (i32.lt_u (local.get $b) (i32.const 1048576))))
        (call $poll (i32.const 524288) (i32.const 65537) (i32.const 1024)) (i32.const 0)""",
    "c_empty_poll": "(call $poll (i32.const 2048) (i32.const 0) (i32.const 1024)) (i32.const 0)",
    "c_forged_handle": "(drop (call $ready (i32.const 77))) (i32.const 0)",
    "c_reused_handle": """(local.set $a (call $after (i64.const 1)))
        (call $drop-pollable (local.get $a)) (call $drop-pollable (local.get $a)) (i32.const 0)""",
    "c_handle_flood": "(loop (drop (call $after (i64.const 1))) (br 0)) (i32.const 0)",
    "c_stdout_flood": "(loop (call $say (i32.const 2048) (i32.const 4096)) (br 0)) (i32.const 0)",
    "c_recursion": "(call $deeper)",
    "c_randomness": "(call $random (i64.const 0xffffffff) (i32.const 1024)) (i32.const 0)",
}
EXTRA = {
    "c_recursion": "(func $deeper (result i32) (i32.add (call $deeper) (i32.const 1)))",
}


def binary(name: str) -> bytes:
    """One of them."""
    return bytes(wasmtime.wat2wasm(component(BODIES[name], extra=EXTRA.get(name, ""))))
