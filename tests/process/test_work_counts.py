"""How much work a request is, in counts that no slow machine changes: a regression of speed that a test can show.

Ceilings are what was counted on Python 3.11, and some room for other versions. Whoever raises one says why in the
commit. `python -m bench.counts` prints the counts. Not tested here: how long any of it takes (see bench/).
"""

from collections import Counter
from pathlib import Path

import pytest

from bench import counts
from tests.guests import path as guest
from tests.running import RunningServer, component, write_components

WORKER = {
    "host calls": 5,  # args_sizes_get, args_get, fd_read, fd_write, fd_read
    "calls into wasmtime": 16,
    "Python calls": 66,
    "native calls": 60,
    "retained blocks": 0.5,
}
FRONT = {
    "Python calls": 180,
    "native calls": 165,
    "writes to the worker": 1,
    "writes to the caller": 1,
    "retained blocks": 1.0,
}
WORKER_SYSTEM_CALLS = 4.0  # recvfrom, sendto, madvise of the memory slot
FRONT_SYSTEM_CALLS = 11.0  # read and write for caller and worker, and the loop's own

REQUESTS = 200


def exceeding(counted: dict[str, float], ceilings: dict[str, float]) -> dict[str, float]:
    assert counted.keys() == ceilings.keys()
    return {name: value for name, value in counted.items() if value > ceilings[name]}


def test_an_invocation_in_a_worker() -> None:
    assert exceeding(counts.worker_counts(), WORKER) == {}


def test_a_request_in_the_front() -> None:
    pytest.importorskip("uvicorn")
    assert exceeding(counts.front_counts(), FRONT) == {}


@pytest.mark.parametrize("role", ["front", "worker"])
def test_system_calls(role: str, tmp_path: Path) -> None:
    resources = write_components(tmp_path / "components", [component("tiny", f"file://{guest('tiny')}")])
    counted: Counter[str] = Counter()
    with RunningServer(resources, "--workers", "1", "--engine", "auto") as server, server.client() as client:

        def request() -> None:
            reply = client.post("/v1.0/bindings/tiny", content=b'{"operation":"execute","data":"hello"}')
            assert reply.content == b'"HELLO"'

        for _ in range(20):
            request()
        pids = server.processes()
        pid = pids[0] if role == "front" else pids[-1]
        try:
            with counts.system_calls(pid) as counted:
                for _ in range(REQUESTS):
                    request()
        except counts.NotPermittedError as missing:
            pytest.skip(str(missing))
    ceiling = FRONT_SYSTEM_CALLS if role == "front" else WORKER_SYSTEM_CALLS
    # Sweeps and collections come by the clock, not by the request: they may add a call here and there.
    assert counted.total() / REQUESTS <= ceiling, counted
    assert counted.total() >= 2 * REQUESTS, "strace looked at another process"
