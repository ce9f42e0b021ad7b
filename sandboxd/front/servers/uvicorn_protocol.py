"""uvicorn's HTTP/1.1 protocol with what Dapr's clients need, and what hostile callers must not have.

- Bounds on the size of a request head and on the time it may take.
- One request of a connection at a time: what comes behind a request stays unparsed, and the connection unread, until
  that request is answered. A single read can hold ten thousand requests, each of which would be a hundred times as
  large once it is parsed.
- Heads that are ambiguous are refused, see `framing`.
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
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandboxd.front.http import trace_headers
from sandboxd.front.http.bodies import WHOLE
from sandboxd.front.http.guest_http import ABORT
from sandboxd.front.servers import framing
from sandboxd.front.servers.connections import Connections, probes_only
from sandboxd.front.servers.disconnects import GONE
from sandboxd.front.servers.refusals import Refusal, Refusals
from sandboxd.front.servers.uvicorn_cycle import CountingFlow, Cycle

_OFFER = frozenset((b"upgrade", b"http2-settings"))
_EXAMINED: Final = framing.EXAMINED | {b"expect"}

KEEP_ALIVE_S: Final = 60
"""Idle connections are kept this long."""
_END_OF_HEAD: Final = b"\r\n\r\n"
"""Also the end of a chunked body. What is parsed at once ends there, so it holds one request, or two at the most."""
_PREFACE: Final = b"PRI * HTTP/2.0\r\n"
"""What a caller sends first that speaks HTTP/2 without asking (RFC 9113, 3.4)."""
_PIECES: Final = 256
"""So many pieces of what was received are parsed before the event loop has its turn again."""

# Whoever can send bytes could fill the log with uvicorn's warnings about them.
_CALLERS_MISTAKES = logging.getLogger("uvicorn.error.callers")
_CALLERS_MISTAKES.setLevel(logging.ERROR)

_plain_path = re.compile(rb"/[A-Za-z0-9_.~/-]*").fullmatch


def bounded_protocol(max_head_bytes: int, connections: Connections, refusals: Refusals) -> type[HttpToolsProtocol]:
    """Return a protocol class that keeps connections within bounds.

    Parameters:
        max_head_bytes: the longest head, counting names, values and four bytes for each header. Longer ones are
            answered with 431.
        connections: told of every connection.
        refusals: told of callers that are turned away.
    """

    class BoundedProtocol(HttpToolsProtocol):
        """Counts the bytes of the head while it arrives, and knows since when it does."""

        _head_since: float | None = None
        _idle_since: float | None = None
        _fed = 0
        _began = False
        _measure = False
        _bad: framing.BadHead | None = None
        last_answer = False
        """The server ends: answers close their connection. For all of this class."""
        _received: bytes = b""
        _parsed = 0
        """The number of bytes of `_received` that are parsed."""
        _continues = False
        """`_parse` will be called again by the event loop."""
        _offer = False
        _fresh = False
        _encoded = False
        _again: bytes | None = None
        _stopped = 0
        _examined: list[tuple[bytes, bytes]]
        _running: Cycle | None = None
        _owes_body = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            self._errors: logging.Logger
            self._errors, self.logger = self.logger, _CALLERS_MISTAKES
            self._head_since = time.monotonic()
            self.flow = self._outgoing = CountingFlow(transport, self._wrote_large)
            self.peer = self.client[0] if self.client else ""
            if not connections.enter(self):
                self.app = probes_only(self.app, refusals.add)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.leave(self)
            self._received, self._parsed = b"", 0
            self.pipeline.clear()
            # uvicorn knows the last request only, and this one may come before it.
            running = self._running
            if running is not None and not running.response_complete:
                self.cycle = running
            super().connection_lost(exc)
            if running is not None and running.disconnected:
                running.lost()

        # what the parser tells ----------------------------------------------------------------------------------------

        def on_message_begin(self) -> None:
            self._fed = 0
            self._began = True
            self._head_since = time.monotonic()
            self._idle_since = None
            self._examined = []
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._head_since is None:
                return  # a trailer: it must not be taken for a header (RFC 9110, 6.5.1)
            name = name.lower()
            if name in _EXAMINED:
                if name != b"expect":
                    self._examined.append((name, value))
                elif value.lower() == b"100-continue":
                    self.expect_100_continue = True
            self.headers.append((name, value))

        def on_headers_complete(self) -> None:
            self._head_since = None
            self._owes_body = True
            # Only heads that span reads, or came in one very large read, can be too long.
            if self._measure and self._head_size() > max_head_bytes:
                self._refuse(framing.BadHead(431, "Request Header Fields Too Large"))
            if self.parser.should_upgrade():
                self._offer = True
                return
            try:
                self._begin_cycle()
            except framing.BadHead as bad:
                self._refuse(bad)

        def _refuse(self, bad: framing.BadHead) -> None:
            """Refuse the head: httptools wraps the error in one of its own, and `send_400_response` answers that."""
            self._bad = bad
            raise bad

        def _begin_cycle(self) -> None:
            """Do as uvicorn's on_headers_complete, whose limit of concurrency is not used here: the pool has one.

            Raises:
                BadHead: the head is refused.
            """
            parser, scope, url = self.parser, self.scope, self.url
            version = parser.get_http_version()
            framing.check_fields(version, self._examined)
            method = parser.get_method()
            scope["method"] = method.decode("ascii")
            if version != "1.1":
                scope["http_version"] = version
                self.expect_100_continue = False  # HTTP/1.0 knows no interim answers (RFC 9110, 10.1.1)
            if _plain_path(url):
                scope["raw_path"], scope["query_string"] = url, b""
                scope["path"] = url.decode("ascii")
            else:
                raw_path, query, authority = framing.split(method, url)
                path = raw_path.decode("ascii")
                scope["raw_path"], scope["query_string"] = raw_path, query
                scope["path"] = unquote(path) if "%" in path else path
                if authority is not None:
                    framing.replace_host(self.headers, authority)
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
                keep_alive=version != "1.0" and parser.should_keep_alive() and not self.last_answer,
                on_response=self.on_response_complete,
            )
            extensions: dict[str, Any] = {ABORT: self.transport.abort, GONE: cycle.tell, WHOLE: cycle.whole}
            scope["extensions"] = extensions
            if former is None or former.response_complete:
                self._start_asgi_task(cycle, self.app)
            else:
                self.pipeline.appendleft((cycle, self.app))

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            self._running = cycle
            super()._start_asgi_task(cycle, app)

        def on_response_complete(self) -> None:
            """Do as uvicorn's, without a timer for each answer: `Connections.sweep` looks after idle connections."""
            self.server_state.total_requests += 1
            if self.transport.is_closing():
                return
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
                return
            self._idle_since = time.monotonic()
            if self._received:
                self._parse()
            else:
                self.flow.resume_reading()

        def on_message_complete(self) -> None:
            if not self._offer:
                self._owes_body = False
                super().on_message_complete()

        def _unsupported_upgrade_warning(self) -> None:
            """Called by uvicorn when httptools stopped at an upgrade."""
            stopped = sys.exc_info()[1]
            assert isinstance(stopped, httptools.HttpParserUpgrade)
            self._offer = False
            method = self.parser.get_method()
            if method == b"CONNECT":
                self._bad = framing.BadHead(400, "CONNECT is for proxies")
                self.send_400_response("")
                return
            head = [b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())]
            for name, value in self.headers:
                if name == b"connection":
                    tokens = [token for token in value.split(b",") if token.strip().lower() not in _OFFER]
                    head.append(b"connection: %b\r\n" % b",".join(tokens) if tokens else b"")
                elif name not in _OFFER:
                    head.append(b"%b: %b\r\n" % (name, value))
            self.parser = httptools.HttpRequestParser(self)
            self._again = b"".join((*head, b"\r\n"))
            self._stopped = stopped.args[0]

        def _head_size(self) -> int:
            return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

        # what is received ---------------------------------------------------------------------------------------------

        def data_received(self, data: bytes) -> None:
            # What is not parsed yet is rarely there: reading pauses then, and only what was on its way still comes.
            self._received = self._received[self._parsed :] + data if self._received else data
            self._parsed = 0
            if not self._continues:
                self._parse()

        def _parse(self) -> None:
            """Parse what was received, up to the end of a request that has no answer yet."""
            self._continues = False
            pieces = 0
            while self._received:
                if self.transport.is_closing():
                    self._received, self._parsed = b"", 0
                    break
                cycle = self.cycle
                if cycle is not None and not cycle.response_complete and not cycle.more_body:
                    self.flow.pause_reading()
                    return
                if pieces == _PIECES:
                    self.flow.pause_reading()
                    self._continues = True
                    self.loop.call_soon(self._parse)
                    return
                pieces += 1
                self._feed(self._piece())
            if self.flow.read_paused and not self.transport.is_closing() and not self._unread_body():
                self.flow.resume_reading()

        def _piece(self) -> Any:
            """Return the next piece to parse: bytes, or a memoryview of them."""
            received, begin = self._received, self._parsed
            # Each request has a version in it. (Of `/0.9` and `/2.0` the first is refused.)
            if begin == 0 and received.count(b"/1.") < 2:
                return received
            end = received.find(_END_OF_HEAD, begin)
            end = len(received) if end < 0 else end + len(_END_OF_HEAD)
            return memoryview(received)[begin:end]

        def _unread_body(self) -> bool:
            """Return whether the application has not taken much of a body yet."""
            cycle = self.cycle
            return cycle is not None and not cycle.response_complete and len(cycle.body) > HIGH_WATER_LIMIT

        def _feed(self, data: Any) -> None:
            self._began = False
            former = self.cycle
            # Only what begins with a request's first line may be parsed again.
            self._fresh = not self._fed and (former is None or (former.response_complete and not former.more_body))
            self._measure = self._fed > 0 or len(data) > max_head_bytes
            super().data_received(data)
            if self._encoded:
                self._encoded = False
                return  # the same request comes again, with a target that httptools takes
            if self._again is not None:
                again, self._again = self._again, None
                self._advance(self._stopped)
                super().data_received(again)
            else:
                self._advance(len(data))
            if self._head_since is None or self.headers is None:
                return
            # A head is incomplete. That nothing of this piece stood before it is only known if the head is all
            # there is; otherwise the piece counts nearly nothing, and the true bound is the limit and one read.
            whole = self.cycle is former and (former is None or not former.more_body)
            self._fed += len(data) if whole or not self._began else 1
            if self._fed > max_head_bytes and not self.transport.is_closing():
                self._bad = framing.BadHead(431, "Request Header Fields Too Large")
                self.send_400_response("")

        def _advance(self, size: int) -> None:
            self._parsed += size
            if self._parsed >= len(self._received):
                self._received, self._parsed = b"", 0

        def send_400_response(self, msg: str) -> None:
            """Refuse what was received last, and close the connection. Also called by uvicorn, for what is no HTTP."""
            if self._bad is None and self._fresh:
                self._fresh = False
                waiting = self._received[self._parsed :]
                encoded = framing.with_encoded_target(waiting)
                if encoded is not None:
                    self._received, self._parsed, self._encoded = encoded, 0, True
                    self.parser = httptools.HttpRequestParser(self)
                    return
                if waiting.startswith(_PREFACE):
                    self._bad = framing.BadHead(505, "HTTP/2 needs engine.kind: hypercorn, or TLS")
            bad, self._bad = self._bad or framing.BadHead(400, msg), None
            self._received, self._parsed = b"", 0
            refusals.add(Refusal.HEAD_SIZE if bad.status == 431 else Refusal.MALFORMED)
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete:
                if not cycle.more_body:
                    # The request before it is answered first; that answer then ends the connection.
                    cycle.keep_alive = False
                    self.flow.pause_reading()
                    return
                if cycle.response_started:
                    self.transport.close()  # an answer in the middle of another would be taken for a part of it
                    return
            text = f"{bad.status} {HTTPStatus(bad.status).phrase}: {bad.reason}\n".encode()
            head = b"HTTP/1.1 %d %b\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            head %= (bad.status, HTTPStatus(bad.status).phrase.encode())
            head += b"%b: %b\r\n" % trace_headers.refused(None, bad.status, bad.reason)[0]
            self.transport.write(head + b"content-length: %d\r\n\r\n" % len(text) + text)
            self.transport.close()

        # what `Connections` asks --------------------------------------------------------------------------------------

        def idle_since(self) -> float | None:
            """See `Connection`."""
            running = self._running
            if running is not None and not running.response_complete and self.cycle is not None:
                return None
            return self._head_since if self._idle_since is None else self._idle_since

        def overdue(self, now: float) -> Refusal | None:
            """See `Connection`."""
            limits = connections.limits
            if self._head_since is not None and now - self._head_since > limits.head_timeout_s:
                if self._fed:
                    return Refusal.HEAD_TIMEOUT
                self.close()
            elif self._idle_since is not None:
                idle_s = now - self._idle_since
                if self._owes_body and idle_s > limits.body_timeout_s:
                    return Refusal.BODY_TIMEOUT
                if idle_s > KEEP_ALIVE_S:
                    self.close()
            return None

        def unread(self) -> int:
            """See `Connection`."""
            return self.transport.get_write_buffer_size()

        def sent(self) -> int:
            """See `Connection`."""
            return self._outgoing.written - self.unread()

        def close(self) -> None:
            """See `Connection`."""
            self.transport.close()

        def abort(self) -> None:
            """See `Connection`."""
            self.transport.abort()

        def _wrote_large(self) -> None:
            if self.unread():
                connections.wrote(self)

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
