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
import socket
import struct
import threading
from collections.abc import Mapping
from types import MappingProxyType

import h11

from tests.certificates import Authority
from tests.listeners import Headers, Listener, Seen, Silent, pattern, refused_port
from tests.origins_http2 import Http2Origin

__all__ = ["Authority", "Http2Origin", "Origin", "Seen", "Silent", "pattern", "refused_port"]


class _Hangup(Exception):  # noqa: N818 - a jump, not a malfunction
    """Leave the connection."""


class Origin(Listener):
    """HTTP/1.1, see the module's docstring."""

    documents: Mapping[str, bytes] = MappingProxyType({})
    """Further paths: each answers with its JSON document once `release()` was called."""

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
        if path in self.origin.documents:
            self.read_body()
            self.hold()
            self.reply(200, [(b"Content-Type", b"application/json")], self.origin.documents[path])
            return
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
                self.seen.whole = True
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
        self.origin.released.wait(60)

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
        while not self.origin.closing:
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
                self.seen.body += bytes(event.data)
                self.send(h11.Data(data=bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                self.seen.whole = True
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
