"""What two bindings that call one TLS origin share: nothing that the origin could take for who calls.

An origin may have authenticated a connection, or the session (RFC 8446, section 2.2) that a ticket resumes.
"""

import socket
import ssl
from pathlib import Path

import pytest

from tests.host.legacy_guests import c_client
from tests.origins import Authority, Http2Origin, Origin
from tests.running import RunningServer, component, write_components

pytestmark = pytest.mark.build


class _Told:
    """Of each connection that was accepted: whether it resumed a session."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(tls)  # type: ignore[call-arg]
        self.resumed: list[bool | None] = []

    def serve(self, sock: socket.socket) -> None:
        """Note, and serve."""
        assert isinstance(sock, ssl.SSLSocket)
        self.resumed.append(sock.session_reused)
        super().serve(sock)  # type: ignore[misc]


class ToldOrigin(_Told, Origin):
    """Over HTTP/1.1."""


class ToldHttp2Origin(_Told, Http2Origin):
    """Over HTTP/2."""


def resumes(origin: ToldOrigin | ToldHttp2Origin, authority: Authority, version: ssl.TLSVersion, alpn: str) -> bool:
    """Whether a client that offers the session it got before resumes it. Without that the test would show nothing."""
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.maximum_version = version
    context.set_alpn_protocols([alpn])
    session = None
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", origin.port), 60) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as sock,
        ):
            if alpn == "h2":
                # With the origin's settings come the tickets of TLS 1.3, which it sends after the handshake.
                assert sock.recv(65536)
            else:
                sock.sendall(b"GET /headers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                while sock.recv(65536):
                    pass
            session, reused = sock.session, sock.session_reused
    return bool(reused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_bindings_share_neither_connection_nor_session(tmp_path: Path, http2: bool, version: ssl.TLSVersion) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context("localhost", http2=http2)
    context.maximum_version = version
    with (ToldHttp2Origin if http2 else ToldOrigin)(context) as origin:
        resources = write_components(
            tmp_path / "resources",
            [
                component(name, f"file://{c_client()}", allowedOutboundHosts=f'["https://localhost:{origin.port}"]')
                for name in ("alice", "bob")
            ],
        )
        environ = {
            "SANDBOXD_EGRESS_CA_FILES": str(authority.ca_file),
            "SANDBOXD_EGRESS_HTTP2": "true" if http2 else "false",
        }
        with RunningServer(resources, "--workers", "1", environ=environ) as server:

            def call(name: str) -> None:
                answer = server.invoke(name, "x", {"args": f"https://localhost:{origin.port}/echo"})
                assert answer.status_code == 200, answer.text

            for name, connections in (("alice", 1), ("bob", 2), ("alice", 2), ("bob", 2)):
                call(name)
                assert origin.connections == connections
            # New connections: neither resumes what the other one left.
            origin.drop_connections()
            for name in ("bob", "alice"):
                call(name)
            assert origin.resumed == [False] * 4
            assert resumes(origin, authority, version, "h2" if http2 else "http/1.1")
            call("bob")
            assert origin.resumed == [False] * 4 + [False, True]
