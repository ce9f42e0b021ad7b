"""The orders in which Dapr's wasi-http lets a core guest act on a request, and what comes of it.

There is no oracle to run here: the expectations are read from wasi-go's `imports/wasi_http`. A request keeps what was
written to it; `handle` sends all of that at once (default_http/request.go), as often as it is called; nothing has to be
finished, and dropping a stream takes nothing back (streams/write.go, types/request.go). Go sends no body with an empty
buffer (net/http, NewRequest).
"""

from collections.abc import Iterator

import pytest

from hostfuncs.outbound import Outbound
from tests.host.legacy_guests import c_walk
from tests.host.legacy_runner import Runner
from tests.origins import Origin

pytestmark = pytest.mark.build


@pytest.fixture(scope="module")
def walker() -> Iterator[Runner]:
    outbound = Outbound()
    yield Runner(c_walk(), outbound)
    outbound.close()


ORDERS = [
    # steps, the size of each body the origin got
    ("request, handle, wait=200, read=0", [0]),
    ("request, open, put-5, drop-stream, handle, wait=200, read=5", [5]),
    ("request, open, put-5, handle, wait=200, read=5, drop-stream", [5]),
    ("request, open, put-5, put-3, drop-stream, handle, wait=200, read=8", [8]),
    ("request, open, handle, wait=200, read=0", [0]),
    ("request, open, drop-stream, handle, wait=200, read=0", [0]),
    ("request, open, put-0, drop-stream, handle, wait=200, read=0", [0]),
    ("request, open, put-1048576, put-1048576, drop-stream, handle, wait=200, read=2097152", [2 << 20]),
    # once
    ("request, open, open=refused, put-5, handle, wait=200, read=5", [5]),
    ("request, open, drop-stream, open=refused, handle, wait=200", [0]),
    # after it was sent
    ("request, open, put-5, handle, put-3=refused, wait=200, read=5", [5]),
    ("request, open, put-5, handle, drop-request, wait=200, read=5", [5]),
    ("request, open, put-5, handle, wait=200, drop-future, drop-request, read=5, drop-response", [5]),
    ("request, open, put-5, handle, wait=200, read=5, handle, wait=200, read=5", [5, 5]),
    # never sent
    ("request, open, put-5, drop-stream, drop-request", []),
    ("request, open, put-5, drop-request, put-3", []),
]


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
@pytest.mark.parametrize(("line", "bodies"), ORDERS, ids=[line for line, _ in ORDERS])
def test_orders(walker: Runner, method: str, line: str, bodies: list[int]) -> None:
    told = [step.strip() for step in line.split(",")]
    with Origin() as origin:
        ran = walker.run(origin.authority, method, "/echo", *(step.partition("=")[0] for step in told))
        assert (ran.failure, ran.ended) == (None, None), ran.stdout
        assert ran.stdout.decode().splitlines() == told
        assert [(seen.method, len(seen.body)) for seen in origin.seen] == [(method, size) for size in bodies]
        if method == "GET":
            lengths = [seen.get("content-length") for seen in origin.seen]
            assert lengths == [str(size) if size else None for size in bodies]
