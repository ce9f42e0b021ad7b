"""Through a configured proxy, and never through one the environment names."""

import base64
import select
import socket
from pathlib import Path

import pytest

from hostfuncs.outbound import ErrorCode, Outbound, Policy, Request, Settings
from tests.host.outbound_client import fetch, invocation, request
from tests.listeners import Listener
from tests.origins import Authority, Origin


class Fixed:
    """Resolves every name to one address."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def resolve(self, host: str, port: int) -> list[str]:
        """See Resolver."""
        return [self.address]


def test_requests_go_to_the_proxy() -> None:
    with Origin() as proxy:
        outbound = Outbound(Settings(proxy=f"http://user:secret@127.0.0.1:{proxy.port}"))
        got = fetch(outbound, "http://elsewhere.test/status/418", policy=Policy.parse(None))
        # The scripted origin does not know the path: as a proxy it is asked for the whole URL.
        assert got.status == 404
        assert proxy.seen[-1].target == "http://elsewhere.test/status/418"
        assert proxy.seen[-1].get("host") == "elsewhere.test"
        assert proxy.seen[-1].get("proxy-authorization") == "Basic dXNlcjpzZWNyZXQ="
        outbound.close()


def test_a_request_about_the_whole_origin_is_spelled_for_a_proxy() -> None:
    """RFC 9112, section 3.2.4: a proxy is asked `OPTIONS *` by a URL without a path."""
    with Origin() as proxy:
        outbound = Outbound(Settings(proxy=f"http://127.0.0.1:{proxy.port}"))
        asked = Request(method="OPTIONS", scheme="http", authority="elsewhere.test:8080", path_with_query="*")
        with invocation(outbound, Policy.parse(["*"])) as exchanges:
            exchanges.wait(exchanges.start(asked).done)
        assert [seen.target for seen in proxy.seen] == ["http://elsewhere.test:8080"]
        outbound.close()


def test_encoded_credentials_are_decoded() -> None:
    """RFC 3986, section 2.1: the only way to write a user with a colon. curl sends `us@er:p:ss` for this."""
    with Origin() as proxy:
        outbound = Outbound(Settings(proxy=f"http://us%40er:p%3Ass@127.0.0.1:{proxy.port}"))
        assert fetch(outbound, "http://elsewhere.test/", policy=Policy.parse(None)).status == 404
        wanted = base64.b64encode(b"us@er:p:ss").decode()
        assert proxy.seen[-1].get("proxy-authorization") == f"Basic {wanted}"
        outbound.close()


def test_a_connection_to_the_proxy_is_kept_and_what_is_given_up_is_closed() -> None:
    with Origin() as proxy:
        outbound = Outbound(Settings(proxy=f"http://127.0.0.1:{proxy.port}", connections=1))
        policy = Policy.parse(None)
        for _ in range(3):
            assert fetch(outbound, "http://elsewhere.test/", policy=policy).status == 404
        assert (proxy.connections, outbound.connections()) == (1, (0, 1))
        # Another origin needs the only place there is.
        with invocation(outbound, policy) as exchanges:
            exchanges.start(request("http://another.test/"))
            exchanges.turn()
        assert outbound.connections()[0] == 0
        assert fetch(outbound, "http://elsewhere.test/", policy=policy).status == 404
        outbound.close()


def test_addresses_the_guest_names_are_still_checked() -> None:
    with Origin() as proxy:
        outbound = Outbound(Settings(proxy=f"http://127.0.0.1:{proxy.port}"))
        for url in ("http://169.254.169.254/", "http://[::1]/", "http://metadata.google.internal/"):
            got = fetch(outbound, url, policy=Policy.parse(None))
            assert got.error in (ErrorCode("destination-IP-prohibited"), ErrorCode("HTTP-request-denied"))
        assert proxy.seen == []
        outbound.close()


def test_a_proxy_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with Origin() as proxy, Origin() as origin:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        outbound = Outbound()
        assert fetch(outbound, origin.url("/echo")).status == 200
        assert proxy.seen == []
        outbound.close()


@pytest.mark.parametrize("url", ["", "proxy", "http://proxy", "https://proxy:1", "socks5://proxy:1", "http://proxy:0"])
def test_wrong_proxies_are_said_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="the outbound proxy is not http://"):
        Outbound(Settings(proxy=url))


class Tunnel(Listener):
    """A proxy that knows CONNECT, to whatever name, and leads every tunnel to one port of this machine."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.target = port
        self.asked: list[bytes] = []

    def serve(self, sock: socket.socket) -> None:
        """Open the tunnel, then pass bytes on."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        self.asked.append(head.partition(b"\r\n")[0])
        with socket.create_connection(("127.0.0.1", self.target)) as origin:
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            pairs = {sock: origin, origin: sock}
            while True:
                for ready in select.select(list(pairs), [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    pairs[ready].sendall(data)


@pytest.mark.parametrize("trusted", [True, False])
def test_https_goes_through_a_tunnel_and_is_verified_here(tmp_path: Path, trusted: bool) -> None:
    authority = Authority(tmp_path)
    with Origin(authority.server_context("origin.test")) as origin, Tunnel(origin.port) as tunnel:
        ca_files = (str(authority.ca_file),) if trusted else ()
        outbound = Outbound(Settings(proxy=f"http://127.0.0.1:{tunnel.port}", ca_files=ca_files))
        content = b"through the tunnel"
        got = fetch(outbound, "https://origin.test/echo", "POST", content=content, policy=Policy.parse(None))
        assert tunnel.asked == [b"CONNECT origin.test:443 HTTP/1.1"]
        if trusted:
            assert (got.status, got.body) == (200, content)
        else:
            assert got.error == ErrorCode("TLS-certificate-error")
            assert origin.seen == []
        outbound.close()


@pytest.mark.parametrize(
    ("entry", "url", "direct"),
    [
        ("127.0.0.1", "http://127.0.0.1:{port}/echo", True),
        ("127.0.0.0/8", "http://127.0.0.1:{port}/echo", True),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}/echo", True),
        ("127.0.0.1:1", "http://127.0.0.1:{port}/echo", False),
        ("10.0.0.0/8", "http://127.0.0.1:{port}/echo", False),
        ("*", "http://127.0.0.1:{port}/echo", True),
        ("localhost", "http://localhost:{port}/echo", True),
        ("LOCALHOST", "http://localhost:{port}/echo", True),
        (".test", "http://inner.test/", True),
        ("inner.test", "http://deep.inner.test/", True),
        ("inner.test", "http://dinner.test/", False),
        ("::1", "http://127.0.0.1:{port}/echo", False),
        ("[::1]:80", "http://127.0.0.1:{port}/echo", False),
    ],
)
def test_exceptions_from_the_proxy(entry: str, url: str, direct: bool) -> None:
    """As curl and Go read NO_PROXY. Nothing listens where the names lead that are reached directly."""
    with Origin() as proxy, Origin() as origin:
        settings = Settings(
            proxy=f"http://127.0.0.1:{proxy.port}", no_proxy=("other.test", entry.format(port=origin.port))
        )
        outbound = Outbound(settings, resolver=Fixed("127.0.0.1"))
        policy = Policy.parse(["http://127.0.0.1:*", "http://localhost:*", "http://*.test"])
        got = fetch(outbound, url.format(port=origin.port), policy=policy)
        if ".test" not in url:
            assert got.status == (200 if direct else 404)
        else:
            assert got.error == (ErrorCode("connection-refused") if direct else None)
        assert bool(proxy.seen) != direct
        outbound.close()


@pytest.mark.parametrize("entry", ["", "a*b.test", "10.0.0.1/8", "*.*", "http://a.test"])
def test_wrong_exceptions_are_said_at_once(entry: str) -> None:
    with pytest.raises(ValueError, match="from the outbound proxy is not a host; write for example"):
        Outbound(Settings(proxy="http://127.0.0.1:1", no_proxy=(entry,)))


def test_addresses_are_checked_where_the_proxy_is_passed_by() -> None:
    with Origin() as proxy:
        settings = Settings(proxy=f"http://127.0.0.1:{proxy.port}", no_proxy=("inner.test",))
        outbound = Outbound(settings, resolver=Fixed("169.254.169.254"))
        got = fetch(outbound, "http://inner.test/", policy=Policy.parse(None))
        assert got.error == ErrorCode("destination-IP-prohibited")
        assert proxy.seen == []
        outbound.close()
