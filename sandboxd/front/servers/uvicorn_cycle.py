"""One request and its answer on uvicorn, with less work than uvicorn's own class.

It differs in two ways. The head of an answer whose length is known is sent along with the first piece of its body,
as ASGI asks for (HTTP connection scope, Response Start: not before the first body event), in one system call and one
packet instead of two. Names of headers are checked once and remembered, values in one search.

What is sent, and when it is refused, is as in uvicorn (protocols/http/httptools_impl.py, RequestResponseCycle.send).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

from sandboxd.front.http.bodies import CLOSE
from sandboxd.front.http.replies import INTERNAL_ERROR, reply_plain_error
from sandboxd.front.http.trace_headers import refused
from sandboxd.front.servers.connections import LARGE_BYTES

_MAX_NAMES: Final = 256
"""Names remembered; guests may choose some."""

_bad_name = HEADER_RE.search
_bad_value = HEADER_VALUE_RE.search
known_names: Final[dict[bytes, bytes]] = {}
"""Names of headers, and these in lower case. Looked up before `lower_name` is called."""


def lower_name(name: bytes) -> bytes:
    """Return the name of a header in lower case.

    Raises:
        RuntimeError: it is not a field name.
    """
    if _bad_name(name):
        raise RuntimeError("Invalid HTTP header name.")
    lower = name.lower()
    if len(known_names) < _MAX_NAMES:
        known_names[name] = lower
    return lower


class CountingFlow(FlowControl):
    """uvicorn's flow control, which also counts what is written.

    Parameters:
        transport: of the connection.
        large: called after a write of at least `LARGE_BYTES`.
    """

    def __init__(self, transport: asyncio.Transport, large: Callable[[], None]) -> None:
        super().__init__(transport)
        self.written = 0
        self._large = large

    def wrote(self, size: int) -> None:
        """Count so many bytes."""
        self.written += size
        if size >= LARGE_BYTES:
            self._large()


class Cycle(RequestResponseCycle):
    """See uvicorn. Only without access log."""

    _head: bytes | None = None
    _until_close = False
    """The end of the answer is that of the connection."""
    _gone: Callable[[], None] | None = None
    flow: "CountingFlow"  # instead of uvicorn's

    def tell(self, gone: Callable[[], None] | None) -> None:
        """The extension `sandboxd.front.servers.disconnects.GONE`."""
        self._gone = gone
        if self.disconnected:
            self.lost()

    def whole(self) -> bool:
        """The extension `sandboxd.front.http.bodies.WHOLE`."""
        return not self.more_body

    def lost(self) -> None:
        """Note that the connection is closed."""
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    async def send(self, message: Any) -> None:
        """ASGI."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or (self.transport.is_closing() and not self.response_complete):
            # Closing takes a turn of the event loop: a caller may have ended its side, or have been turned away.
            self.disconnected = True
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self.response_started = True
            self.waiting_for_100_continue = False
            head = self._head_of(message["status"], message.get("headers", ()))
            if self.chunked_encoding or self._until_close:
                self._write(head)  # streamed: the head says that something will come
            else:
                self._head = head
        elif not self.response_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")

    async def send_500_response(self) -> None:
        """Answer a request that the application failed to answer. uvicorn logs the traceback."""
        scope: Any = self.scope
        await reply_plain_error(self.send, 500, INTERNAL_ERROR, [CLOSE, *refused(scope, 500, INTERNAL_ERROR)])

    def _write(self, data: bytes) -> None:
        self.transport.write(data)
        self.flow.wrote(len(data))

    def _head_of(self, status: int, headers: Any) -> bytes:
        content = [STATUS_LINE[status]]
        values = []
        closes = False
        for name, value in (*self.default_headers, *headers):
            lower = known_names.get(name) or lower_name(name)
            values.append(value)
            if lower == b"content-length":
                if self.chunked_encoding is None:
                    self.expected_content_length = int(value)
                    self.chunked_encoding = False
            elif lower == b"transfer-encoding":
                if value.lower() == b"chunked":
                    self.expected_content_length = 0
                    self.chunked_encoding = True
            elif lower == b"connection" and b"close" in [token.lower().strip() for token in value.split(b",")]:
                self.keep_alive = False
                closes = True
            content += (lower, b": ", value, b"\r\n")
        if _bad_value(b"".join(values)):
            raise RuntimeError("Invalid HTTP header value.")
        if self.keep_alive and self.scope["http_version"] == "1.0":
            # Who asks for it is told (RFC 9112, C.2.2).
            if self.chunked_encoding is not False and status not in (204, 304):
                self.keep_alive = False
            else:
                content.append(b"connection: keep-alive\r\n")
        if not self.keep_alive and not closes:
            content.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            if self.scope["http_version"] == "1.0":
                self._until_close = True  # it knows no chunks (RFC 9112, 6.1)
            else:
                self.chunked_encoding = True
                content.append(b"transfer-encoding: chunked\r\n")
        content.append(b"\r\n")
        return b"".join(content)

    def _send_body(self, body: bytes, more: bool) -> None:
        head, self._head = self._head or b"", None
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            data = head
        elif self.chunked_encoding:
            data = b"%b%x\r\n%b\r\n" % (head, len(body), body) if body else head
            if not more:
                data += b"0\r\n\r\n"
        elif self._until_close:
            data = body
        else:
            if len(body) > self.expected_content_length:
                raise RuntimeError("Response content longer than Content-Length")
            self.expected_content_length -= len(body)
            data = head + body if head else body
        if data:
            self._write(data)
        if not more:
            if self.expected_content_length:
                raise RuntimeError("Response content shorter than Content-Length")
            self.response_complete = True
            # They lead back here; without them the request is freed at once instead of by the garbage collector.
            self.scope.pop("extensions", None)
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
