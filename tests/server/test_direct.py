"""Requests that are answered without ASGI: the same bytes, counts and log lines as with it.

Two fronts on uvicorn get the same requests; one of them answers plain ones directly, the other sends all to the ASGI
application. Not tested here: the pool (`tests/process`), and what both do alike (`test_front_api`).
"""

import base64
import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.callers import connect, read_all, statuses
from tests.server.fronts import Front, started
from tests.server.test_golden import CASES

pytest.importorskip("uvicorn")

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LAST = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
COUNTS = b'{"operation":"execute","metadata":{"args":"do=counts"}}'
OUTCOMES = (
    *("exit", "full", "waited", "closing", "loading", "broken", "bug", "empty", "args,a,b"),
    *("trapped", "deadline_exceeded", "output_exceeded", "cancelled", "worker_lost", "host_failed"),
)

Pair = tuple[Front, Front]


def post(body: bytes, headers: bytes = b"", target: bytes = b"/v1.0/bindings/echo", method: bytes = b"POST") -> bytes:
    head = b"%b %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
    return head % (method, target, headers, len(body)) + body


def do(what: str) -> bytes:
    return json.dumps({"operation": "execute", "metadata": {"args": f"do={what}"}}).encode()


ECHO = b'{"operation":"execute","data":"<&>"}'

PLAIN = {
    "echo": post(ECHO),
    "put": post(ECHO, method=b"PUT"),
    "escaped name": post(ECHO, target=b"/v1.0/bindings/other%20name"),
    "traced": post(do("args"), b"traceparent: %b\r\n" % PARENT),
    "a trace that is none": post(do("args"), b"traceparent: 00-0-0-00\r\n"),
    "two parents": post(do("args"), b"traceparent: %b\r\ntraceparent: x\r\n" % PARENT),
    "headers without a meaning": post(ECHO, b"accept: */*\r\norigin: http://a\r\nx-a: 1\r\ncontent-type: a/b\r\n"),
    "no body": b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\n\r\n",
    "last": post(ECHO, b"connection: close\r\n"),
    "stdin": post(b'{"operation":"execute","metadata":{"stdin":"text"},"data":"a"}'),
    "stdin of no kind": post(b'{"operation":"execute","metadata":{"stdin":"x"}}'),
    "stdin that does not fit": post(b'{"operation":"execute","metadata":{"stdin":"base64"},"data":[]}'),
    "no operation": post(b"{}"),
    "another operation": post(b'{"operation":"x"}'),
    "no json": post(b"\xff{"),
    "nul": post(b'{"operation":"execute","metadata":{"args":"a\\u0000"}}'),
    **{what: post(do(what)) for what in OUTCOMES},
}
OTHERS = {
    "long": post(b'{"operation":"execute","data":"%b"}' % (b"x" * 32768)),
    "chunked": b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(ECHO), ECHO),
    "expect": post(ECHO, b"expect: 100-continue\r\n"),
    "another expectation": post(ECHO, b"expect: x\r\n"),
    "baggage": post(do("args"), b"baggage: a=b\r\ntraceparent: %b\r\n" % PARENT),
    "bad baggage": post(ECHO, b"baggage: a\r\n"),
    "state": post(do("args"), b"tracestate: a=b\r\ntraceparent: %b\r\n" % PARENT),
    "stdout": post(b'{"operation":"execute","metadata":{"stdout":"json"},"data":"a"}'),
    "stdout with an escape": post(b'{"operation":"execute","metadata":{"std\\u006fut":"json"},"data":"a"}'),
    "stdout of no kind": post(b'{"operation":"execute","metadata":{"stdout":"x"}}'),
    "http/1.0": b"POST /v1.0/bindings/echo HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(ECHO) + ECHO,
    "query": post(ECHO, target=b"/v1.0/bindings/echo?a=b"),
    "another spelling": post(ECHO, target=b"/v1.0//bindings/echo"),
    "whole target": post(ECHO, target=b"http://a/v1.0/bindings/echo"),
    "unknown": post(ECHO, target=b"/v1.0/bindings/nobody"),
    "raw": post(b"raw", target=b"/v1.0/bindings/echo/raw"),
    "get": b"GET /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\n\r\n",
    "no host": b"POST /v1.0/bindings/echo HTTP/1.1\r\n\r\n",
    "two hosts": post(ECHO, b"host: y\r\n"),
    "two lengths": post(ECHO, b"content-length: 1\r\n"),
    "length and coding": post(ECHO, b"transfer-encoding: chunked\r\n"),
}
ENDS = {"last", "http/1.0", "no host", "two hosts", "two lengths", "length and coding"}
"""Those whose answer ends the connection."""
OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with started("uvicorn", log="error") as direct, started("uvicorn", direct="no", log="error") as asgi:
        yield direct, asgi


@pytest.fixture(scope="module")
def others() -> Iterator[Pair]:
    """As `pair`, for tests that do not send the same to both: an answer may tell how many guests ran before."""
    with started("uvicorn", log="error") as direct, started("uvicorn", direct="no", log="error") as asgi:
        yield direct, asgi


def answers(front: Front, stream: bytes, cuts: list[int]) -> bytes:
    """Send a stream in pieces, and return what comes until the end of the connection."""
    with connect(front) as connection:
        edges = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
        with contextlib.suppress(ConnectionError):  # refused before the end
            for begin, end in itertools.pairwise(edges):
                connection.sendall(stream[begin:end])
        return read_all(connection)


def comparable(answer: bytes) -> bytes:
    """An answer without what differs between any two: its date, ids of spans, and those of traces that begin here."""
    answer = re.sub(rb"\r\ndate: [^\r]*", b"\r\ndate: now", answer)

    def same(match: re.Match[bytes]) -> bytes:
        trace = match[1] if match[1] in PARENT else b"new"
        return b"00-%b-span-%b" % (trace, match[2])

    return re.sub(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})", same, answer)


def both(pair: Pair, stream: bytes, cuts: list[int] | None = None) -> bytes:
    """Send a stream to both, and return what both answer."""
    direct, asgi = (comparable(answers(front, stream, cuts or [])) for front in pair)
    assert direct == asgi
    return direct


def begun(front: Front) -> int:
    """How many invocations have begun without ASGI, with the one that asks."""
    found: int = json.loads(answers(front, post(COUNTS, b"connection: close\r\n"), []).partition(b"\r\n\r\n")[2])[2]
    return found


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_golden(pair: Pair, case: dict[str, Any]) -> None:
    both(pair, post(base64.b64decode(case["body_b64"])) + LAST)


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_the_same_bytes(pair: Pair, name: str) -> None:
    request = (PLAIN | OTHERS)[name]
    last = b"" if name in ENDS else LAST
    head = request.index(b"\r\n\r\n") + 4
    for cuts in ([], [head], [head + 1], [10, head - 2, head + 2], list(range(1, len(request)))[:60]):
        both(pair, request + last, cuts)


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_which_requests_are_plain(others: Pair, name: str) -> None:
    direct, asgi = others
    before = begun(direct)
    answers(direct, (PLAIN | OTHERS)[name] + LAST, [])
    fails_first = name in ("no body", "no operation", "another operation", "no json", "nul") or name.startswith(
        "stdin "
    )
    assert begun(direct) - before == 1 + (name in PLAIN and not fails_first)
    assert begun(asgi) == 0


def test_a_body_behind_its_head(others: Pair) -> None:
    """Many clients write the body apart. Java's offers an upgrade, too."""
    front = others[0]
    for headers in (b"", OFFER):
        request = post(ECHO, headers + b"connection: close\r\n")
        for _ in range(50):
            before = begun(front)
            with connect(front) as connection:
                connection.sendall(request[: -len(ECHO)])
                connection.sendall(ECHO)
                assert read_all(connection).endswith(b'\r\n\r\n"\\u003c\\u0026\\u003e"')
            if begun(front) - before == 2:
                break  # on a busy machine the body may come late, and is then left to ASGI
        else:
            pytest.fail("the body is never waited for")


def test_several_requests_at_once(pair: Pair) -> None:
    kinds = [PLAIN["echo"], OTHERS["chunked"], PLAIN["bug"], PLAIN["no json"], OTHERS["raw"], PLAIN["put"]]
    stream = b"".join(kinds * 5) + LAST
    for cuts in ([], [7, 100, 555], list(range(0, len(stream), 13))):
        assert len(statuses(both(pair, stream, cuts))) == 31
    both(pair, PLAIN["echo"] + b"nonsense\r\n\r\n" + PLAIN["echo"])
    # What is refused without asking a guest is answered before more is parsed, so that the caller hears of both.
    direct, asgi = (statuses(answers(front, PLAIN["no json"] + b"nonsense\r\n\r\n", [])) for front in pair)
    assert (direct, asgi) == ([400, 400], [400])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
METADATA = st.dictionaries(
    st.sampled_from(("args", "argv", "env.A", "env.FIXED", "stdin", "stdout", "traceparent", "x")),
    st.sampled_from([f"do={what}" for what in OUTCOMES]) | st.sampled_from(("text", "json", "base64", '["a"]', "")),
    max_size=3,
)
BODIES = st.one_of(
    st.builds(
        lambda operation, metadata, data: json.dumps({"operation": operation, "metadata": metadata, "data": data}),
        st.sampled_from(("execute", "execute", "execute", "", "get")),
        METADATA,
        JSON,
    ).map(str.encode),
    st.binary(max_size=40),
    st.sampled_from([base64.b64decode(case["body_b64"]) for case in CASES]),
)
HEADERS = st.lists(
    st.sampled_from(
        (
            b"traceparent: %b\r\n" % PARENT,
            b"traceparent: x\r\n",
            b"tracestate: a=b\r\n",
            b"baggage: a=b\r\n",
            b"baggage: =\r\n",
            b"expect: 100-continue\r\n",
            b"connection: keep-alive\r\n",
            b"accept-encoding: gzip\r\n",
            b"dapr-api-token: t\r\n",
            b"x-" + b"a" * 300 + b": 1\r\n",
            b"te: trailers\r\n",
            OFFER,
        )
    ),
    max_size=3,
    unique=True,
).map(b"".join)
REQUESTS = st.builds(
    post,
    BODIES,
    HEADERS,
    st.sampled_from(
        (b"/v1.0/bindings/echo",) * 4 + (b"/v1.0/bindings/other%20name", b"/v1.0/bindings/other+name", b"/")
    ),
    st.sampled_from((b"POST", b"POST", b"PUT", b"GET")),
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=3), cuts=st.lists(st.integers(1, 900), max_size=4))
def test_any_requests(pair: Pair, requests: list[bytes], cuts: list[int]) -> None:
    both(pair, b"".join(requests) + LAST, cuts)


@pytest.fixture(scope="module", params=["never", "late"])
def crowded(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with (
        started("uvicorn", log="error", dapr="yes", room=request.param) as direct,
        started("uvicorn", direct="no", log="error", dapr="yes", room=request.param) as asgi,
    ):
        yield direct, asgi


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_at_the_gate(crowded: Pair, name: str) -> None:
    last = b"" if name in ENDS else LAST
    both(crowded, (PLAIN | OTHERS)[name] + last)


def test_several_requests_at_the_gate(crowded: Pair) -> None:
    answer = both(crowded, post(ECHO) * 3 + post(b"{}") + PLAIN["args,a,b"] + LAST)
    assert len(statuses(answer)) == 6
    assert counted(crowded[0]) == counted(crowded[1])


def test_the_token() -> None:
    with started("uvicorn", token="t", log="error") as direct, started("uvicorn", token="t", direct="no") as asgi:
        before = begun_with_token(direct)
        for token in (b"", b"t", b" t", b"x", b"t\r\ndapr-api-token: x", b"x\r\ndapr-api-token: t"):
            both((direct, asgi), post(ECHO, b"dapr-api-token: %b\r\n" % token) + LAST)
        assert begun_with_token(direct) - before == 4


def begun_with_token(front: Front) -> int:
    stream = post(COUNTS, b"dapr-api-token: t\r\nconnection: close\r\n")
    found: int = json.loads(answers(front, stream, []).partition(b"\r\n\r\n")[2])[2]
    return found


def test_no_request_is_plain_where_answers_have_cors_headers() -> None:
    with started("uvicorn", origins="http://a") as front:
        assert b"vary: Origin" in answers(front, PLAIN["echo"] + LAST, [])
        assert begun(front) == 0


def counted(front: Front) -> dict[str, str]:
    """The counts of the metrics, without those of time and of the process."""
    page = answers(front, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", []).decode()
    lines = [line.rpartition(" ") for line in page.splitlines() if line.startswith(("sandboxd_", "dapr_"))]
    timed = ("_bucket", "_sum{", "_created", "event_loop", "front_cpu", "build", "start_time")
    return {name: value for name, _, value in lines if not any(word in name for word in timed)}


def logged(front: Front) -> Counter[tuple[Any, ...]]:
    """The lines of the log, without times and ids."""
    lines = [json.loads(line) for line in front.log.splitlines() if line.startswith("{")]
    keys = ("level", "message", "binding", "outcome", "status", "error_code", "reason", "stderr", "stdout_bytes")
    return Counter(tuple(str(line.get(key)) for key in keys) for line in lines)


def test_the_same_counts_and_log_lines() -> None:
    with (
        started("uvicorn", log="debug", dapr="yes") as direct,
        started("uvicorn", log="debug", dapr="yes", direct="no") as asgi,
    ):
        for request in [*(PLAIN | OTHERS).values(), *PLAIN.values()]:
            both((direct, asgi), request + LAST)
        assert counted(direct) == counted(asgi)
    assert logged(direct) == logged(asgi)
    assert len(logged(direct)) > 20
