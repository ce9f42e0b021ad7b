"""Fronts with other settings: token, CORS, body and head limits, hang-ups, the end."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.certificates import Authority
from tests.server.fronts import ENGINES, Front, started
from tests.waiting import BOUND_S

pytestmark = pytest.mark.slow
"""Each test starts a server of its own."""

TOKEN = "s3cret<&>"


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def post(front: Front, body: bytes, **more: object) -> httpx.Response:
    return httpx.post(f"{front.base_url}/v1.0/bindings/echo", content=body, verify=False, timeout=120, **more)  # type: ignore[arg-type]


def test_token_and_cors(engine: str) -> None:
    body = b'{"operation":"execute","data":1}'
    with started(engine, token=TOKEN, origins="http://a.example,http://*.b.example") as front:
        refused = post(front, b"", headers={"dapr-api-token": "wrong"})
        assert (refused.status_code, refused.text) == (401, "invalid api token\n")
        assert refused.headers["content-type"] == "text/plain; charset=utf-8"
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert httpx.get(f"{front.base_url}/v1.0/metadata", verify=False, timeout=BOUND_S).status_code == 401
        assert httpx.post(f"{front.base_url}/v1.0/healthz", verify=False, timeout=BOUND_S).status_code == 401
        for path in ("/v1.0/healthz", "/v1.0/healthz/outbound", "/livez", "/readyz", "/metrics"):
            assert httpx.get(front.base_url + path, verify=False, timeout=BOUND_S).status_code < 300
        allowed = post(front, body, headers={"dapr-api-token": TOKEN, "origin": "http://x.b.example"})
        assert (allowed.status_code, allowed.content) == (200, b"1")
        assert allowed.headers["access-control-allow-origin"] == "http://x.b.example"
        assert allowed.headers["vary"] == "Origin"
        other = post(front, body, headers={"dapr-api-token": TOKEN, "origin": "http://evil.example"})
        assert other.status_code == 200
        assert "access-control-allow-origin" not in other.headers
        # Preflights carry no token and are answered before it is asked for.
        preflight = httpx.options(
            f"{front.base_url}/v1.0/bindings/echo",
            headers={
                "origin": "http://a.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type, dapr-api-token",
            },
            timeout=BOUND_S,
        )
        assert (preflight.status_code, preflight.content) == (200, b"")
        assert preflight.headers["access-control-allow-origin"] == "http://a.example"
        assert preflight.headers["access-control-allow-methods"] == "POST"
        assert preflight.headers["access-control-allow-headers"] == "Content-Type, Dapr-Api-Token"
    assert TOKEN not in front.log


def test_all_origins_and_not_ready(engine: str) -> None:
    with started(engine, origins="*", missing="components,workers") as front:
        answer = httpx.get(
            f"{front.base_url}/v1.0/healthz", headers={"origin": "http://a"}, verify=False, timeout=BOUND_S
        )
        assert answer.status_code == 500
        assert answer.json() == {
            "errorCode": "ERR_HEALTH_NOT_READY",
            "message": "dapr is not ready: [components workers]",
        }
        assert answer.headers["access-control-allow-origin"] == "*"
        outbound = httpx.get(f"{front.base_url}/v1.0/healthz/outbound", verify=False, timeout=BOUND_S)
        assert outbound.json() == {
            "errorCode": "ERR_OUTBOUND_HEALTH_NOT_READY",
            "message": "dapr outbound is not ready",
        }
        assert httpx.get(f"{front.base_url}/readyz", verify=False, timeout=BOUND_S).status_code == 503
        assert httpx.get(f"{front.base_url}/livez", verify=False, timeout=BOUND_S).status_code == 200


def test_body_limit(engine: str) -> None:
    whole = b'{"operation":"execute","data":"' + b"x" * 9_960 + b'"}'
    limit = len(whole)
    too_large = {
        "errorCode": "ERR_MALFORMED_REQUEST",
        "message": "failed deserializing HTTP body: stream too large",
        "detail": f"the request body is longer than {limit} bytes (listen.maxBodySize)",
    }
    with started(engine, max_body=limit) as front:
        assert post(front, whole).status_code == 200
        assert post(front, whole + b" " * 500).status_code == 200
        # Beyond the limit by far, the first value within it: still answered, the rest is not read.
        assert post(front, whole + b" " * 1_000_000).status_code == 200
        for excess in (1, 1000, 1_000_000):
            longer = whole[:-2] + b"x" * excess + b'"}'
            for content in (longer, iter([longer[:5000], longer[5000:]])):
                answer = httpx.post(f"{front.base_url}/v1.0/bindings/echo", content=content, verify=False, timeout=120)
                assert answer.status_code == 400
                assert answer.json() == too_large


@pytest.mark.slow
def test_a_hostile_body_does_not_stop_the_others(engine: str) -> None:
    # Minus zero takes the exact path, which needs a second for so much of it.
    body = b'{"operation":"execute","data":[' + b"-0," * 500_000 + b"0]}"
    with started(engine) as front, concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(post, front, body)
        answered = 0
        with httpx.Client(base_url=front.base_url, verify=False, timeout=120) as client:
            while not slow.done():
                assert client.get("/livez").status_code == 200
                answered += 1
        # A blocked loop would answer what came before the decoding, and the rest only after it.
        assert answered > 5
        assert slow.result(timeout=120).content.startswith(b"[-0,-0,")


def test_head_limit(engine: str) -> None:
    with started(engine, max_header=8192) as front:
        assert (
            httpx.get(f"{front.base_url}/livez", headers={"x": "y" * 6000}, verify=False, timeout=BOUND_S).status_code
            == 200
        )
        for pieces in ([b"y" * 200_000], [b"y" * 1000] * 200):
            answer = b""
            with connected(front) as connection:
                # The server may close the connection before everything is sent.
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nx: ")
                    for piece in pieces:
                        connection.sendall(piece)
                    connection.sendall(b"\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    while part := connection.recv(65536):
                        answer += part
            assert not answer or answer.split()[1] in (b"400", b"431")
        assert httpx.get(f"{front.base_url}/livez", verify=False, timeout=BOUND_S).status_code == 200


def test_slow_heads_are_cut_off(engine: str) -> None:
    with started(engine, header_timeout=0.5) as front:
        for sent in (b"", b"GET /livez HTTP/1.1\r\nhost:"):
            with connected(front) as connection:
                connection.sendall(sent)
                assert connection.recv(65536) == b""


def counts(front: Front) -> tuple[int, int]:
    """Invocations begun and cancelled, this one included."""
    begun, cancelled, _ = post(front, b'{"operation":"execute","metadata":{"args":"do=counts"}}').json()
    return begun, cancelled


def wait_for(condition: Callable[[], bool], seconds: float = BOUND_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.01)


HANG = b'{"operation":"execute","metadata":{"args":"do=hang"}}'


def connected(front: Front) -> socket.socket:
    return socket.create_connection(("127.0.0.1", front.port), timeout=BOUND_S)


@contextlib.contextmanager
def hanging(front: Front) -> Iterator[socket.socket]:
    with connected(front) as connection:
        head = b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        connection.sendall(head % len(HANG) + HANG)
        yield connection


def sockets(front: Front) -> int:
    """Return how many sockets the process holds."""
    count = 0
    for link in Path(f"/proc/{front.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since the folder was listed
            count += os.readlink(link).startswith("socket:")
    return count


@pytest.mark.parametrize("http2", [False, True])
def test_a_connection_the_caller_has_closed_is_let_go_of(engine: str, http2: bool) -> None:
    if http2 and engine == "uvicorn":
        pytest.skip("uvicorn speaks HTTP/1.1 only")
    with started(engine, header_timeout=60) as front:
        before = sockets(front)
        for _ in range(8):
            with httpx.Client(http1=not http2, http2=http2, verify=False, timeout=BOUND_S) as client:
                url = f"{front.base_url}/v1.0/bindings/echo"
                assert client.post(url, content=b'{"operation":"execute","data":1}').content == b"1"
        wait_for(lambda: sockets(front) == before)
        assert front.end() == 0
        assert "raised exception" not in front.log


def test_a_caller_that_hangs_up_cancels_its_invocation(engine: str) -> None:
    with started(engine, log="debug") as front:
        for n in range(1, 4):
            before = counts(front)[0]
            with hanging(front):
                wait_for(lambda before=before: counts(front)[0] >= before + 2)  # type: ignore[misc]
            wait_for(lambda n=n: counts(front)[1] == n)  # type: ignore[misc]
        text = httpx.get(f"{front.base_url}/metrics", verify=False, timeout=BOUND_S).text
        assert 'sandboxd_requests_total{binding="echo",outcome="cancelled",protocol="http"} 3.0' in text
    assert "Traceback" not in front.log


def test_a_caller_that_hangs_up_within_its_body(engine: str) -> None:
    with started(engine) as front:
        with connected(front) as connection:
            connection.sendall(
                b'POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"operation'
            )
        cancelled = 'sandboxd_requests_total{binding="echo",outcome="cancelled",protocol="http"} 1.0'
        wait_for(lambda: cancelled in httpx.get(f"{front.base_url}/metrics", verify=False, timeout=BOUND_S).text)
    assert "Traceback" not in front.log


def test_the_end_lets_requests_finish(engine: str) -> None:
    with started(engine, timeout_ms=1500, drain=10) as front, hanging(front) as connection:
        wait_for(lambda: counts(front)[0] >= 2)
        front.process.send_signal(signal.SIGTERM)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        assert b"context deadline exceeded" in answer
        assert front.end() == 0
    assert "Traceback" not in front.log


def test_the_end_does_not_wait_for_ever(engine: str) -> None:
    with (
        started(engine, drain=0.3, timeout_ms=600_000) as front,
        hanging(front) as connection,
        connected(front) as stalled,
    ):
        # The second caller never finishes its request.
        stalled.sendall(b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        wait_for(lambda: counts(front)[0] >= 2)
        front.process.send_signal(signal.SIGTERM)
        assert front.end() == 0
        connection.settimeout(BOUND_S)
        with contextlib.suppress(ConnectionError):
            while connection.recv(65536):
                pass


def test_log_lines_are_json_without_payload(engine: str) -> None:
    with started(engine, log="debug") as front:
        secret = "payload-that-must-not-appear"
        body = {"operation": "execute", "data": secret, "metadata": {"env.X": secret, "args": f"do=exit,{secret}"}}
        assert post(front, json.dumps(body).encode()).status_code == 500
        assert post(front, json.dumps({"operation": secret}).encode()).status_code == 500
    assert "payload" not in front.log, front.log
    lines = [json.loads(line) for line in front.log.splitlines()]
    failed = next(line for line in lines if line["message"] == "request failed" and line["outcome"] == "exit_nonzero")
    assert failed["binding"] == "echo"
    assert failed["status"] == 500
    assert failed["reason"] == "error invoking output binding echo: module closed with exit_code(3)"
    assert {"time", "level", "logger", "request_id", "trace_id", "duration_ms", "reason"} <= failed.keys()
    assert any(line["message"] == "guest wrote to stderr" and line["stderr"].endswith("<bad>") for line in lines)


def test_nonsense_of_callers_is_answered_and_not_logged(engine: str) -> None:
    with started(engine) as front:
        for _ in range(3):
            with connected(front) as connection:
                connection.sendall(b"NONSENSE\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    assert front.log == ""


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


def test_an_offered_upgrade_does_not_cost_the_body(engine: str) -> None:
    body = b'{"operation":"execute","data":"x"}'
    head = b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\n" + OFFER + b"content-length: %d\r\n\r\n" % len(body)
    with started(engine) as front, connected(front) as connection:
        for pieces in (
            [head + body],
            [head[:50], head[50:], body[:3], body[3:]],
            [head, body],
            [head + body[:9], body[9:]],
        ):
            for piece in pieces:
                connection.sendall(piece)
            answer = b""
            while not answer.endswith(b'"x"'):
                part = connection.recv(65536)
                assert part, answer
                answer += part
            assert answer.startswith(b"HTTP/1.1 200 ")
    assert front.log == ""


def test_many_offered_upgrades_at_once() -> None:
    request = b"GET /livez HTTP/1.1\r\nhost: x\r\n" + OFFER + b"\r\n"
    with started("uvicorn") as front:
        with connected(front) as connection:
            connection.sendall(request * 500)
            answer = b""
            while answer.count(b"HTTP/1.1 200 OK") < 500:
                part = connection.recv(65536)
                assert part, answer
                answer += part
        with connected(front) as connection:
            connection.sendall(b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert front.log == ""


@pytest.mark.parametrize("tail", [b"", b"x"])
def test_http2_with_prior_knowledge(tail: bytes) -> None:
    import h2.config
    import h2.connection
    import h2.events

    with started("hypercorn") as front, connected(front) as connection:
        client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
        client.initiate_connection()
        body = b'{"operation":"execute","data":"h2"}' + tail
        path = [(":method", "POST"), (":path", "/v1.0/bindings/echo"), (":scheme", "http"), (":authority", "x")]
        client.send_headers(1, path)
        client.send_data(1, body, end_stream=True)
        connection.sendall(client.data_to_send())
        data = b""
        ended = False
        while not ended:
            received = connection.recv(65536)
            assert received
            for event in client.receive_data(received):
                if isinstance(event, h2.events.DataReceived):
                    data += event.data
                ended = ended or isinstance(event, h2.events.StreamEnded)
            connection.sendall(client.data_to_send())
        assert data == b'"h2"'


@pytest.mark.parametrize("http2", [False, True])
def test_tls(tmp_path: Path, http2: bool) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    with started("hypercorn", cert=certificate, key=key) as front:
        context = ssl.create_default_context(cafile=authority.ca_file)
        with httpx.Client(
            base_url=f"https://localhost:{front.port}", verify=context, http2=http2, timeout=BOUND_S
        ) as client:
            answer = client.post("/v1.0/bindings/echo", json={"operation": "execute", "data": "x"})
        assert (answer.status_code, answer.content) == (200, b'"x"')
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
