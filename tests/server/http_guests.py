"""Shared by the tests of wasi:http/proxy guests: a connection written and read by hand, and readings of metrics."""

import socket

from tests.running import RunningServer
from tests.waiting import until

MIB = 1 << 20
WEB = "/v1.0/http/web"


class Wire:
    """One connection, written and read by hand."""

    def __init__(self, server: RunningServer) -> None:
        self.sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def request(self, method: str, path: str, *lines: str, version: str = "1.1") -> None:
        """A head."""
        head = [f"{method} {path} HTTP/{version}", "Host: guest.test", *lines, "", ""]
        self.sock.sendall("\r\n".join(head).encode("latin-1"))

    def chunk(self, data: bytes) -> None:
        """A piece of a chunked body; an empty one ends it."""
        self.sock.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and header lines."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def piece(self) -> bytes:
        """A chunk of the response; empty at its end.

        Raises:
            EOFError: the connection ended instead.
        """
        line = self.file.readline()
        if not line:
            raise EOFError
        data = self.file.read(int(line, 16))
        assert self.file.readline() == b"\r\n"
        return data

    def rest(self) -> bytes:
        """Return all chunks that are left."""
        parts = []
        while data := self.piece():
            parts.append(data)
        return b"".join(parts)


def busy(server: RunningServer, count: int) -> None:
    until(lambda: server.metric("sandboxd_pool_workers", state="busy") == count, f"{count} busy workers")


def outcomes(server: RunningServer, binding: str, outcome: str) -> float:
    return server.metric("sandboxd_requests_total", binding=binding, outcome=outcome)
