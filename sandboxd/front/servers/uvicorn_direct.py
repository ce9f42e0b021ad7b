"""One plain binding request and its answer on uvicorn, without ASGI: a `Cycle` that needs no task.

It has those attributes of a `Cycle` that uvicorn and the protocol look at, so that little of the protocol needs to know
which of both a request has. Its answer has the bytes that a `Cycle` would send.
"""

import asyncio
import time
from typing import Any, Final, Protocol

from uvicorn.protocols.http.httptools_impl import HEADER_VALUE_RE, STATUS_LINE

from sandboxd.front.http.direct import DirectEndpoint, DirectExchange, Plain
from sandboxd.front.http.replies import Laid
from sandboxd.front.ports import Headers
from sandboxd.front.servers.connections import LARGE_BYTES
from sandboxd.front.servers.uvicorn_cycle import CountingFlow, known_names, lower_name
from sandboxd.pool.errors import Rejected

LATE_S: Final = 0.01
"""A body that is not there after one to two times this is for ASGI, where its pace is watched. Most bodies come with
their head or right behind it."""

_bad_value = HEADER_VALUE_RE.search


class Connection(Protocol):
    """The protocol of a connection, as its plain requests know it."""

    transport: asyncio.Transport
    flow: CountingFlow
    server_state: Any

    def on_response_complete(self) -> None:
        """The request is answered."""

    def fall_back(self) -> None:
        """Give the request, whose body is not there yet, to the ASGI application."""


class _DefaultLines:
    """The server's own headers as lines. uvicorn makes a new list of them each second, for the date."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = b""

    def of(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the lines of these."""
        if headers is not self._headers:
            self._lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self._headers = headers
        return self._lines


_default_lines: Final = _DefaultLines()


class _Silent:
    """Stands in for the event by which ASGI's `receive` is woken."""

    def set(self) -> None:
        """Nobody waits."""


class _Turn:
    """A request at the gate: a `sandboxd.front.answering.load_shedding.Turn`."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: "DirectCycle") -> None:
        self._cycle: DirectCycle | None = cycle

    def done(self) -> bool:
        """Return whether the caller has gone."""
        return self._cycle is None

    def leave(self) -> None:
        """The caller has gone."""
        self._cycle = None

    def set_result(self, _result: None) -> None:
        """It is admitted."""
        if self._cycle is not None:
            self._cycle.admitted()

    def set_exception(self, refusal: Rejected) -> None:
        """It is refused."""
        if self._cycle is not None:
            self._cycle.refused(refusal)


class DirectCycle:
    """See the module.

    Parameters:
        connection: on which the request came.
        endpoint: answers it.
        plain: its head.
        keep_alive: whether the connection is kept after the answer.
    """

    response_started = False
    """Nothing of an answer is sent before all of it is there."""
    message_event: Final = _Silent()

    __slots__ = (
        "_began_ns",
        "_connection",
        "_endpoint",
        "_exchange",
        "_turn",
        "body",
        "disconnected",
        "keep_alive",
        "more_body",
        "plain",
        "response_complete",
    )

    def __init__(self, connection: Connection, endpoint: DirectEndpoint, plain: Plain, *, keep_alive: bool) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self.disconnected = False
        self._exchange: DirectExchange | None = None
        self._turn: _Turn | None = None
        self.renew(plain, b"", keep_alive=keep_alive)

    def renew(self, plain: Plain, body: bytes, *, keep_alive: bool) -> None:
        """Be that of the connection's next request, once this one is answered.

        Parameters:
            plain, keep_alive: see the class.
            body: as much as is there.
        """
        self.plain = plain
        self._began_ns = time.monotonic_ns()
        self.body = body
        self.keep_alive = keep_alive
        self.more_body = True
        self.response_complete = False

    def __repr__(self) -> str:
        return f"<DirectCycle {'complete' if self.response_complete else 'reading' if self.more_body else 'running'}>"

    def begin(self, *, admitted: bool = False) -> bool:
        """Begin to answer, now that the body is whole, or wait at the gate. Return False if the request is for ASGI
        after all.

        Parameters:
            admitted: the gate has let the request in.
        """
        self.more_body = False
        if not admitted and not self._endpoint.has_room(self.plain[0].binding.name):
            # Later, the parser may be at the next request, and this one could not be given to ASGI any more.
            if not self._endpoint.plain_in_any_case(self.body):
                return False
            self._turn = _Turn(self)
            self._endpoint.line_up(self.plain, self._turn)
            return True
        exchange = self._endpoint.begin(self.plain, self.body, self._began_ns, self._reply)
        if exchange is None:
            return False
        if not self.response_complete:
            self._exchange = exchange
        self.body = b""  # this stays with an idle connection
        return True

    def admitted(self) -> None:
        """Begin to answer: the gate has let the request in."""
        self._turn = None
        began = self.begin(admitted=True)
        assert began, "what may be for ASGI does not wait here"

    def refused(self, rejected: Rejected) -> None:
        """Answer with a refusal: so the gate has decided."""
        self._turn = None
        self.body = b""
        self._endpoint.refuse(self.plain, self._began_ns, rejected, self._reply)

    def lost(self) -> None:
        """Note that the connection is closed before the answer."""
        if self._turn is not None:
            self._turn.leave()
        if self._exchange is None:
            self._endpoint.left(self.plain, self._began_ns)
        else:
            self._exchange.abandon()

    def _reply(self, reply: Laid) -> None:
        status, headers, body = reply
        connection = self._connection
        if isinstance(headers, bytes):
            last = b"" if self.keep_alive else b"connection: close\r\n"
            defaults = _default_lines.of(connection.server_state.default_headers)
            data = b"".join((STATUS_LINE[status], defaults, headers, last, b"\r\n", body))
        else:
            data = self._laid(status, headers, body)
        self.response_complete = True
        self._exchange = None  # it leads back here
        transport = connection.transport
        if self.disconnected or transport.is_closing():
            # Closing takes a turn of the event loop: a caller may have ended its side, or have been turned away.
            return
        transport.write(data)
        flow, size = connection.flow, len(data)
        if size < LARGE_BYTES:
            flow.written += size
        else:
            flow.wrote(size)
        if not self.keep_alive:
            transport.close()
        connection.on_response_complete()

    def _laid(self, status: int, headers: Headers, body: bytes) -> bytes:
        """Return the answer as it is sent.

        Raises:
            RuntimeError: a header is none.
        """
        defaults = self._connection.server_state.default_headers
        content = [STATUS_LINE[status]]
        closes = False
        values = []
        for name, value in (*defaults, *headers):
            lower = known_names.get(name) or lower_name(name)
            if lower == b"connection":
                self.keep_alive, closes = False, True
            values.append(value)
            content += (lower, b": ", value, b"\r\n")
        if _bad_value(b"".join(values)):
            raise RuntimeError("Invalid HTTP header value.")
        if not self.keep_alive and not closes:
            content.append(b"connection: close\r\n")
        content += (b"\r\n", body)
        return b"".join(content)


class Awaited:
    """The connections with a plain request whose body is not there yet. Those of whom it is late go on by ASGI."""

    def __init__(self) -> None:
        self._rounds: dict[Connection, int] = {}
        self._round = 0
        self._looking = False

    def __repr__(self) -> str:
        return f"<Awaited {len(self._rounds)}>"

    def add(self, connection: Connection) -> None:
        """Wait for the body of its request."""
        self._rounds.setdefault(connection, self._round)
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LATE_S, self._look)

    def discard(self, connection: Connection) -> None:
        """The body is there, or the connection is closed."""
        self._rounds.pop(connection, None)

    def _look(self) -> None:
        late = [connection for connection, since in self._rounds.items() if since < self._round]
        self._round += 1
        self._looking = len(late) < len(self._rounds)
        if self._looking:
            asyncio.get_running_loop().call_later(LATE_S, self._look)
        for connection in late:
            del self._rounds[connection]
            connection.fall_back()
