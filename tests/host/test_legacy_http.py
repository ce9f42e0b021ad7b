"""Guests of three toolchains call out through Dapr's wasi-http."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostfuncs.abi import DeadlineExceeded
from hostfuncs.outbound import Outbound, OutboundLimits, Policy
from hostfuncs.wasip1.proc import ProcExit
from tests.host.legacy_guests import assemblyscript_get, c_client, go_fetch
from tests.host.legacy_runner import Ran, Runner
from tests.origins import Origin, pattern

pytestmark = pytest.mark.build


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture(scope="module")
def outbound() -> Iterator[Outbound]:
    engine = Outbound()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def client(outbound: Outbound) -> Runner:
    return Runner(c_client(), outbound)


@pytest.fixture(scope="module")
def fetch(outbound: Outbound) -> Runner:
    return Runner(go_fetch(), outbound)


@pytest.fixture(scope="module")
def get(outbound: Outbound) -> Runner:
    return Runner(assemblyscript_get(), outbound)


def completed(ran: Ran) -> bytes:
    assert ran.failure is None
    assert ran.ended is None, (ran.ended, ran.stdout)
    return ran.stdout


def exit_code(ran: Ran) -> int:
    assert ran.failure is None
    assert isinstance(ran.ended, ProcExit), ran
    return ran.ended.code


def test_c_gets(client: Runner, origin: Origin) -> None:
    ran = client.run(origin.url("/repeated?x=1"))
    assert completed(ran).decode().splitlines() == [
        "200",
        "Set-Cookie: a=1",
        "X-Twice: one",
        "Set-Cookie: b=2",
        "X-Twice: two",
        "Content-Length: 8",
        "",
        "repeated",
    ]
    assert ran.log == [b"answered"]
    assert [(record.rule, record.outcome) for record in ran.usage] == [("*://127.0.0.1:*", "ok")]
    assert origin.seen[-1].target == "/repeated?x=1"
    assert origin.seen[-1].get("x-guest") == "c"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_c_posts(client: Runner, origin: Origin, method: str) -> None:
    out = completed(client.run(origin.url("/echo"), method, stdin=b"the body"))
    assert out.startswith(b"200\nX-Method: " + method.encode() + b"\n")
    assert out.endswith(b"\n\nthe body")
    assert origin.seen[-1].get("content-length") == "8"
    assert origin.seen[-1].get("content-type") == "text/plain"


def sent(client: Runner, origin: Origin, *lines: str, method: str = "GET", stdin: bytes = b"") -> list[tuple[str, str]]:
    """Header lines that the origin saw of a request with these lines."""
    completed(client.run(origin.url("/echo"), method, *lines, stdin=stdin))
    return [(name.decode().lower(), value.decode("latin-1")) for name, value in origin.seen[-1].headers]


def test_a_request_without_a_user_agent_has_go_s(client: Runner, origin: Origin) -> None:
    """As Dapr's, whose requests are sent by Go's net/http (request.go, defaultUserAgent)."""
    assert ("user-agent", "Go-http-client/1.1") in sent(client, origin, "X-A:1")
    assert ("user-agent", "Go-http-client/1.1") in sent(client, origin, "X-A:1", method="POST", stdin=b"x")
    assert [v for n, v in sent(client, origin, "user-AGENT:mine/2") if n == "user-agent"] == ["mine/2"]
    # Set to nothing, it is left out (request.go: `if userAgent != ""`).
    assert "user-agent" not in dict(sent(client, origin, "User-Agent:"))


@pytest.mark.parametrize(
    "line",
    [
        "Connection:close",
        "Keep-Alive:timeout=5",
        "Proxy-Connection:keep-alive",
        "Proxy-Authorization:Basic x",
        "Transfer-Encoding:chunked",
        "Upgrade:websocket",
        "TE:gzip",
        "Trailer:X-Sum",
        "Host:elsewhere.test",
        "Content-Length:77",
    ],
)
def test_headers_of_the_connection_are_left_out(client: Runner, origin: Origin, line: str) -> None:
    """Go's client sends the request all the same; these are the engine's to set."""
    name = line.partition(":")[0].lower()
    lines = sent(client, origin, line, "X-A:1", method="POST", stdin=b"body")
    expected = {"host": [origin.authority], "content-length": ["4"]}.get(name, [])
    assert [value for other, value in lines if other == name] == expected
    assert ("x-a", "1") in lines
    assert origin.seen[-1].body == b"body"


def test_blanks_around_a_value_are_no_part_of_it(client: Runner, origin: Origin) -> None:
    lines = sent(client, origin, "Authorization:Bearer x \t", "X-Tab:\ta b\t", "X-Blank:  ")
    assert {("authorization", "Bearer x"), ("x-tab", "a b"), ("x-blank", "")} <= set(lines)


def test_c_moves_a_mebibyte_both_ways(client: Runner, origin: Origin) -> None:
    content = pattern(1 << 20)
    assert completed(client.run(origin.url("/echo"), "PUT", stdin=content)).endswith(b"\n\n" + content)
    assert completed(client.run(origin.url("/chunked/1048576"))).endswith(b"\n\n" + content)


def test_c_has_eight_requests_in_flight(client: Runner, origin: Origin) -> None:
    """None is answered before all have arrived, so a guest that sent one after the other would never end."""
    with Origin() as held:
        import threading

        def release() -> None:
            while len(held.seen) < 8:
                threading.Event().wait(0.001)
            held.release()

        thread = threading.Thread(target=release, daemon=True)
        thread.start()
        out = completed(client.run("-n", "8", held.url("/hold")))
        thread.join(60)
    assert out == b"200\n" * 8 + b"total 32\n"


def test_connections_stay_between_runs(client: Runner) -> None:
    with Origin() as fresh:
        for _ in range(3):
            completed(client.run(fresh.url("/echo")))
        assert fresh.connections == 1


def test_a_body_that_breaks_off_is_told(client: Runner, origin: Origin) -> None:
    ran = client.run(origin.url("/short"))
    assert exit_code(ran) == 4
    assert ran.stdout.endswith(b"0123456789\nbroken after 10\n")
    assert [record.outcome for record in ran.usage] == ["HTTP-response-incomplete"]


@pytest.mark.parametrize(
    ("url", "error", "denied"),
    [
        ("http://10.255.255.1/", 2, "host"),
        ("http://localhost:99999/", 0, "host"),
        ("http://user@localhost/", 0, "host"),
        ("http://127.0.0.1:1path/", 0, "host"),
    ],
)
def test_refusals_are_told(client: Runner, url: str, error: int, denied: str) -> None:
    ran = client.run(url)
    assert exit_code(ran) == 3
    assert ran.stdout == b"error %d\n" % error
    assert [record.denied for record in ran.usage] == [denied]


def test_connect_is_refused(client: Runner, origin: Origin) -> None:
    ran = client.run(origin.url("/"), "CONNECT")
    assert exit_code(ran) == 3
    assert [record.denied for record in ran.usage] == ["method"]


def test_the_deadline_ends_a_waiting_guest(client: Runner, origin: Origin) -> None:
    with Origin() as held:
        ran = client.run(held.url("/hold"), timeout_s=2)
    assert isinstance(ran.ended, DeadlineExceeded)
    assert ran.failure is None
    assert [record.outcome for record in ran.usage] == ["dropped"]
    completed(client.run(origin.url("/echo")))


def test_nothing_is_allowed_by_an_empty_list(outbound: Outbound, origin: Origin) -> None:
    runner = Runner(c_client(), outbound, Policy.parse([]))
    assert exit_code(runner.run(origin.url("/echo"))) == 3


def test_limits_of_the_binding_hold(outbound: Outbound, origin: Origin) -> None:
    limits = OutboundLimits(requests=3, body_bytes=1000)
    runner = Runner(c_client(), outbound, limits=limits)
    ran = runner.run("-n", "5", origin.url("/echo"))
    assert exit_code(ran) == 3
    assert [record.denied for record in ran.usage].count("limit") == 2
    assert exit_code(runner.run(origin.url("/bytes/2000"))) == 4
    assert exit_code(runner.run(origin.url("/echo"), "POST", stdin=b"x" * 2000)) == 6


def test_handles_alive_are_capped(outbound: Outbound, origin: Origin) -> None:
    ran = Runner(c_client(), outbound, entries=5).run("-n", "8", origin.url("/echo"))
    assert ran.message.startswith("default-outgoing-HTTP.handle: more than 5 handles are alive") or (
        ran.message.startswith("types.new-outgoing-request: more than 5 handles are alive")
    )


def test_go_gets_posts_and_fans_out(fetch: Runner, origin: Origin) -> None:
    lines = completed(fetch.run(origin.url("/repeated"))).decode().splitlines()
    assert lines[0] == "200 8"
    assert [line for line in lines if line.startswith("Set-Cookie")] == ["Set-Cookie: a=1", "Set-Cookie: b=2"]
    assert completed(fetch.run("-post", origin.url("/echo"), stdin=b"from go")).endswith(b"\n\nfrom go")
    out = completed(fetch.run(*[origin.url(f"/bytes/{n}") for n in (1, 70_000, 200_000, 0, 5, 6, 7, 8)]))
    assert out.startswith(b"200 1\n200 70000\n200 200000\n200 0\n200 5\n200 6\n200 7\n200 8\n")
    assert out.endswith(b"\n\n" + pattern(8))


def test_assemblyscript_gets_and_posts(get: Runner, origin: Origin) -> None:
    out = completed(get.run(stdin=f"GET {origin.authority} /repeated".encode()))
    assert out == b"200\na=1\none\nb=2\ntwo\n8\nrepeated"
    out = completed(get.run(stdin=f"POST {origin.authority} /echo content".encode()))
    assert out == b"200\nPOST\n/echo\n7\ncontent"
    out = completed(get.run(stdin=f"GET {origin.authority} /bytes/1048576".encode()))
    assert out.endswith(b"\n" + pattern(1 << 20))


def test_state_does_not_leak_between_runs(client: Runner, origin: Origin) -> None:
    ran = client.run("http://10.255.255.1/")
    assert len(ran.usage) == 1
    again = client.run(origin.url("/echo"))
    assert len(again.usage) == 1
    assert dataclasses.asdict(again.usage[0])["outcome"] == "ok"


def test_the_guests_need_nothing_else(client: Runner) -> None:
    """The two files a C guest is made of are all there is: no generated bindings."""
    assert isinstance(client.guest, Path)
    modules = {item.module for item in client.module.imports}
    assert modules == {"wasi_snapshot_preview1", "types", "streams", "default-outgoing-HTTP"}
