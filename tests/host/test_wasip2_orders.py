"""Every order in which wasi:http lets a guest act on an outgoing request, and what comes of it.

The expectations are wasmtime's (see `tests/host/orders.py`). The second test puts the same table to wasmtime's own
command line, so that a new release that behaves otherwise is noticed.
"""

from collections.abc import Iterator

import httpx2 as httpx
import pytest

from sandboxd.wire.messages import HttpRequest
from tests.guests.cache import ToolMissingError, skip_or_fail
from tests.guests.component.build import python_component
from tests.host.components import ANY_HOST, Components, Loaded
from tests.host.orders import REQUESTS, RESPONSES, RequestCase, ResponseCase, told_lines
from tests.host.wasmtime_cli import wasmtime_run, wasmtime_serve
from tests.origins import Origin

pytestmark = pytest.mark.build


@pytest.fixture(scope="module")
def walker(components: Components) -> Iterator[Loaded]:
    with components.load(python_component("walk", "both"), outbound=ANY_HOST) as guest:
        yield guest


def check(case: RequestCase, origin: Origin, steps: tuple[str, ...], stdout: bytes) -> None:
    assert told_lines(stdout) == steps
    found = [(seen.method, seen.body, seen.get("content-length")) for seen in origin.seen if seen.whole]
    wanted = [] if case.arrives is None else [(case.method, b"x" * case.arrives)]
    assert [(method, body) for method, body, _ in found] == wanted
    if case.method in ("GET", "HEAD") and not case.arrives:
        assert [length for _, _, length in found] == [None] * len(found)


@pytest.mark.parametrize("case", REQUESTS, ids=str)
def test_requests(walker: Loaded, case: RequestCase) -> None:
    with Origin() as origin:
        result = walker.run(origin.authority, case.method, case.path, *case.steps, timeout_s=5 if case.hangs else 60)
        assert result.outcome == case.outcome, result.detail
        check(case, origin, case.told, result.stdout)


@pytest.mark.parametrize("case", [case for case in REQUESTS if not case.differs], ids=str)
def test_wasmtime_does_the_same(case: RequestCase) -> None:
    with Origin() as origin:
        try:
            done = wasmtime_run(
                python_component("walk", "both"),
                origin.authority,
                case.method,
                case.path,
                *case.steps,
                timeout_s=10 if case.hangs else 60,
            )
        except ToolMissingError as missing:
            skip_or_fail(missing)
        check(case, origin, case.told, done)


@pytest.mark.parametrize("case", RESPONSES, ids=str)
def test_responses(walker: Loaded, case: ResponseCase) -> None:
    http = HttpRequest(method="GET", scheme="http", authority="api.test", path=f"/walk?{case.query}")
    result = walker.run(http=http)
    assert told_lines(result.stderr) == case.told
    assert result.outcome == ("completed" if case.size is not None else "trapped"), result.detail
    if case.size is not None:
        assert (result.http and result.http.status, result.stdout) == (200, b"x" * case.size)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of wasmtime's own server with the same guest."""
    log = tmp_path_factory.mktemp("wasmtime") / "stderr"
    try:
        with wasmtime_serve(python_component("walk", "both"), log) as url:
            yield url
    except ToolMissingError as missing:
        skip_or_fail(missing)


@pytest.mark.parametrize("case", [case for case in RESPONSES if not case.differs], ids=str)
def test_wasmtime_answers_the_same(oracle: str, case: ResponseCase) -> None:
    try:
        answer = httpx.get(f"{oracle}/walk?{case.query}", timeout=60)
        found = len(answer.content) if answer.status_code == 200 else None
    except httpx.RemoteProtocolError:
        found = None
    assert found == case.size
