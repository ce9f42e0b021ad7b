"""uvicorn's HTTP/1.1 protocol with what Dapr's clients need, and what hostile callers must not have.

- Bounds on the size of a request head and on the time it may take; one request at a time, see `uvicorn_feeding`.
- Heads that are ambiguous are refused, see `framing`.
- Plain binding requests are answered without ASGI, see `uvicorn_direct`.

Imported only where uvicorn and httptools are installed.
"""

import asyncio
import re
import time
from typing import Any, Final
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandboxd.front.http.auth import TOKEN_HEADER
from sandboxd.front.http.bodies import WHOLE
from sandboxd.front.http.direct import DirectEndpoint
from sandboxd.front.http.guest_http import ABORT
from sandboxd.front.http.trace_headers import ECHOED
from sandboxd.front.servers import framing
from sandboxd.front.servers.connections import Connections, probes_only
from sandboxd.front.servers.disconnects import GONE
from sandboxd.front.servers.refusals import Refusal, Refusals
from sandboxd.front.servers.uvicorn_cycle import CountingFlow, Cycle
from sandboxd.front.servers.uvicorn_direct import Awaited, DirectCycle
from sandboxd.front.servers.uvicorn_feeding import FeedingProtocol
from sandboxd.front.servers.uvicorn_repeats import Repeats

_EXAMINED: Final = framing.EXAMINED | ECHOED | {b"expect", b"traceparent", TOKEN_HEADER}
"""Names of the headers that decide how a request is answered."""

KEEP_ALIVE_S: Final = 60
"""Idle connections are kept this long."""

_plain_path = re.compile(rb"/[A-Za-z0-9_.~/-]*").fullmatch


class BoundedProtocol(FeedingProtocol):
    """Counts the bytes of the head while it arrives, and knows since when it does."""

    table: Connections
    """Told of every connection."""
    direct: DirectEndpoint | None
    """Answers plain requests; None if the ASGI application answers all."""
    awaited: Awaited
    last_answer = False
    """The server ends: answers close their connection. For all of the class."""

    flow: CountingFlow
    _idle_since: float | None = None
    _running: Any = None
    """The `Cycle` or `DirectCycle` that is answered now, or was last."""
    _owes_body = False
    _awaits = False
    """Its plain request is among `awaited`."""
    _examined: list[tuple[bytes, bytes]]
    _repeats: Repeats

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._head_since = time.monotonic()
        self.flow = CountingFlow(transport, self._wrote_large)
        self._repeats = Repeats()
        self.peer = self.client[0] if self.client else ""
        if not self.table.enter(self):
            self.app = probes_only(self.app, self.refusals.add)
            self.direct = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.leave(self)
        self.awaited.discard(self)
        self._received, self._parsed = b"", 0
        self.pipeline.clear()
        # uvicorn knows the last request only, and this one may come before it.
        running = self._running
        if running is not None and not running.response_complete:
            self.cycle = running
        super().connection_lost(exc)
        if running is not None and running.disconnected:
            running.lost()

    def data_received(self, data: bytes) -> None:
        if self._repeats.known is None or not self._begin_again(data):
            super().data_received(data)

    def _begin_again(self, data: bytes) -> bool:
        """Begin to answer a request whose head is that of the one before. Return False if it has to be parsed.

        The parser is between two requests, and what it has said of the head is still here.
        """
        cycle: Any = self.cycle
        direct, flow = self.direct, self.flow
        known = self._repeats.match(data)
        if (
            known is None
            or not cycle.response_complete
            or direct is None
            or not direct.still_plain(known.bindings)
            or self._received
            or flow.read_paused
            or flow.write_paused
            or self.transport.is_closing()
        ):
            return False
        self._idle_since = None
        self._heads += 1
        # The one before it was plain, too, and nothing else holds it any more.
        cycle.renew(known.plain, data[len(known.head) :], keep_alive=not self.last_answer)
        if not cycle.begin():
            self.fall_back()
        return True

    # what the parser tells --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._repeats.known = None
        self._fed = 0
        self._began = True
        self._head_since = time.monotonic()
        self._idle_since = None
        self._examined = []
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_since is None:
            return  # a trailer: it must not be taken for a header (RFC 9110, 6.5.1)
        name = name.lower()
        if name in _EXAMINED:
            self._examined.append((name, value))
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_since = None
        self._owes_body = True
        # Only heads that span reads, or came in one very large read, can be too long.
        if self._measure and self._head_size() > self.max_head_bytes:
            self._refuse(framing.BadHead(431, "Request Header Fields Too Large"))
        if self.parser.should_upgrade():
            self._offer = True
            return
        version = self.parser.get_http_version()
        try:
            framing.check_fields(version, self._examined)
            self._heads += 1
            if self.direct is None or version != "1.1" or not self._begin_direct(self.direct):
                self._begin_cycle(version)
        except framing.BadHead as bad:
            self._refuse(bad)

    def _begin_direct(self, direct: DirectEndpoint) -> bool:
        """Begin to answer without ASGI. Return False if the request is not plain."""
        cycle: Any = self.cycle
        if self.flow.write_paused or (cycle is not None and not cycle.response_complete):
            return False
        plain = direct.plain(self.parser.get_method(), self.url, self._examined)
        if plain is None:
            return False
        keep_alive = self.parser.should_keep_alive() and not self.last_answer
        cycle = DirectCycle(self, direct, plain, keep_alive=keep_alive)
        self.cycle = self._running = cycle
        return True

    def _begin_cycle(self, version: str) -> None:
        """Do as uvicorn's on_headers_complete, whose limit of concurrency is not used here: the pool has one.

        Raises:
            BadHead: the head is refused.
        """
        parser, url = self.parser, self.url
        method = parser.get_method()
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": self.headers,
            "state": self.app_state.copy(),
            "method": method.decode("ascii"),
        }
        if version != "1.1":
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
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=parser.should_keep_alive() and not self.last_answer,
            on_response=self.on_response_complete,
        )
        scope["extensions"] = {ABORT: self.transport.abort, GONE: cycle.tell, WHOLE: cycle.whole}
        if former is None or former.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if type(cycle) is DirectCycle:
            cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offer:
            return
        self._owes_body = False
        cycle: Any = self.cycle
        if type(cycle) is not DirectCycle:
            super().on_message_complete()
        else:
            if self._awaits:
                self._awaits = False
                self.awaited.discard(self)
            elif self._fresh and self._began and not self._parsed and cycle.keep_alive and self.direct is not None:
                self._repeats.note(self._received, cycle.body, cycle.plain, self.direct.bindings)
            if not cycle.begin():
                self.fall_back()

    def fall_back(self) -> None:
        """Give the request that was to be answered without ASGI to the application, with as much as there is of it."""
        self._awaits = False
        former: Any = self.cycle
        self.cycle = None  # type: ignore[assignment]  # as before the first request
        self._begin_cycle("1.1")
        cycle: Any = self.cycle
        cycle.body += former.body
        cycle.more_body = former.more_body
        cycle.keep_alive = former.keep_alive
        cycle.message_event.set()

    # what is answered -------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Do as uvicorn's, without a timer for each answer: `Connections.sweep` looks after idle connections.

        The parser or the pool may have called, and has to return before the next request is parsed.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = time.monotonic()
        if self._received:
            self._parse_soon()
        elif self.flow.read_paused:
            self.flow.resume_reading()

    def _await_body(self) -> None:
        cycle: Any = self.cycle
        if type(cycle) is DirectCycle:
            self._awaits = True
            self.awaited.add(self)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    # what `Connections` asks ------------------------------------------------------------------------------------------

    def idle_since(self) -> float | None:
        """See `Connection`."""
        running = self._running
        if running is not None and not running.response_complete and self.cycle is not None:
            return None
        return self._head_since if self._idle_since is None else self._idle_since

    def overdue(self, now: float) -> Refusal | None:
        """See `Connection`."""
        limits = self.table.limits
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
        return self.flow.written - self.unread()

    def close(self) -> None:
        """See `Connection`."""
        self.transport.close()

    def abort(self) -> None:
        """See `Connection`."""
        self.transport.abort()

    def _wrote_large(self) -> None:
        if self.unread():
            self.table.wrote(self)


def bounded_protocol(
    max_head_bytes: int, connections: Connections, refusals: Refusals, direct: DirectEndpoint | None = None
) -> type[BoundedProtocol]:
    """Return a protocol class that keeps connections within bounds.

    Parameters:
        max_head_bytes: the longest head, counting names, values and four bytes for each header. Longer ones are
            answered with 431.
        connections: told of every connection.
        refusals: told of callers that are turned away.
        direct: answers plain requests; None if the ASGI application answers all.
    """
    members = {
        "max_head_bytes": max_head_bytes,
        "table": connections,
        "refusals": refusals,
        "direct": direct,
        "awaited": Awaited(),
    }
    return type("BoundedProtocol", (BoundedProtocol,), members)


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
