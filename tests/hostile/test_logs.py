"""Guests that write and fail as often as they can: the log stays small, what it leaves out is counted and said."""

import json
import time
from collections.abc import Iterator

import pytest
import wasmtime

from sandboxd import log
from sandboxd.front.answering.sampling import FEW, PERIOD_S
from tests.conftest import guest_component
from tests.running import RunningServer, component, write_components
from tests.waiting import until

CALLS = 600

NOISY = """(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start") (memory.fill (i32.const 1024) (i32.const 0x1b) (i32.const 65536))
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 65536))
    (drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("logs")
    (folder / "noisy.wasm").write_bytes(bytes(wasmtime.wat2wasm(NOISY)))
    documents = [component("noisy", f"file://{folder}/noisy.wasm"), guest_component("trap"), guest_component("stderr")]
    with RunningServer(write_components(folder / "resources", documents), "--workers", "1") as running:
        yield running


def calls(server: RunningServer, name: str, event: str) -> tuple[int, float]:
    """Make many calls, until a line tells of this event.

    Returns:
        the number of the first line that they caused, and the seconds that they took.
    """
    since, began = len(server.lines), time.monotonic()
    with server.client() as client:
        for _ in range(CALLS):
            client.post(f"/v1.0/bindings/{name}", content=b'{"operation":"execute"}')
    took = time.monotonic() - began
    server.wait_for(lambda line: line.get("event") == event, since=since)
    return since, took


def lines_of(server: RunningServer, since: int, message: str) -> list[dict[str, object]]:
    return [line for line in server.lines[since:] if line["message"] == message]


def dropped(server: RunningServer, source: str, name: str) -> float:
    return server.metric("sandboxd_log_lines_dropped_total", source=source, binding=name)


def test_what_guests_write_is_bounded(server: RunningServer) -> None:
    before = dropped(server, "stderr of guests", "noisy")
    since, took = calls(server, "noisy", "lines_dropped")

    def mine() -> int:
        return len(lines_of(server, since, "guest wrote to stderr"))

    # The last lines come through the pipe of stderr, and may be later than the answers.
    until(
        lambda: dropped(server, "stderr of guests", "noisy") - before + mine() == CALLS,
        "each line is there or counted as dropped",
    )
    found = server.lines[since:]
    assert 0 < mine() <= log.GUEST_LINES_PER_S * (log.BURST_S + took) + 1
    written = sum(len(json.dumps(line)) for line in found)
    assert written <= log.GUEST_BYTES_PER_S * (log.BURST_S + took + 2)
    said = [line for line in found if line.get("event") == "lines_dropped"]
    assert len(said) <= took / log.SUMMARY_S + 2


def test_failed_requests_are_sampled_and_all_are_counted(server: RunningServer) -> None:
    before = dropped(server, "failed requests", "trap")
    requests = server.metric("sandboxd_requests_total", binding="trap", protocol="http", outcome="trapped")
    since, took = calls(server, "trap", "failures_counted")

    def counted() -> int:
        lines = [line for line in server.lines[since:] if line.get("event") == "failures_counted"]
        assert {(line["binding"], line["outcome"]) for line in lines} <= {("trap", "trapped")}
        return sum(int(str(line["count"])) for line in lines)

    def mine() -> int:
        return len(lines_of(server, since, "request failed"))

    until(lambda: counted() + mine() == CALLS, "each failure is logged or counted in the log")
    assert dropped(server, "failed requests", "trap") - before == counted()
    now = server.metric("sandboxd_requests_total", binding="trap", protocol="http", outcome="trapped")
    assert now - requests == CALLS
    assert 0 < mine() <= FEW * (took / PERIOD_S + 2)


def test_one_binding_leaves_the_others_their_lines(server: RunningServer) -> None:
    calls(server, "noisy", "lines_dropped")
    since = len(server.lines)
    server.invoke("stderr", metadata={"args": "heard"})
    server.wait_for(lambda line: line.get("binding") == "stderr" and "stderr" in line, since=since)
