"""uvicorn's HTTP/1.1 protocol with what Dapr's clients need and httptools does not have.

- Bounds on the size of a request head and on the time it may take.
- Requests that offer an upgrade to h2c, as Java's HttpClient does by default, are answered in HTTP/1.1 (RFC 9110,
  7.8: a server may ignore Upgrade). httptools stops at such a head and drops the body, so the head is taken out of its
  hands and given back without the offer.

Imported only where uvicorn and httptools are installed.
"""

import asyncio
import logging
import re
import sys
import time
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandboxd.front.departures import GONE
from sandboxd.front.http import ABORT
from sandboxd.front.uvicorn_cycle import Cycle


class HeadTooLarge(Exception):  # noqa: N818 - raised into httptools, which turns it into a refusal
    """The request head is longer than allowed."""


_OFFER = frozenset((b"upgrade", b"http2-settings"))
_MAX_OFFERS = 8
"""Upgrade offers in one read: more than one are no client's behaviour, and each costs a copy of the rest."""

KEEP_ALIVE_S: Final = 60
"""Idle connections are kept this long."""

# Whoever can send bytes could fill the log with uvicorn's warnings about them.
_CALLERS_MISTAKES = logging.getLogger("uvicorn.error.callers")
_CALLERS_MISTAKES.setLevel(logging.ERROR)

_plain_path = re.compile(rb"/[A-Za-z0-9_.~/-]*").fullmatch


def bounded_protocol(max_head_bytes: int) -> type[HttpToolsProtocol]:
    """A protocol class that answers 431 to longer request heads (request line and headers).

    Parameters:
        max_head_bytes: the longest head, counting names, values and four bytes for each header.
    """

    class BoundedProtocol(HttpToolsProtocol):
        """Counts the bytes of the head while it arrives, and knows since when it does."""

        _head_since: float | None = None
        _idle_since: float | None = None
        _fed = 0
        _began = False
        _measure = False
        _too_large = False
        last_answer = False
        """The server ends: answers close their connection. For all of this class."""
        _data = b""
        _offer = False
        _again: bytes | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            self._errors: logging.Logger
            self._errors, self.logger = self.logger, _CALLERS_MISTAKES
            self._head_since = time.monotonic()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            cycle = self.cycle
            if isinstance(cycle, Cycle) and cycle.disconnected:
                cycle.lost()

        def on_message_begin(self) -> None:
            self._fed = 0
            self._began = True
            self._head_since = time.monotonic()
            self._idle_since = None
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_since = None
            # Only heads that span reads, or came in one very large read, can be too long.
            if self._measure and self._head_size() > max_head_bytes:
                self._too_large = True
                raise HeadTooLarge
            if self.parser.should_upgrade():
                self._offer = True
                return
            self._begin_cycle()
            if self.last_answer:
                self.cycle.keep_alive = False

        def _begin_cycle(self) -> None:
            """As uvicorn's on_headers_complete, whose limit of concurrency is not used here: the pool has one."""
            parser, scope, url = self.parser, self.scope, self.url
            version = parser.get_http_version()
            scope["method"] = parser.get_method().decode("ascii")
            if version != "1.1":
                scope["http_version"] = version
            if _plain_path(url):
                scope["raw_path"], scope["query_string"] = url, b""
                scope["path"] = url.decode("ascii")
            else:
                parsed = httptools.parse_url(url)
                path = parsed.path.decode("ascii")
                scope["raw_path"], scope["query_string"] = parsed.path, parsed.query or b""
                scope["path"] = unquote(path) if "%" in path else path
            former = self.cycle
            self.cycle = cycle = Cycle(
                scope=scope,
                transport=self.transport,
                flow=self.flow,
                logger=self._errors,
                access_logger=self.access_logger,
                access_log=False,
                default_headers=self.server_state.default_headers,
                message_event=asyncio.Event(),
                expect_100_continue=self.expect_100_continue,
                keep_alive=version != "1.0" and parser.should_keep_alive(),
                on_response=self.on_response_complete,
            )
            extensions: dict[str, Any] = {ABORT: self.transport.abort, GONE: cycle.tell}
            scope["extensions"] = extensions
            if former is None or former.response_complete:
                self._start_asgi_task(cycle, self.app)
            else:
                self.flow.pause_reading()
                self.pipeline.appendleft((cycle, self.app))

        def on_response_complete(self) -> None:
            """As uvicorn's, without a timer for each answer: `close_overdue` looks after idle connections."""
            self.server_state.total_requests += 1
            if self.transport.is_closing():
                return
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._idle_since = time.monotonic()

        def on_message_complete(self) -> None:
            if not self._offer:
                super().on_message_complete()

        def _unsupported_upgrade_warning(self) -> None:
            """Called by uvicorn when httptools stopped at an upgrade."""
            stopped = sys.exc_info()[1]
            assert isinstance(stopped, httptools.HttpParserUpgrade)
            rest = self._data[stopped.args[0] :]
            self._offer = False
            method = self.parser.get_method()
            if method == b"CONNECT":
                self.send_400_response("Invalid HTTP request received.")
                return
            head = [b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())]
            for name, value in self.headers:
                if name == b"connection":
                    tokens = [token for token in value.split(b",") if token.strip().lower() not in _OFFER]
                    head.append(b"connection: %b\r\n" % b",".join(tokens) if tokens else b"")
                elif name not in _OFFER:
                    head.append(b"%b: %b\r\n" % (name, value))
            self.parser = httptools.HttpRequestParser(self)
            self._again = b"".join((*head, b"\r\n", rest))

        def _head_size(self) -> int:
            return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

        def data_received(self, data: bytes) -> None:
            self._feed(data)
            offers = 0
            while self._again is not None:
                data, self._again = self._again, None
                offers += 1
                if offers > _MAX_OFFERS:
                    self.send_400_response("Invalid HTTP request received.")
                    return
                self._feed(data)

        def _feed(self, data: bytes) -> None:
            self._began = False
            self._measure = self._fed > 0 or len(data) > max_head_bytes
            self._data = data
            super().data_received(data)
            self._data = b""
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

        def idle_since_before(self, before: float) -> bool:
            """Whether the last answer was complete before an instant, and nothing has come since."""
            return self._idle_since is not None and self._idle_since < before

    return BoundedProtocol


def close_after_answer(protocol: type[HttpToolsProtocol], connections: Any) -> None:
    """From now on every answer ends its connection, and says so.

    Parameters:
        protocol: of `bounded_protocol`.
        connections: those that are open.
    """
    protocol.last_answer = True  # type: ignore[attr-defined]  # declared by the class made here
    for connection in list(connections):
        if connection.cycle is not None and not connection.cycle.response_complete:
            connection.cycle.keep_alive = False


def close_overdue(connections: Any, timeout_s: float) -> None:
    """Close connections that take longer than `timeout_s` for a request head, or idle for longer than KEEP_ALIVE_S."""
    now = time.monotonic()
    for connection in list(connections):
        if connection.head_overdue(now - timeout_s) or connection.idle_since_before(now - KEEP_ALIVE_S):
            connection.transport.close()
