"""TLS: whom the engine trusts, what it shows, and what guests are told when it fails."""

import contextlib
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from hostfuncs.outbound import ErrorCode, Outbound, OutboundLimits, Policy, Settings
from tests.host.outbound_client import LOOPBACK, fetch, read_all, request
from tests.origins import Authority, Http2Origin, Origin

POLICY = Policy.parse(["https://localhost:*", "https://127.0.0.1:*", "https://*.named.test:*"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class Loopback:
    """Every name is this machine."""

    async def resolve(self, host: str, port: int) -> list[str]:
        """127.0.0.1."""
        return ["127.0.0.1"]


def engine(authority: Authority, **settings: object) -> Outbound:
    return Outbound(Settings(ca_files=(str(authority.ca_file),), **settings), resolver=Loopback())  # type: ignore[arg-type]


def test_a_private_authority_is_trusted_when_configured(authority: Authority) -> None:
    with Origin(authority.server_context("localhost")) as origin:
        outbound = engine(authority)
        for _ in range(3):
            got = fetch(outbound, f"https://localhost:{origin.port}/headers", policy=POLICY)
            assert got.body == f"Host: localhost:{origin.port}".encode()
        assert origin.connections == 1
        outbound.close()


def test_addresses_in_certificates(authority: Authority) -> None:
    with Origin(authority.server_context("127.0.0.1")) as origin:
        outbound = engine(authority)
        assert fetch(outbound, origin.url("/echo"), policy=POLICY).status == 200
        outbound.close()


def test_a_certificate_without_subject_alternative_names_is_refused(authority: Authority) -> None:
    """RFC 9525, section 6.3: the subject's common name is no name of a server. Go and rustls refuse it too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost", common_name_only=True))
    with Origin(context) as origin:
        outbound = engine(authority)
        got = fetch(outbound, f"https://localhost:{origin.port}/echo", policy=POLICY)
        assert got.error == ErrorCode("TLS-certificate-error")
        assert origin.seen == []
        outbound.close()


def test_sni_and_host_are_the_name_though_an_address_is_connected_to(authority: Authority) -> None:
    shown: list[str | None] = []
    context = authority.server_context("api.named.test")
    context.sni_callback = lambda _sock, name, _context: shown.append(name)  # type: ignore[assignment,return-value]
    with Origin(context) as origin:
        outbound = engine(authority)
        policy = Policy.parse(["https://api.named.test:*"])
        got = fetch(outbound, f"https://api.named.test:{origin.port}/headers", policy=policy)
        assert got.body == f"Host: api.named.test:{origin.port}".encode()
        assert shown == ["api.named.test"]
        outbound.close()


@pytest.mark.parametrize(
    ("names", "expired", "trusted"),
    [(["localhost"], False, False), (["other.test"], False, True), (["localhost"], True, True)],
    ids=["unknown authority", "other name", "expired"],
)
def test_bad_certificates(authority: Authority, names: list[str], expired: bool, trusted: bool) -> None:
    with Origin(authority.server_context(*names, expired=expired)) as origin:
        outbound = engine(authority) if trusted else Outbound(resolver=Loopback())
        got = fetch(outbound, f"https://localhost:{origin.port}/", policy=POLICY)
        assert got.error == ErrorCode("TLS-certificate-error")
        assert outbound.connections() == (0, 0)
        assert origin.seen == []
        outbound.close()


def test_an_origin_that_speaks_no_tls(authority: Authority) -> None:
    outbound = engine(authority)
    with Origin() as origin:
        got = fetch(outbound, f"https://localhost:{origin.port}/", policy=POLICY)
    assert got.error is not None
    # Its h11 gives up on the hello; some stacks answer in plain text first.
    assert got.error.name in ("TLS-protocol-error", "connection-terminated")
    outbound.close()


def test_an_alert_is_passed_on(authority: Authority) -> None:
    context = authority.server_context("localhost")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME  # type: ignore[assignment]
    with Origin(context) as origin:
        outbound = engine(authority)
        got = fetch(outbound, f"https://localhost:{origin.port}/", policy=POLICY)
        assert got.error is not None
        assert got.error.name == "TLS-alert-received"
        assert getattr(got.error.payload, "alert_id", None) == 112
        outbound.close()


def test_client_certificates_go_to_their_origins_only(authority: Authority) -> None:
    chain, key = authority.issue("client")
    context = authority.server_context("localhost", "127.0.0.1", client_certificates=True)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Origin(context) as origin:
        outbound = engine(authority, client_certificates=((f"https://localhost:{origin.port}", str(chain), str(key)),))
        assert fetch(outbound, f"https://localhost:{origin.port}/echo", policy=POLICY).status == 200
        got = fetch(outbound, f"https://127.0.0.1:{origin.port}/echo", policy=POLICY)
        assert got.error is not None
        assert got.error.name == "TLS-alert-received"
        outbound.close()


@pytest.mark.parametrize("broken", ["missing", "garbage"])
def test_certificate_files_are_read_at_the_start(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "ca.pem"
    if broken == "garbage":
        file.write_text("no certificate")
    with pytest.raises(ValueError, match="give a file of PEM certificates"):
        Outbound(Settings(ca_files=(str(file),)))
    with pytest.raises(ValueError, match="give a PEM chain"):
        Outbound(Settings(client_certificates=(("https://a.test", str(file), str(file)),)))
    with pytest.raises(ValueError, match="write for example"):
        Outbound(Settings(client_certificates=(("a.test", str(file), str(file)),)))


def test_http2_is_spoken_only_where_both_want_it(authority: Authority) -> None:
    with Origin(authority.server_context("localhost")) as origin:
        outbound = engine(authority, http2=True)
        assert fetch(outbound, f"https://localhost:{origin.port}/echo", policy=POLICY).status == 200
        outbound.close()
    with Http2Origin(authority.server_context("localhost", http2=True)) as modern:
        outbound = engine(authority, http2=False)
        got = fetch(outbound, f"https://localhost:{modern.port}/echo", policy=POLICY)
        assert got.error is not None
        assert got.error.name == "HTTP-protocol-error"
        outbound.close()


def test_a_peer_that_hangs_up_in_the_handshake(authority: Authority) -> None:
    outbound = engine(authority)
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def accept() -> None:
            connection, _ = server.accept()
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        got = fetch(outbound, f"https://localhost:{server.getsockname()[1]}/", policy=POLICY)
        thread.join()
    assert got.error == ErrorCode("connection-terminated")
    outbound.close()


def test_another_event_loop_serves_as_well(authority: Authority) -> None:
    uvloop = pytest.importorskip("uvloop")
    with Origin(authority.server_context("localhost")) as origin:
        settings = Settings(ca_files=(str(authority.ca_file),))
        outbound = Outbound(settings, resolver=Loopback(), new_loop=uvloop.new_event_loop)
        for _ in range(2):
            got = fetch(
                outbound, f"https://localhost:{origin.port}/echo", "POST", content=b"x" * 500_000, policy=POLICY
            )
            assert got.body == b"x" * 500_000
        assert origin.connections == 1
        outbound.close()


@pytest.mark.parametrize("close_notify", [False, True])
@pytest.mark.parametrize("framed", [False, True])
def test_a_guest_that_reads_slowly_gets_all_of_an_answer(
    authority: Authority, framed: bool, close_notify: bool
) -> None:
    """The origin has sent everything and closed before the guest reads: nothing of it may be lost."""
    size = 1_000_000
    context = authority.server_context("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(65536)
                length = b"Content-Length: %d\r\n" % size if framed else b""
                secured.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length + b"\r\n" + b"x" * size)
                if close_notify:
                    secured.setblocking(False)
                    with contextlib.suppress(ssl.SSLWantReadError):
                        secured.unwrap()
            closed.set()

        thread = threading.Thread(target=serve)
        thread.start()
        outbound = Outbound(Settings(ca_files=(str(authority.ca_file),)))
        exchanges = outbound.begin(LOOPBACK, OutboundLimits(), time.monotonic_ns() + 20 * 10**9)
        try:
            exchange = exchanges.start(request(f"https://127.0.0.1:{listener.getsockname()[1]}/"))
            exchanges.wait(exchange.body.ready)
            while not closed.is_set():
                exchanges.wait(closed.is_set, time.monotonic_ns() + 10_000_000)
            held = -1
            while exchange.body.held != held:  # until what the engine takes without a reader has arrived
                held = exchange.body.held
                exchanges.wait(lambda: False, time.monotonic_ns() + 50_000_000)
            assert len(read_all(exchanges, exchange)) == size
        finally:
            exchanges.close()
            outbound.close()
            thread.join(60)
        assert not thread.is_alive()
