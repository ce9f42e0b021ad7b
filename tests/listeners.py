"""Servers on loopback for tests: accept on a thread, serve each connection on one, end everything on exit."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import h2.exceptions
import h11

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
    whole: bool = False
    """The end of the body has arrived."""

    def get(self, name: str) -> str | None:
        """The first value of a header, lower-case name."""
        return next((v.decode("latin-1") for n, v in self.headers if n.lower() == name.encode()), None)


class Listener:
    """Accepts on a thread, serves each connection on a thread of its own; ends everything on exit."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family, backlog=128)
        self.host = host
        self.port: int = self._server.getsockname()[1]
        self.connections = 0
        self.seen: list[Seen] = []
        self.released = threading.Event()
        self.closing = False
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
        self.released.set()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing = True
        self.released.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(60)

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
        while not self.closing:
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


class Silent(Listener):
    """Accepts, reads, and never says anything."""

    def serve(self, sock: socket.socket) -> None:
        """Read until the end."""
        while sock.recv(65536):
            pass


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port of 127.0.0.1 that is bound, so nobody else gets it, but refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
