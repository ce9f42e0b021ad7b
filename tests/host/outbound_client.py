"""Drives the outbound client from tests as a host interface would."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hostfuncs.outbound import (
    ErrorCode,
    Exchange,
    Exchanges,
    Options,
    Outbound,
    OutboundError,
    OutboundLimits,
    Policy,
    Request,
    ResponseHead,
    UsageRecord,
)

LOOPBACK = Policy.parse(["*://127.0.0.1:*", "*://localhost:*", "*://[::1]:*"])


@dataclass
class Got:
    """The result of a request."""

    head: ResponseHead | None = None
    body: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    error: ErrorCode | None = None
    usage: list[UsageRecord] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The status code."""
        assert self.head is not None, self.error
        return self.head.status

    def get(self, name: str) -> list[bytes]:
        """Every value of a header."""
        assert self.head is not None
        return [v for n, v in self.head.headers if n.lower() == name.encode()]


def request(url: str, method: str = "GET", headers: Sequence[tuple[bytes, bytes]] = ()) -> Request:
    """A request for a URL."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return Request(
        method=method, scheme=parts.scheme, authority=parts.netloc, path_with_query=path, headers=tuple(headers)
    )


def read_all(exchanges: Exchanges, exchange: Exchange, piece: int = 65536) -> bytes:
    """Read a response's body to its end."""
    parts = []
    while True:
        exchanges.wait(exchange.body.ready)
        data = exchange.body.read(piece)
        if not data and exchange.body.ended:
            return b"".join(parts)
        parts.append(data)


@contextmanager
def invocation(
    outbound: Outbound,
    policy: Policy = LOOPBACK,
    limits: OutboundLimits | None = None,
    timeout_s: float = 60,
) -> Iterator[Exchanges]:
    """One invocation, closed at the end."""
    exchanges = outbound.begin(policy, limits or OutboundLimits(), time.monotonic_ns() + int(timeout_s * 1e9))
    try:
        yield exchanges
    finally:
        exchanges.close()


def fetch(
    outbound: Outbound,
    url: str,
    method: str = "GET",
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    content: bytes | None = None,
    trailers: Sequence[tuple[bytes, bytes]] = (),
    policy: Policy = LOOPBACK,
    limits: OutboundLimits | None = None,
    options: Options | None = None,
    piece: int = 65536,
) -> Got:
    """One request in an invocation of its own, its content streamed through a small buffer."""
    got = Got()
    exchanges = outbound.begin(policy, limits or OutboundLimits(), time.monotonic_ns() + 60_000_000_000)
    try:
        body = None if content is None else exchanges.request_body()
        exchange = exchanges.start(request(url, method, headers), options, body)
        if body is not None and content is not None:
            at = 0
            while at < len(content):
                exchanges.wait(body.ready)
                room = body.permit()
                body.write(content[at : at + room])
                at += room
            body.finish(tuple(trailers))
        exchanges.wait(exchange.done)
        got.head = exchange.result()
        got.body = read_all(exchanges, exchange, piece)
        got.trailers = exchange.body.trailers
    except OutboundError as exc:
        got.error = exc.code
    finally:
        got.usage = exchanges.close()
    return got
