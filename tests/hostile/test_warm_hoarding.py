"""Guests that were started warm fill what the host holds for them, once they are given their input."""

from collections.abc import Iterator

import pytest
import wasmtime

from tests.running import RunningServer, component, write_components
from tests.server.warm import ask, warm_up
from tests.waiting import until

HOARDS = """
(module
  (import "types" "new-fields" (func $fields (param i32 i32) (result i32)))
  (import "types" "new-outgoing-request" (func $request
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "types" "outgoing-request-write" (func $open (param i32 i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start") (local $what i32) (local $f i32)
    ;; Held from before it is parked: every child begins with it.
    (memory.fill (i32.const 4096) (i32.const 97) (i32.const 60000))
    (drop (call $new))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 16))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $what (i32.load8_u (i32.const 1024)))
    (if (i32.eq (local.get $what) (i32.const 0x66))
      (then (loop $l (drop (call $fields (i32.const 0) (i32.const 0))) (br $l))))
    (if (i32.eq (local.get $what) (i32.const 0x72)) (then (loop $l (drop (call $new)) (br $l))))
    (if (i32.eq (local.get $what) (i32.const 0x62)) (then (loop $l (call $open (call $new) (i32.const 16)) (br $l))))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $new (result i32) (call $request
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 60000) (i32.const 0) (i32.const 0)
    (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 9)
    (call $fields (i32.const 0) (i32.const 0)))))
"""
"""Reads what it is to fill the host with: fields, requests, bodies of requests; anything else is echoed."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("hoards")
    (folder / "hoards.wasm").write_bytes(wasmtime.wat2wasm(HOARDS))
    limits = {"hostMemory": "2Mi", "hostEntries": "60000", "stdin": "base64"}
    warm = component("hoards", f"file://{folder}/hoards.wasm", warmStart="true", warmInstances="1", **limits)
    with RunningServer(write_components(folder / "r", [warm]), "--workers", "1") as running:
        warm_up(running, "hoards")
        yield running


@pytest.mark.parametrize("what", [b"f", b"r", b"b"], ids=["fields", "requests", "bodies"])
def test_a_child_is_ended_at_its_limit_and_the_next_one_begins_anew(server: RunningServer, what: bytes) -> None:
    def warm_runs() -> float:
        return server.metric("sandboxd_warm_invocations_total", binding="hoards")

    before = warm_runs()

    def hoards() -> bool:
        status, text = ask(server, "hoards", what)
        assert status == 500
        assert b"the host would hold more than 2 MiB (hostMemory) for the guest" in text
        return warm_runs() >= before + 3

    until(hoards, "three children have reached the limit")

    def answers() -> bool:
        assert ask(server, "hoards", b"ok") == (200, b"ok")
        return warm_runs() >= before + 6

    until(answers, "three children have answered")
    assert server.metric("sandboxd_worker_exits_total", reason="crashed") == 0
