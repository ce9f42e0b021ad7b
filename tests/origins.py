"""Scripted origins: real servers on loopback that answer as told, slow or broken ones included.

    with Origin() as origin:                       # http://127.0.0.1:PORT, threads, port 0
        origin.authority                           # "127.0.0.1:PORT"
        origin.url("/echo")
        origin.seen                                # list of Seen(method, target, headers, body), in order of arrival
        origin.connections                         # how many connections were accepted
        origin.release()                           # lets every /hold answer (a threading.Event: no sleeping)
    with Origin(tls=authority.server_context("localhost")) ...   # authority = Authority(tmp_path): a private CA

Paths an Origin answers (query parameters in brackets):

    /echo           200, the request's body back, its Content-Type kept; headers x-method, x-target
    /headers        200, the request's header lines as text, `name: value` each
    /status/NNN     that status, body "status NNN"
    /bytes/N        200, N bytes of a fixed pattern (see `pattern`), Content-Length
    /chunked/N      the same, chunked
    /repeated       200 with two Set-Cookie lines and two X-Twice lines
    /trailers       chunked "body", then trailers x-checksum: abc and x-more: def
    /hold           answers "held" once `release()` was called
    /hold-body      head and "first" at once, the rest ("second") after `release()`
    /delay/MS       200 "delayed" after MS milliseconds (for overlap, not for timing assertions)
    /slow-head      begins a status line and never ends it (until closed)
    /endless        200, chunks for ever
    /reset          200, Content-Length 1000, 10 bytes, then a TCP reset
    /close          200 "closing" without Connection: close, then closes: a keep-alive connection gone under the client
    /close-silently closes without an answer
    /short          Content-Length 100, but 10 bytes and the end
    /long           Content-Length 5, but 10 bytes
    /garbage        bytes that are no HTTP
    /bad-coding     Transfer-Encoding: gzip
    /big-head       a header section of 200,000 bytes; /many-headers 1,000 lines
    /continue       expects `Expect: 100-continue`: sends 100, reads the body, answers with it
    /reject         answers 413 without reading the body
    /duplex         answers each chunk of the request's body with the same bytes while it still comes
    /until-close    no Content-Length, no chunks: the body ends with the connection
    /head-only      answers HEAD and GET with Content-Length 7
    /upgrade        101 Switching Protocols

`Http2Origin(context)` is the same idea over HTTP/2: /echo, /trailers, /bytes/N, /goaway, /reset, /hold.
`Silent()` accepts and says nothing; `refused_port()` is a port nobody listens on.
"""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Headers = list[tuple[bytes, bytes]]


def pattern(size: int) -> bytes:
    """`size` bytes without a period that a buffer's size divides."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@dataclass
class Seen:
    """A request as the origin read it. The body is filled in as it arrives."""

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list)

    def get(self, name: str) -> str | None:
        """The first value of a header, lower-case name."""
        return next((v.decode("latin-1") for n, v in self.headers if n.lower() == name.encode()), None)


class _Listener:
    """Accepts on a thread, serves each connection on a thread of its own; ends everything on exit."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family, backlog=128)
        self.host = host
        self.port: int = self._server.getsockname()[1]
        self.connections = 0
        self.seen: list[Seen] = []
        self._released = threading.Event()
        self._closing = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    @property
    def authority(self) -> str:
        """host:port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"{'https' if self._tls else 'http'}://{self.authority}{path}"

    def release(self) -> None:
        """Let what holds go on."""
        self._released.set()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._released.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(10)

    def drop_connections(self) -> None:
        """Close every connection from this side, as an origin that restarts does."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            self._start(self._run, sock)

    def _run(self, sock: socket.socket) -> None:
        wrapped = sock
        try:
            if self._tls is not None:
                wrapped = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._open.discard(sock)
                    self._open.add(wrapped)
            self.serve(wrapped)
        except (OSError, ssl.SSLError, h11.RemoteProtocolError, h2.exceptions.ProtocolError):
            pass  # the client went away, or this side was told to break the connection
        finally:
            with self._lock:
                self._open.discard(wrapped)
                self._open.discard(sock)
            wrapped.close()

    def serve(self, sock: socket.socket) -> None:
        """Speak on one connection until it is over."""
        raise NotImplementedError


class Silent(_Listener):
    """Accepts, reads, and never says anything."""

    def serve(self, sock: socket.socket) -> None:
        """Read until the end."""
        while sock.recv(65536):
            pass


class _Hangup(Exception):  # noqa: N818 - a jump, not a malfunction
    """Leave the connection."""


class Origin(_Listener):
    """HTTP/1.1, see the module's docstring."""

    def serve(self, sock: socket.socket) -> None:
        """One request after the other."""
        connection = h11.Connection(our_role=h11.SERVER, max_incomplete_event_size=1 << 20)
        with contextlib.suppress(_Hangup):
            while True:
                event = self._next(sock, connection)
                if not isinstance(event, h11.Request):
                    return
                seen = Seen(event.method.decode(), event.target.decode(), event.headers.raw_items())
                self.seen.append(seen)
                _Answer(self, sock, connection, seen).give()
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return
                connection.start_next_cycle()

    @staticmethod
    def _next(sock: socket.socket, connection: h11.Connection) -> object:
        while True:
            event = connection.next_event()
            if event is not h11.NEED_DATA:
                return event
            connection.receive_data(sock.recv(65536))


class _Answer:
    """One request being answered."""

    def __init__(self, origin: Origin, sock: socket.socket, connection: h11.Connection, seen: Seen) -> None:
        self.origin = origin
        self.sock = sock
        self.connection = connection
        self.seen = seen

    def give(self) -> None:
        path = self.seen.target.partition("?")[0]
        name, _, argument = path.strip("/").partition("/")
        method = getattr(self, "do_" + name.replace("-", "_"), None)
        if method is None:
            self.read_body()
            self.reply(404, [], b"no such path")
        elif argument:
            method(int(argument))
        else:
            method()

    # plain pieces

    def send(self, event: h11.Event) -> None:
        self.sock.sendall(self.connection.send(event) or b"")

    def read_body(self) -> bytes:
        parts = []
        while True:
            event = Origin._next(self.sock, self.connection)
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self.seen.body = b"".join(parts)
                self.seen.trailers = event.headers.raw_items()
                return self.seen.body
            else:
                raise _Hangup

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        lines = [*headers, (b"Content-Length", b"%d" % len(body))]
        head = self.connection.send(h11.Response(status_code=status, headers=lines)) or b""
        if self.seen.method != "HEAD":
            head += self.connection.send(h11.Data(data=body)) or b""
        self.sock.sendall(head + (self.connection.send(h11.EndOfMessage()) or b""))

    def hold(self) -> None:
        self.origin._released.wait(60)

    # paths

    def do_echo(self) -> None:
        body = self.read_body()
        kind = self.seen.get("content-type")
        headers = [(b"x-method", self.seen.method.encode()), (b"x-target", self.seen.target.encode())]
        if kind is not None:
            headers.append((b"Content-Type", kind.encode()))
        self.reply(200, headers, body)

    def do_headers(self) -> None:
        self.read_body()
        lines = [n + b": " + v for n, v in self.seen.headers]
        self.reply(200, [(b"Content-Type", b"text/plain")], b"\n".join(lines))

    def do_status(self, status: int) -> None:
        self.read_body()
        if status in (204, 304):
            self.send(h11.Response(status_code=status, headers=[]))
            self.send(h11.EndOfMessage())
        else:
            self.reply(status, [], b"status %d" % status)

    def do_bytes(self, size: int) -> None:
        self.read_body()
        self.reply(200, [], pattern(size))

    def do_chunked(self, size: int) -> None:
        self.read_body()
        self.send(h11.Response(status_code=200, headers=[(b"Transfer-Encoding", b"chunked")]))
        data = pattern(size)
        for at in range(0, size, 10_007):
            self.send(h11.Data(data=data[at : at + 10_007]))
        self.send(h11.EndOfMessage())

    def do_repeated(self) -> None:
        self.read_body()
        headers = [(b"Set-Cookie", b"a=1"), (b"X-Twice", b"one"), (b"Set-Cookie", b"b=2"), (b"X-Twice", b"two")]
        self.reply(200, headers, b"repeated")

    def do_trailers(self) -> None:
        self.read_body()
        self.send(h11.Response(status_code=200, headers=[(b"Transfer-Encoding", b"chunked")]))
        self.send(h11.Data(data=b"body"))
        self.send(h11.EndOfMessage(headers=[(b"x-checksum", b"abc"), (b"x-more", b"def")]))

    def do_hold(self) -> None:
        self.read_body()
        self.hold()
        self.reply(200, [], b"held")

    def do_hold_body(self) -> None:
        self.read_body()
        self.send(h11.Response(status_code=200, headers=[(b"Transfer-Encoding", b"chunked")]))
        self.send(h11.Data(data=b"first"))
        self.hold()
        self.send(h11.Data(data=b"second"))
        self.send(h11.EndOfMessage())

    def do_delay(self, milliseconds: int) -> None:
        self.read_body()
        threading.Event().wait(milliseconds / 1000)
        self.reply(200, [], b"delayed")

    def do_slow_head(self) -> None:
        self.sock.sendall(b"HTTP/1.1 200 O")
        self.hold()
        raise _Hangup

    def do_endless(self) -> None:
        self.read_body()
        self.send(h11.Response(status_code=200, headers=[(b"Transfer-Encoding", b"chunked")]))
        while not self.origin._closing:
            self.send(h11.Data(data=b"x" * 16384))

    def do_reset(self) -> None:
        self.read_body()
        self.send(h11.Response(status_code=200, headers=[(b"Content-Length", b"1000")]))
        self.send(h11.Data(data=b"0123456789"))
        self.hold()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Hangup

    def do_close(self) -> None:
        self.read_body()
        self.reply(200, [], b"closing")
        raise _Hangup

    def do_close_silently(self) -> None:
        self.read_body()
        raise _Hangup

    def do_short(self) -> None:
        self.read_body()
        self.send(h11.Response(status_code=200, headers=[(b"Content-Length", b"100")]))
        self.send(h11.Data(data=b"0123456789"))
        raise _Hangup

    def do_long(self) -> None:
        self.read_body()
        self.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0123456789")
        self.hold()
        raise _Hangup

    def do_garbage(self) -> None:
        self.read_body()
        self.sock.sendall(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
        raise _Hangup

    def do_bad_coding(self) -> None:
        self.read_body()
        self.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx")
        raise _Hangup

    def do_big_head(self) -> None:
        self.read_body()
        self.sock.sendall(b"HTTP/1.1 200 OK\r\nX-Big: " + b"b" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n")
        raise _Hangup

    def do_many_headers(self) -> None:
        self.read_body()
        lines = b"".join(b"X-%d: y\r\n" % i for i in range(1000))
        self.sock.sendall(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 0\r\n\r\n")
        raise _Hangup

    def do_continue(self) -> None:
        self.send(h11.InformationalResponse(status_code=100, headers=[]))
        self.reply(200, [], self.read_body())

    def do_reject(self) -> None:
        self.reply(413, [], b"too large")
        self.hold()
        raise _Hangup

    def do_duplex(self) -> None:
        self.send(h11.Response(status_code=200, headers=[(b"Transfer-Encoding", b"chunked")]))
        while True:
            event = Origin._next(self.sock, self.connection)
            if isinstance(event, h11.Data):
                self.send(h11.Data(data=bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                self.send(h11.EndOfMessage())
                return

    def do_until_close(self) -> None:
        self.read_body()
        self.sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
        raise _Hangup

    def do_head_only(self) -> None:
        self.read_body()
        self.reply(200, [], b"0123456")

    def do_upgrade(self) -> None:
        self.read_body()
        self.sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        raise _Hangup


class Http2Origin(_Listener):
    """HTTP/2 over TLS (give a context whose ALPN offers h2)."""

    def serve(self, sock: socket.socket) -> None:
        """Answer streams as they complete."""
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        streams: dict[int, Seen] = {}
        waiting: dict[int, bytes] = {}
        while data := sock.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    fields = [(bytes(n), bytes(v)) for n, v in event.headers or ()]
                    pseudo = dict(fields)
                    seen = Seen(
                        pseudo[b":method"].decode(),
                        pseudo[b":path"].decode(),
                        [(b"host", pseudo[b":authority"]), *((n, v) for n, v in fields if not n.startswith(b":"))],
                    )
                    streams[event.stream_id] = seen
                    self.seen.append(seen)
                elif isinstance(event, h2.events.DataReceived):
                    streams[event.stream_id].body += event.data or b""
                    connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                elif isinstance(event, h2.events.TrailersReceived):
                    streams[event.stream_id].trailers = [(bytes(n), bytes(v)) for n, v in event.headers or ()]
                elif isinstance(event, h2.events.StreamEnded):
                    self._answer(connection, event.stream_id, streams[event.stream_id], waiting)
                elif isinstance(event, h2.events.StreamReset):
                    waiting.pop(event.stream_id, None)
            for stream_id in list(waiting):
                self._pump(connection, stream_id, waiting)
            sock.sendall(connection.data_to_send())
            if any(seen.target == "/goaway" for seen in streams.values()):
                return

    def _answer(
        self, connection: h2.connection.H2Connection, stream_id: int, seen: Seen, waiting: dict[int, bytes]
    ) -> None:
        name, _, argument = seen.target.partition("?")[0].strip("/").partition("/")
        if name == "reset":
            connection.send_headers(stream_id, [(":status", "200")])
            connection.send_data(stream_id, b"0123456789")
            connection.reset_stream(stream_id, 2)
        elif name == "goaway":
            connection.close_connection(last_stream_id=0)
        elif name == "trailers":
            connection.send_headers(stream_id, [(":status", "200")])
            connection.send_data(stream_id, b"body")
            connection.send_headers(stream_id, [("x-checksum", "abc")], end_stream=True)
        else:
            if name == "hold":
                self._released.wait(60)
            body = pattern(int(argument)) if name == "bytes" else seen.body
            connection.send_headers(stream_id, [(":status", "200"), ("x-method", seen.method)])
            waiting[stream_id] = body

    @staticmethod
    def _pump(connection: h2.connection.H2Connection, stream_id: int, waiting: dict[int, bytes]) -> None:
        while stream_id in waiting:
            body = waiting[stream_id]
            if not body:
                connection.end_stream(stream_id)
                del waiting[stream_id]
                return
            window = min(connection.local_flow_control_window(stream_id), connection.max_outbound_frame_size)
            if window <= 0:
                return
            connection.send_data(stream_id, body[:window])
            waiting[stream_id] = body[window:]


class Authority:
    """A certificate authority of the test's own.

    Parameters:
        folder: where its files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self._certificate = self._sign(self._name, self._key.public_key(), ca=True, names=[], days=(-1, 1))
        self.ca_file = folder / "ca.pem"
        """What clients have to trust."""
        self.ca_file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool, names: list[str], days: tuple[int, int]
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, *names: str, expired: bool = False) -> tuple[Path, Path]:
        """Write a certificate and its key for these names; returns both paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        days = (-10, -5) if expired else (-1, 1)
        certificate = self._sign(subject, key.public_key(), ca=False, names=list(names), days=days)
        stem = f"{names[0].replace(':', '_')}-{certificate.serial_number}"
        chain_file, key_file = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        chain_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return chain_file, key_file

    def server_context(
        self, *names: str, expired: bool = False, http2: bool = False, client_certificates: bool = False
    ) -> ssl.SSLContext:
        """A server's TLS context with a fresh certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(*names, expired=expired))
        context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
        if client_certificates:
            context.load_verify_locations(self.ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port of 127.0.0.1 that is bound, so nobody else gets it, but refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
