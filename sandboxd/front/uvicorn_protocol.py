"""uvicorn's HTTP/1.1 protocol with bounds on the request head, which httptools does not have.

Imported only where uvicorn and httptools are installed.
"""

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HeadTooLarge(Exception):  # noqa: N818 - raised into httptools, which turns it into a refusal
    """The request head is longer than allowed."""


def bounded_protocol(max_head_bytes: int) -> type[HttpToolsProtocol]:
    """A protocol class that answers 431 to longer request heads (request line and headers).

    Parameters:
        max_head_bytes: the longest head, counting names, values and four bytes for each header.
    """

    class BoundedProtocol(HttpToolsProtocol):
        """Counts the bytes of the head while it arrives, and knows since when it does."""

        _head_since: float | None = None
        _fed = 0
        _began = False
        _measure = False
        _too_large = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            self._head_since = time.monotonic()

        def on_message_begin(self) -> None:
            self._fed = 0
            self._began = True
            self._head_since = time.monotonic()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_since = None
            # Only heads that span reads, or came in one very large read, can be too long.
            if self._measure and self._head_size() > max_head_bytes:
                self._too_large = True
                raise HeadTooLarge
            super().on_headers_complete()

        def _head_size(self) -> int:
            return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

        def data_received(self, data: bytes) -> None:
            self._began = False
            self._measure = self._fed > 0 or len(data) > max_head_bytes
            super().data_received(data)
            if self._head_since is None or self.headers is None:
                return
            # A head is incomplete. What stood before it in the read it began in is not known, so that read counts
            # nearly nothing: the true bound is the limit and one read.
            self._fed += 1 if self._began else len(data)
            if self._fed > max_head_bytes and not self.transport.is_closing():
                self._too_large = True
                self.send_400_response("")

        def send_400_response(self, msg: str) -> None:
            if not self._too_large:
                super().send_400_response(msg)
                return
            text = b"431 Request Header Fields Too Large"
            head = b"HTTP/1.1 " + text + b"\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n" % len(text) + text)
            self.transport.close()

        def head_overdue(self, before: float) -> bool:
            """Whether the connection has owed a complete head since an instant before `before`."""
            return self._head_since is not None and self._head_since < before

    return BoundedProtocol


def close_overdue(connections: Any, timeout_s: float) -> None:
    """Close connections that take longer than `timeout_s` for a request head."""
    before = time.monotonic() - timeout_s
    for connection in list(connections):
        if connection.head_overdue(before):
            connection.transport.close()
