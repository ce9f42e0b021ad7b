"""Texts of guests in errors, traps and stderr are cut before they can cost the front anything."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from hostfuncs import texts
from sandboxd.limits import MIB, Limits
from sandboxd.wire.messages import HttpRequest
from tests.host.components import Components
from tests.host.refusing_text import refusing
from tests.running import RunningServer, component, write_components

GET = HttpRequest(method="GET", scheme="http", authority="localhost", path="/")
HUGE = 120 * MIB


@given(text=st.text(max_size=300), most=st.integers(64, 200))
def test_bounded_keeps_what_fits_and_the_beginning_of_what_does_not(text: str, most: int) -> None:
    out = texts.bounded(text, most)
    if len(text.encode()) <= most:
        assert out == text
    else:
        assert len(out.encode()) <= most
        found = re.fullmatch(r"(.*)\.\.\. \((\d+) more characters were cut\)", out, re.DOTALL)
        assert found is not None
        assert text.startswith(found[1])
        assert len(found[1]) + int(found[2]) == len(text)


@given(data=st.binary(max_size=300), most=st.integers(64, 200))
def test_the_ending_keeps_the_end(data: bytes, most: int) -> None:
    out = texts.ending(data, most)
    if len(data) <= most:
        assert out == data.decode("utf-8", "replace")
    else:
        found = re.fullmatch(r"\((\d+) bytes were cut\) \.\.\.(.*)", out, re.DOTALL)
        assert found is not None
        assert data[int(found[1]) :].decode("utf-8", "replace") == found[2]
        assert len(out.encode()) <= 3 * most


@given(text=st.text(min_size=100, max_size=300))
def test_an_ending_never_begins_within_a_character(text: str) -> None:
    data = text.encode()
    if len(data) > 64:
        assert "\ufffd" not in texts.ending(data, 64).replace("\ufffd" * text.count("\ufffd"), "")


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    return Components(tmp_path_factory.mktemp("components"))


@pytest.mark.parametrize("code", ["internal-error", "DNS-error"])
@pytest.mark.parametrize(("size", "cut"), [(10, 0), (3000, 0), (5000, 1), (4 * MIB, 1)])
def test_an_error_code_is_cut_where_it_is_made(components: Components, code: str, size: int, cut: int) -> None:
    with components.load(refusing(size, code=code), limits=Limits(memory_bytes=64 * MIB)) as guest:
        result = guest.run(http=GET)
    assert result.outcome == "trapped"
    assert result.detail.startswith(f"the guest answered with the error {code} (<<<")
    assert bool(result.texts_cut) == bool(cut)
    assert len(result.detail.encode()) <= texts.MAX_BYTES
    if cut:
        assert "more characters were cut)" in result.detail
    else:
        assert result.detail == f"the guest answered with the error {code} ({'<' * size})"


def trapping(name_bytes: int) -> bytes:
    """A module whose functions have long names, which engines tell in their texts of traps."""
    name = "n" * name_bytes
    return bytes(
        wasmtime.wat2wasm(
            f"(module (tag $t) (func ${name} (param i32) (if (local.get 0) (then (call ${name} "
            f"(i32.sub (local.get 0) (i32.const 1)))) (else (throw $t))))"
            f' (func (export "_start") (call ${name} (i32.const 15))))'
        )
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("texts")
    guests = {
        "refusing": bytes(wasmtime.wat2wasm(refusing(HUGE))),
        "trapping": trapping(90_000),
        "imports": bytes(wasmtime.wat2wasm(f'(module (import "{"m" * 90_000}" "{"f" * 90_000}" (func)))')),
        "exports": bytes(
            wasmtime.wat2wasm(f'(component (core module $m) (export "{"long-" * 4000}name" (core module $m)))')
        ),
        "stderr": bytes(
            wasmtime.wat2wasm(
                """(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 8)
                (func (export "_start") (memory.fill (i32.const 1024) (i32.const 0x1b) (i32.const 500000))
                  (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 500000))
                  (drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) unreachable))"""
            )
        ),
    }
    documents = []
    for name, binary in guests.items():
        (folder / f"{name}.wasm").write_bytes(binary)
        # What the guests say would be more than the host may hold for one otherwise.
        limits = {"stderrLimit": "1Mi", "memoryLimit": "128Mi", "hostMemory": "256Mi"}
        document = component(name, f"file://{folder / name}.wasm", **limits)
        documents.append(document.replace("spec:\n", "spec:\n  ignoreErrors: true\n"))
    with RunningServer(write_components(folder / "resources", documents), "--workers", "1") as running:
        yield running


def peak_bytes(server: RunningServer) -> int:
    """The most memory the front ever had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("path", ["/v1.0/bindings/refusing", "/v1.0/http/refusing/"])
def test_an_error_of_120_mib_costs_the_front_nothing(server: RunningServer, path: str) -> None:
    before, counted = peak_bytes(server), server.metric("sandboxd_guest_texts_cut_total", binding="refusing")
    with server.client() as client:
        answer = client.post(path, content=b'{"operation":"execute"}')
    assert answer.status_code in (500, 502)
    assert "the guest answered with the error internal-error (<<<" in answer.json()["message"]
    assert "more characters were cut)" in answer.json()["message"]
    assert len(answer.content) < 32 * 1024
    assert peak_bytes(server) - before < 16 * MIB
    assert server.metric("sandboxd_guest_texts_cut_total", binding="refusing") > counted


def test_a_text_beyond_the_hosts_memory_is_not_taken(components: Components) -> None:
    with components.load(refusing(HUGE), limits=Limits(memory_bytes=128 * MIB)) as guest:
        result = guest.run(http=GET)
    assert (result.outcome, result.limit) == ("memory_exceeded", "hostMemory")


@pytest.mark.parametrize("name", ["trapping", "stderr"])
def test_traps_and_stderr(server: RunningServer, name: str) -> None:
    answer = server.invoke(name)
    assert answer.status_code == 500
    assert len(answer.content) < 32 * 1024


def test_names_in_errors_of_guests_that_do_not_load(server: RunningServer) -> None:
    for name in ("imports", "exports"):
        answer = server.invoke(name)
        assert answer.status_code == 500
        assert len(answer.content) < 64 * 1024
        assert name in server.text()
    assert max(len(str(line)) for line in server.lines) < 48 * 1024
    errors = [line for line in server.lines if line["message"].startswith("Ignoring error")]
    assert len(errors) == 2
    assert all(len(line["message"]) < 6_000 for line in errors)


def test_lines_of_log_hold_the_end_of_stderr(server: RunningServer) -> None:
    since = len(server.lines)
    server.invoke("stderr")
    line = server.wait_for(lambda line: line["message"] == "guest wrote to stderr", since=since)
    assert line["stderr_bytes"] == 500_000
    assert len(line["stderr"].encode()) <= texts.MAX_BYTES
    assert line["stderr"].startswith("(")
    assert "bytes were cut) ..." in line["stderr"]
