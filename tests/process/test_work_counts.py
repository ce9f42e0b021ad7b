"""Counts of the work for a request. They show a regression of speed, whatever the speed of the machine.

Ceilings are what was counted on Python 3.11, and some room for other versions. Whoever raises one says why in the
commit. `python -m bench.counts` prints the counts. Not tested here: how long any of it takes (see bench/).
"""

import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from bench import counts
from bench.frontpath import FAILED
from tests.guests import path as guest
from tests.host.native import need_native
from tests.running import RunningServer, component, write_components

WORKER = {
    "host calls": 0,
    "calls into wasmtime": 0,  # one into hostfuncs.native, which makes them all
    "Python calls": 27,  # 20, and up to 6 in a process in which other tests have called out
    "native calls": 17,  # 11, and as many
    "retained blocks": 0.5,
}
WORKER_IN_PYTHON = {
    "host calls": 5,  # args_sizes_get, args_get, fd_read, fd_write, fd_read
    "calls into wasmtime": 15,
    "Python calls": 66,
    "native calls": 57,  # 48, and three for each host call whose values lie where none have lain before
    "retained blocks": 0.5,
}
WORKER_FAILED = {
    "host calls": 0,
    "calls into wasmtime": 1,  # that deletes the trap
    "Python calls": 33,  # 27, and what stands above
    "native calls": 20,
    "retained blocks": 0.5,
}
"""Of a guest that traps where it has trapped before."""
FRONT = {
    "Python calls": 89,
    "native calls": 87,  # a few of them are for all that the histograms count at once
    "writes to the worker": 1,
    "writes to the caller": 1,
    "retained blocks": 1.0,
}
FRONT_PARSED = {
    "Python calls": 104,
    "native calls": 100,
    "writes to the worker": 1,
    "writes to the caller": 1,
    "retained blocks": 1.0,
}
FRONT_FAILED = {
    "Python calls": 110,
    "native calls": 105,
    "writes to the worker": 1,
    "writes to the caller": 1,
    "retained blocks": 1.0,
}
"""Of a guest that wrote to stderr and exited with 1. That the line is sampled is a part of it."""
WORKER_SYSTEM_CALLS = 4.0  # recvfrom, sendto, madvise of the memory slot
CALLS_BY_THE_CLOCK = 100
"""System calls that a process may make in a second without any request."""
FRONT_SYSTEM_CALLS = 4.0  # read and write, for the caller and for the worker
LOOP_TURNS = frozenset({"epoll_pwait", "epoll_wait", "getpid"})
"""What each turn of the event loop makes. A busy machine spreads the same work over more turns, so they are no gate."""

REQUESTS = 200


def exceeding(counted: dict[str, float], ceilings: dict[str, float]) -> dict[str, float]:
    assert counted.keys() == ceilings.keys()
    return {name: value for name, value in counted.items() if value > ceilings[name]}


def test_an_invocation_in_a_worker() -> None:
    need_native()
    assert exceeding(counts.worker_counts(), WORKER) == {}


def test_an_invocation_in_a_worker_with_host_functions_in_python() -> None:
    assert exceeding(counts.worker_counts(native_functions=False), WORKER_IN_PYTHON) == {}


@pytest.mark.parametrize(("guest", "outcome"), [(counts.TRAPS, "trapped"), (counts.EXITS, "exit_nonzero")])
def test_an_invocation_that_fails_in_a_worker(guest: str, outcome: str) -> None:
    need_native()
    assert exceeding(counts.worker_counts(guest, outcome=outcome), WORKER_FAILED) == {}


def test_a_request_in_the_front() -> None:
    pytest.importorskip("uvicorn")
    assert exceeding(counts.front_counts(), FRONT) == {}


def test_a_request_in_the_front_whose_head_is_new() -> None:
    pytest.importorskip("uvicorn")
    assert exceeding(counts.front_counts(repeats=False), FRONT_PARSED) == {}


def test_a_failed_request_in_the_front() -> None:
    pytest.importorskip("uvicorn")
    assert exceeding(counts.front_counts(FAILED), FRONT_FAILED) == {}


@pytest.mark.parametrize(
    ("role", "page"), [("front", "off"), ("front", "127.0.0.1:0"), ("worker", "off")], ids=["front", "page", "worker"]
)
def test_system_calls(role: str, page: str, tmp_path: Path) -> None:
    """The status page has the same ceiling: what it keeps is counted in any case, and looked at by the clock."""
    resources = write_components(tmp_path / "components", [component("tiny", f"file://{guest('tiny')}")])
    counted: Counter[str] = Counter()
    # Polling asks by the clock, not by the request: the slower the machine, the more often.
    # Watching files begins at some time after the start.
    environ = {"SANDBOXD_POOL_POLLING": "false", "SANDBOXD_ADMIN_LISTEN": page, "SANDBOXD_RELOAD_WATCH": "false"}
    body = b'{"operation":"execute","data":"hello"}'
    head = b"POST /v1.0/bindings/tiny HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    with (
        RunningServer(resources, "--workers", "1", "--engine", "auto", environ=environ) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as caller,
    ):

        def request() -> None:
            # One write: of a caller who writes the head and the body apart, the front may read each alone.
            caller.sendall(head + body)
            reply = b""
            while not reply.endswith(b'"HELLO"'):
                received = caller.recv(4096)
                assert received, reply
                reply += received

        for _ in range(20):
            request()
        pids = server.processes()
        pid = pids[0] if role == "front" else pids[-1]
        try:
            with counts.system_calls(pid) as counted:
                began = time.monotonic()
                for _ in range(REQUESTS):
                    request()
                passed = time.monotonic() - began
        except counts.NotPermittedError as missing:
            pytest.skip(str(missing))
    ceiling = FRONT_SYSTEM_CALLS if role == "front" else WORKER_SYSTEM_CALLS
    made = counted.total() - sum(counted[name] for name in LOOP_TURNS)
    # Sweeps and collections come by the clock, not by the request: the slower the machine, the more of them.
    assert made <= ceiling * REQUESTS + CALLS_BY_THE_CLOCK * passed, counted
    assert made >= 2 * REQUESTS, "strace looked at another process"


@pytest.mark.parametrize("page", ["off", "127.0.0.1:0"])
def test_a_server_without_the_status_page_does_not_even_load_it(page: str, tmp_path: Path) -> None:
    resources = write_components(tmp_path / "components", [component("tiny", f"file://{guest('tiny')}")])
    options = ("--workers", "1", "--engine", "auto")
    environ = {"SANDBOXD_ADMIN_LISTEN": page}
    with RunningServer(resources, *options, environ=environ, interpreter=("-X", "importtime")) as server:
        assert server.invoke("tiny", "x").status_code == 200
    loaded = {str(line["raw"]).rpartition("|")[2].strip() for line in server.lines if "raw" in line}
    assert "sandboxd.server.serve" in loaded, "the imports are told"
    assert any(name.startswith("sandboxd.admin.") for name in loaded) == (page != "off")
