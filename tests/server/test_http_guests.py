"""wasi:http/proxy guests behind a real server: as bindings, and as HTTP that flows both ways, on both HTTP servers.

The guest is tests/guests/component/proxy.py; its paths say what it does.
"""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.conftest import ENGINES
from tests.listeners import pattern
from tests.origins import Origin
from tests.process import tree
from tests.running import RunningServer
from tests.server.fronts import started
from tests.server.http_guests import MIB, WEB, Wire, busy, outcomes
from tests.waiting import until

pytestmark = pytest.mark.build


# the request the guest gets -------------------------------------------------------------------------------------------


def test_the_whole_request_arrives_and_the_whole_response_leaves(web: RunningServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(
            "PUT", f"{WEB}/describe/../x%2Fy//z?q=%20&r=a/b", skip_host=True, skip_accept_encoding=True
        )
        for name, value in [
            ("Host", "guest.test:99"),
            ("X-One", "1"),
            ("x-one", "2"),
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "no"),
            ("Keep-Alive", "timeout=5"),
            ("TE", "trailers"),
            ("Dapr-Api-Token", "secret"),
            ("Content-Length", "5"),
        ]:
            connection.putheader(name, value)
        connection.endheaders(b"caf\xc3\xa9")
        response = connection.getresponse()
        described = json.loads(response.read())
        assert response.status == 201
        assert [value for name, value in response.getheaders() if name.lower() == "x-two"] == ["a", "b"]
        assert len([1 for name, _ in response.getheaders() if name.lower() == "date"]) == 1
        assert response.getheader("content-type") == "application/json"
    traceparent = described["headers"].pop()
    assert traceparent[0] == "traceparent"
    assert response.getheader("traceparent") == traceparent[1]
    assert described == {
        "method": "PUT",
        "path": "/describe/../x%2Fy//z?q=%20&r=a/b",
        "scheme": "Scheme_Http",
        "authority": "guest.test:99",
        "headers": [["x-one", "1"], ["x-one", "2"], ["content-length", "5"]],
        "body": "café",
    }


@pytest.mark.parametrize(("path", "seen"), [("", "/"), ("/", "/"), ("?a=b", "/?a=b"), ("//x", "//x")])
def test_what_follows_the_name_is_the_path(web: RunningServer, path: str, seen: str) -> None:
    since = len(web.lines)
    with web.client() as client:
        assert client.get(WEB + path).text == "hello from a proxy"
    web.wait_for(lambda line: line.get("stderr") == f"called with {seen}\n", since=since)


def test_the_trace_goes_on(client: httpx.Client) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "tracestate": "a=b", "baggage": "k=v"}
    seen = dict(client.get(f"{WEB}/describe", headers=headers).json()["headers"])
    assert seen["traceparent"].startswith(f"00-{trace}-")
    assert seen["traceparent"] != headers["traceparent"]
    assert (seen["tracestate"], seen["baggage"]) == ("a=b", "k=v")
    seen = dict(client.get(f"{WEB}/describe", headers={"tracestate": "a=b"}).json()["headers"])
    assert "tracestate" not in seen


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH", "OPTIONS", "REPORT"])
def test_methods(client: httpx.Client, method: str) -> None:
    assert client.request(method, f"{WEB}/describe").json()["method"] == method


def test_head_and_statuses_without_a_body(client: httpx.Client) -> None:
    response = client.head(f"{WEB}/echo")
    assert (response.status_code, response.content) == (200, b"")
    for status in (204, 304, 418, 599):
        response = client.get(f"{WEB}/status/{status}")
        assert (response.status_code, response.content) == (status, b"")
        assert status not in (204, 304) or "content-length" not in response.headers


# bodies that flow -----------------------------------------------------------------------------------------------------


def memory(pid: int, key: str = "VmHWM") -> int:
    """VmHWM (the most since it was reset) or VmRSS. Bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def test_neither_side_holds_what_flows_through(web: RunningServer) -> None:
    size = 48 * MIB
    block = pattern(64 * 1024)
    with web.client() as client:
        client.post(f"{WEB}/stream/echo", content=block)  # what is needed once, is there
    pids = [web.process.pid, *tree.workers(web)]
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = {pid: memory(pid, "VmRSS") for pid in pids}
    with Wire(web) as wire:
        wire.request("POST", f"{WEB}/stream/splice", "Transfer-Encoding: chunked")

        def upload() -> None:
            for _ in range(size // len(block)):
                wire.chunk(block)
            wire.chunk(b"")

        # One that sends all before it reads anything would wait for a guest that waits for it.
        uploading = threading.Thread(target=upload)
        uploading.start()
        assert wire.head()[1]["content-type"] == "application/octet-stream"
        received = 0
        while piece := wire.piece():
            assert piece == (block * 3)[received % len(block) :][: len(piece)]
            received += len(piece)
        uploading.join()
    assert received == size
    grown = {pid: memory(pid) - before[pid] for pid in pids}
    assert max(grown.values()) < size // 2, grown


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 3 * MIB])
def test_bodies_of_announced_length_and_chunked_ones(client: httpx.Client, size: int) -> None:
    data = pattern(size)
    expected = [size, sum(data) % 65521]
    assert client.post(f"{WEB}/stream/count", content=data).json() == expected
    pieces = [data[at : at + 10_007] for at in range(0, size, 10_007)]
    assert client.post(f"{WEB}/stream/count", content=iter(pieces)).json() == expected


def test_a_client_that_reads_slowly_stops_the_guest(web: RunningServer) -> None:
    size = 64 * MIB
    with Wire(web) as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        wire.request("GET", f"{WEB}/stream/generate/{size}")
        assert wire.head()[0] == 200
        received = len(wire.piece())
        # The workers stand still while they are asked many times over, and the front does not keep what was written.
        ticks: list[int] = []

        def stands() -> bool:
            busy(web, 1)
            ticks.append(sum(map(tree.cpu_ticks, tree.workers(web))))
            return len(ticks) > 50 and len(set(ticks[-50:])) == 1

        until(stands, "the guest is paused", 180)
        assert memory(web.process.pid, "VmRSS") < 200 * MIB
        received += len(wire.rest())
    assert received == size
    busy(web, 0)


def test_an_answer_may_begin_before_the_request_has_ended(web: RunningServer) -> None:
    with Wire(web) as wire:
        wire.request("POST", f"{WEB}/stream/then", "Transfer-Encoding: chunked")
        wire.chunk(b"a")
        assert wire.head()[0] == 200
        assert wire.piece() == b"first "
        wire.chunk(b"b")
        wire.chunk(b"")
        assert wire.rest() == b"second"


def test_a_guest_may_answer_without_reading_the_request(web: RunningServer) -> None:
    with Wire(web) as wire:
        wire.request("POST", WEB, "Transfer-Encoding: chunked")
        wire.chunk(bytes(60_000))
        assert wire.head()[0] == 200
        assert wire.rest() == b"hello from a proxy"
    busy(web, 0)
    # A body of any length in advance of the answer.
    with Wire(web) as wire, contextlib.suppress(ConnectionError):
        wire.request("POST", WEB, "Transfer-Encoding: chunked")
        for _ in range(64):
            wire.chunk(bytes(60_000))
        assert wire.head()[0] == 200
    busy(web, 0)
    with web.client() as client:
        assert client.get(WEB).text == "hello from a proxy"


# HTTP/1.0 and HTTP/2 --------------------------------------------------------------------------------------------------


def test_http_1_0_gets_a_length_or_an_error(web: RunningServer) -> None:
    with Wire(web) as wire:
        wire.request("GET", f"{WEB}/stream/generate/100000", version="1.0")
        status, headers = wire.head()
        assert (status, headers["content-length"]) == (200, "100000")
        assert wire.file.read() == (bytes(range(256)) * 400)[:100_000]
    with Wire(web) as wire:
        wire.request("GET", f"{WEB}/stream/then/trap", version="1.0")
        assert wire.head()[0] == 502


@pytest.fixture
def http2(web: RunningServer) -> Iterator[httpx.Client]:
    """HTTP/2 without TLS, by prior knowledge, where the engine speaks it."""
    if not any(line.get("engine") == "hypercorn" for line in web.lines):
        pytest.skip("uvicorn speaks HTTP/1.1")
    with web.client(http1=False, http2=True) as client:
        yield client


def test_http2(http2: httpx.Client) -> None:
    described = http2.post(f"{WEB}/describe?x=y", content=b"data", headers={"x-one": "1"}).json()
    assert (described["method"], described["path"], described["body"]) == ("POST", "/describe?x=y", "data")
    assert described["authority"] == http2.base_url.netloc.decode()
    data = pattern(3 * MIB)
    assert http2.post(f"{WEB}/stream/count", content=iter([data])).json() == [3 * MIB, sum(data) % 65521]
    assert len(http2.get(f"{WEB}/stream/generate/{3 * MIB}").content) == 3 * MIB


def test_http2_requests_may_outlast_their_response(http2: httpx.Client) -> None:
    for _ in range(3):
        assert http2.post(WEB, content=iter([pattern(MIB)] * 3)).text == "hello from a proxy"
    assert http2.get(WEB).text == "hello from a proxy"


def test_http2_streams_are_reset_when_a_response_cannot_be_completed(http2: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="StreamReset"):
        http2.post(f"{WEB}/stream/then/trap", content=iter([b"x"]))
    # The connection lives on.
    assert http2.get(WEB).text == "hello from a proxy"


# guests that call out while they answer -------------------------------------------------------------------------------


def test_a_gateway(web: RunningServer, client: httpx.Client) -> None:
    with Origin() as origin:
        lines = [b"%d\n" % number for number in range(24)]
        response = client.post(f"{WEB}/stream/gateway/{origin.authority}", content=iter(lines))
        sizes = response.text.split()
        assert response.status_code == 200
        assert len(sizes) == 24
        assert all(int(size) > 0 for size in sizes)
        assert {seen.target for seen in origin.seen} == {f"/headers?{number}" for number in range(24)}


def test_one_poll_waits_for_the_caller_and_for_an_origin(web: RunningServer) -> None:
    for first in ("body", "answer"):
        with Origin() as origin, Wire(web) as wire:
            wire.request("POST", f"{WEB}/stream/both/{origin.authority}", "Transfer-Encoding: chunked")
            assert wire.head()[0] == 200
            until(lambda origin=origin: origin.seen, "the guest calls out")
            if first == "answer":
                origin.release()
            else:
                wire.chunk(b" piece ")
            assert wire.piece() == first.encode()
            if first == "answer":
                wire.chunk(b" piece ")
            wire.chunk(b"")
            origin.release()
            assert wire.rest() == b" piece held"


# as bindings ----------------------------------------------------------------------------------------------------------


def test_a_binding_request_becomes_an_http_request(web: RunningServer) -> None:
    metadata = {"http.method": "PUT", "http.path": "/describe?a=b", "http.header.X-One": "1", "http.header.x-one": "ü"}
    reply = web.invoke("web", {"k": [1]}, metadata)
    assert reply.status_code == 200
    assert reply.headers["metadata.statuscode"] == "201"
    assert reply.headers.get_list("metadata.header.x-two") == ["a", "b"]
    assert reply.headers["content-type"] == "application/json"
    described = reply.json()
    assert described.pop("headers")[:3] == [["x-one", "1"], ["x-one", "ü"], ["content-length", "9"]]
    assert described == {
        "method": "PUT",
        "path": "/describe?a=b",
        "scheme": "Scheme_Http",
        "authority": "web",
        "body": '{"k":[1]}',
    }


def test_defaults_of_binding_requests(web: RunningServer) -> None:
    described = web.invoke("web", None, {"http.path": "/describe"}).json()
    assert (described["method"], described["body"]) == ("GET", "")
    assert web.invoke("web", "x", {"http.path": "/describe"}).json()["method"] == "POST"
    assert web.invoke("web").text == "hello from a proxy"


def test_a_guest_that_answers_with_an_error_status_has_answered(web: RunningServer) -> None:
    reply = web.invoke("web", None, {"http.path": "/status/503"})
    assert (reply.status_code, reply.headers["metadata.statuscode"]) == (200, "503")


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"http.method": "GE T"}, "metadata http.method must be an HTTP method"),
        ({"http.path": "describe"}, "metadata http.path must begin with '/'"),
        ({"http.path": "/a b"}, "metadata http.path must begin with '/'"),
        ({"http.path": "/ü"}, "metadata http.path must begin with '/'"),
        ({"http.header.": "x"}, 'metadata "http.header.": not the name of an HTTP header'),
        ({"http.header.a b": "x"}, 'metadata "http.header.a b": not the name of an HTTP header'),
        ({"http.header.X": "a\r\nb: c"}, 'metadata "http.header.X": a header must not contain control characters'),
        ({"http.header.Host": "x"}, 'metadata "http.header.Host": this header belongs to the connection'),
        ({"http.header.Transfer-Encoding": "x"}, "this header belongs to the connection and cannot be set"),
        ({f"http.header.x{number}": "" for number in range(129)}, "at most 128 fields"),
    ],
)
def test_metadata_that_makes_no_request(web: RunningServer, metadata: dict[str, str], text: str) -> None:
    reply = web.invoke("web", None, metadata)
    assert reply.status_code == 400
    assert reply.json()["errorCode"] == "ERR_MALFORMED_REQUEST"
    assert text in reply.json()["message"]


def test_programs_take_no_notice_of_such_metadata(web: RunningServer) -> None:
    reply = web.invoke("echo", "data", {"http.path": "no path"})
    assert (reply.status_code, reply.text) == (200, '"data"')
    assert "metadata.statuscode" not in reply.headers


# what is not there ----------------------------------------------------------------------------------------------------


def test_other_bindings_and_unknown_names(client: httpx.Client) -> None:
    response = client.get("/v1.0/http/none/x")
    assert response.status_code == 404
    assert response.json()["message"] == "couldn't find output binding none"
    response = client.get("/v1.0/http/echo/x")
    assert response.status_code == 404
    assert response.json()["message"] == "the guest of binding echo is a program and handles no HTTP requests"


def test_everything_is_counted(web: RunningServer) -> None:
    def counts() -> list[float]:
        return [
            outcomes(web, "web", "completed"),
            web.metric("sandboxd_guest_stdout_bytes_sum", binding="web"),
            web.metric("sandboxd_guest_stdin_bytes_sum", binding="web"),
            web.metric("sandboxd_guest_duration_seconds_count", binding="web"),
        ]

    before = counts()
    with web.client() as client:
        assert client.post(f"{WEB}/stream/echo", content=iter([bytes(100_000)])).content == bytes(100_000)
    after = counts()
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 100_000, 100_000, 1]


def test_many_at_once(web: RunningServer) -> None:
    """Streams and binding requests share two workers; each is answered."""
    errors: list[object] = []

    def stream() -> None:
        with web.client() as client:
            for _ in range(5):
                data = pattern(200_000)
                if client.post(f"{WEB}/stream/echo", content=iter([data])).content != data:
                    errors.append("stream")

    def plain() -> None:
        with web.client() as client:
            body = json.dumps({"operation": "execute", "data": "x"}).encode()
            for _ in range(40):
                if client.post("/v1.0/bindings/echo", content=body).text != '"x"':
                    errors.append("plain")

    threads = [threading.Thread(target=target) for target in [stream] * 4 + [plain] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("engine", ENGINES)
def test_tokens_and_cors_as_for_everything(engine: str) -> None:
    with (
        started(engine, token="secret", origins="https://app.test") as front,
        httpx.Client(trust_env=False, timeout=60) as client,
    ):
        url = f"{front.base_url}/v1.0/http/echo/x"
        assert client.get(url).status_code == 401
        answer = client.get(url, headers={"dapr-api-token": "secret", "origin": "https://app.test"})
        assert answer.status_code == 404
        assert answer.headers["access-control-allow-origin"] == "https://app.test"
        asked = {"origin": "https://app.test", "access-control-request-method": "PUT"}
        assert client.options(url, headers=asked).headers["access-control-allow-methods"] == "PUT"


def test_a_raw_request_is_the_guests_own(web: RunningServer) -> None:
    """The guest answers with its own status and content type."""
    with web.client() as client:
        answer = client.post(f"{WEB.replace('/http/', '/bindings/')}/raw?x=1", content=b"hello")
        expected = client.post(f"{WEB}/?x=1", content=b"hello")
    assert (answer.status_code, answer.content) == (expected.status_code, expected.content)
    assert answer.headers.get("content-type") == expected.headers.get("content-type")
