"""Commands on a terminal, given what a guest or another server has written: nothing of it steers the terminal."""

import contextlib
import http.server
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import wasmtime

from tests.hostile.test_names import NAMES, safe
from tests.running import RunningServer, component, write_components
from tests.server.admin import AdminServer

HOSTILE = "".join(NAMES[kind] for kind in ("escape", "return", "right-to-left", "c1", "del", "separator", "nul"))


def printing(text: bytes) -> bytes:
    """A guest that writes a text to stdout and to stderr."""
    data = "".join(f"\\{byte:02x}" for byte in text)
    return bytes(
        wasmtime.wat2wasm(
            f"""(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 0) "\\10\\00\\00\\00\\{len(text):02x}\\00\\00\\00")
            (data (i32.const 16) "{data}")
            (func (export "_start") (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
              (drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
        )
    )


def on_terminal(*arguments: str, cwd: Path) -> str:
    """Return what a command writes to a terminal, which makes `\\r\\n` of each line end."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as reading:
        process = subprocess.Popen(
            [sys.executable, "-m", "sandboxd", *arguments],
            cwd=cwd,
            env={**os.environ, "SANDBOXD_CACHE_FOLDER": str(cwd / "cache"), "TERM": "dumb", "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # the last who had the other end has closed it
            while part := reading.read(65536):
                written += part
        process.wait(60)
    return written.decode().replace("\r\n", "\n")


def test_run_and_invoke_make_the_output_of_a_guest_safe(tmp_path: Path) -> None:
    text = f"\x1b[32mgreen\x1b[0m {HOSTILE}\n".encode()
    guest = tmp_path / "printing.wasm"
    guest.write_bytes(printing(text))
    told = on_terminal("run", str(guest), cwd=tmp_path)
    # The line of a compilation that goes on, which is ours, is before it.
    written = told[told.index("\x1b[32mgreen") :]
    assert written.count("\x1b[32mgreen\x1b[0m ") == 2
    safe(written.replace("\x1b[32m", "").replace("\x1b[0m", ""))
    piped = subprocess.run(
        [sys.executable, "-m", "sandboxd", "run", str(guest)],
        env={**os.environ, "SANDBOXD_CACHE_FOLDER": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert (piped.stdout, piped.stderr) == (text, text)
    with RunningServer(write_components(tmp_path / "resources", [component("p", f"file://{guest}")])) as server:
        written = on_terminal("invoke", "p", "--url", server.base_url, cwd=tmp_path)
    assert written.startswith("\x1b[32mgreen\x1b[0m ")
    safe(written.replace("\x1b[32m", "").replace("\x1b[0m", ""))


DOCUMENT = {"server": {}, "pools": {}, "bindings": [], "workers": []}
ANSWERS = {
    "empty": json.dumps(DOCUMENT),
    "lists": json.dumps({**DOCUMENT, "server": [HOSTILE], "bindings": HOSTILE}),
    "nested": "[" * 100_000,
    "text": HOSTILE,
}


@pytest.fixture
def other() -> Iterator[str]:
    """A server that is none of ours. Its answer is named by the path of its address."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers[0].encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - likewise

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


answers = [""]


needs_rich = pytest.mark.skipif(find_spec("rich") is None, reason="needs rich: pip install 'sandboxd[top]'")


@needs_rich
@pytest.mark.parametrize("answer", ANSWERS)
def test_top_believes_no_answer(other: str, tmp_path: Path, answer: str) -> None:
    answers[0] = ANSWERS[answer]
    told = on_terminal("top", other, "--once", cwd=tmp_path)
    safe(told)
    assert "the answer is not a status document" in told
    assert "Traceback" not in told


@needs_rich
def test_top_makes_every_text_of_a_document_safe(other: str, tmp_path: Path) -> None:
    guest = tmp_path / "printing.wasm"
    guest.write_bytes(printing(b"x"))
    with AdminServer(write_components(tmp_path / "resources", [component("p", f"file://{guest}")])) as server:
        found = server.status()

    def replaced(value: object) -> object:
        if isinstance(value, dict):
            return {key: replaced(one) for key, one in value.items()}
        if isinstance(value, list):
            return [replaced(one) for one in value]
        return HOSTILE if isinstance(value, str) else value

    answers[0] = json.dumps(replaced(found))
    told = on_terminal("top", other, "--once", cwd=tmp_path)
    safe(told)
    assert r"\x1b]0;owned" in told


@pytest.mark.parametrize("address", ["http://[x", "http://x:y", "http://x:99999", HOSTILE.replace("\0", ""), "//", ""])
def test_no_address_makes_a_traceback(tmp_path: Path, address: str) -> None:
    for command in (("top", "--once", address), ("invoke", "p", "--url", address)):
        told = on_terminal(*command, cwd=tmp_path)
        safe(told)
        assert "Traceback" not in told
        assert told.startswith("sandboxd: ")
