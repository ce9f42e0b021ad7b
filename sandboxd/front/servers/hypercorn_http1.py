"""Hypercorn's HTTP/1.1 with heads examined as on uvicorn, and with what RFC 9112 asks of a server beyond h11.

- Lines end in CR LF and are not continued (2.2, 5.2). h11 takes a bare LF and folded lines, as some proxies do not.
- Empty lines before a request are skipped (2.2): some clients send one behind a body.
- What comes behind a request that is the connection's last is dropped (9.6), where h11 would refuse the request itself.
- An absolute-form target is taken apart (3.2.2).
- A request that is answered before its body has come, as one that is refused, does not end the connection: what comes
  of the body is dropped (9.3). Hypercorn would hang up, and reset what the caller has not read of the answer.
- No offer to switch protocols is taken up (RFC 9110, 7.8). Nothing here speaks WebSocket. A switch to h2c would take
  what follows out of the sight of a proxy that passes the offer on; HTTP/2 is for those who begin with it (RFC 9113,
  3.1).
"""

import re
from typing import Any, Final

import h11
import hypercorn.protocol
from h11 import DONE, IDLE, MUST_CLOSE, SEND_BODY
from h11._receivebuffer import ReceiveBuffer
from hypercorn.events import Closed, Updated
from hypercorn.protocol.h11 import H11Protocol

from sandboxd.front.http.trace_headers import refused
from sandboxd.front.servers import framing
from sandboxd.front.servers.refusals import Refusal, Refusals

_NEW_LINES = b"\r\n"
_LAST = ((b"content-length", b"0"), (b"connection", b"close"))
MOST_DROPPED: Final = 256 * 1024
"""The longest body that is dropped to keep a connection, in bytes."""


_END = b"\r\n\r\n"
_ambiguous = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]").search
_chunk_head = re.compile(rb"[0-9A-Fa-f]{1,16}(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n").fullmatch
_LENGTH = framing.CONTENT_LENGTH + b":"


class StrictBuffer(ReceiveBuffer):
    """What was received, and h11's readers take. It refuses lines that could be read in two ways.

    Each method raises h11.LocalProtocolError where it refuses, as h11's readers do.
    """

    _examined = 0
    """So many bytes of the lines that are not complete yet were looked at."""

    def _extract(self, count: int) -> bytearray:
        self._examined = 0
        return super()._extract(count)

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines of a head or of trailers, once they are complete."""
        data = self._data
        end = data.find(_END, max(0, self._examined - len(_END)))
        # One byte before, since what a line feed means depends on it.
        if data[:2] != _NEW_LINES and _ambiguous(data, max(0, self._examined - 1), len(data) if end < 0 else end + 2):
            raise h11.LocalProtocolError("a line does not end in CR LF, is continued, or has control characters")
        self._examined = len(data)
        lines = super().maybe_extract_lines()
        lengths = [line for line in lines or () if line[: len(_LENGTH)].lower() == _LENGTH]
        if len(lengths) > 1 or (lengths and b"," in lengths[0]):
            raise h11.LocalProtocolError("there must be one Content-Length")
        return lines

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return the head of a chunk, once it is complete."""
        line = super().maybe_extract_next_line()
        if line is not None and not _chunk_head(line):
            raise h11.LocalProtocolError("the head of a chunk is malformed")
        return line


class ExaminingConnection(h11.Connection):
    """A connection whose request heads are as `framing` wants them.

    Parameters:
        max_head_bytes: the longest head.
        refusals: told of callers that are turned away.
    """

    def __init__(self, max_head_bytes: int, refusals: Refusals) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=max_head_bytes)
        self._receive_buffer = StrictBuffer()
        self._refusals = refusals
        self.why = ""
        """Why the caller is refused."""

    def next_event(self) -> Any:
        """See h11.

        Raises:
            h11.RemoteProtocolError: the caller is to be refused, with the status that the error hints at.
        """
        state = self.their_state
        buffer: Any = self._receive_buffer
        if state is MUST_CLOSE:
            buffer.maybe_extract_at_most(len(buffer))
        elif state is IDLE or state is DONE:
            received = bytes(buffer)
            blank = len(received) - len(received.lstrip(_NEW_LINES))
            if blank:
                buffer.maybe_extract_at_most(blank)
            encoded = None if received.isascii() else framing.with_encoded_target(received[blank:])
            if encoded is not None:
                buffer.maybe_extract_at_most(len(buffer))
                buffer += encoded
        try:
            event = super().next_event()
            return _examined(event) if isinstance(event, h11.Request) else event
        except h11.RemoteProtocolError as error:
            self.why = str(error)
            self._refusals.add(Refusal.HEAD_SIZE if error.error_status_hint == 431 else Refusal.MALFORMED)
            raise


def _examined(request: h11.Request) -> h11.Request:
    """Return the request as the application sees it.

    Raises:
        h11.RemoteProtocolError: it is refused.
    """
    fields = list(request.headers)
    if request.method == b"PRI" and request.http_version == b"2.0":
        return request  # HTTP/2 with prior knowledge
    try:
        framing.check_method(request.method)
        if request.method == b"CONNECT":
            raise framing.BadHead(400, "CONNECT is for proxies")
        framing.check_fields(request.http_version.decode("ascii"), fields)
        path, query, authority = framing.split(request.method, request.target)
    except framing.BadHead as bad:
        raise h11.RemoteProtocolError(bad.reason, error_status_hint=bad.status) from None
    offers = any(name == b"upgrade" for name, _ in fields)
    if authority is None and not offers:
        return request
    if authority is not None:
        framing.replace_host(fields, authority)
    return h11.Request(
        method=request.method,
        target=path + (b"?" + query if query else b""),
        headers=[field for field in fields if not offers or field[0] != b"upgrade"],
        http_version=request.http_version,
    )


def install(refusals: Refusals) -> None:
    """Have Hypercorn use it for all connections accepted from now on. It offers no other way to choose.

    Parameters:
        refusals: told of callers that are turned away.
    """

    class ExaminingH11Protocol(H11Protocol):
        """See Hypercorn."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.connection: ExaminingConnection = ExaminingConnection(self.config.h11_max_incomplete_size, refusals)

        _dropping = False
        _dropped = 0

        async def _maybe_recycle(self) -> None:
            states = (self.connection.our_state, self.connection.their_state)
            # Who waits for 100 Continue may leave the body out, and go on with another request.
            waits = self.connection.they_are_waiting_for_100_continue
            if states != (DONE, SEND_BODY) or waits or self.context.terminated.is_set():
                await super()._maybe_recycle()
                return
            self._dropping, self._dropped = True, 0
            await self._close_stream()
            await self.can_read.set()
            # From here on it counts as idle, and is closed if the body does not come.
            await self.send(Updated(idle=True))

        async def _handle_events(self) -> None:
            if not self._dropping:
                await super()._handle_events()
            if self._dropping and await self._drop():
                await super()._maybe_recycle()
                await self._handle_events()

        async def _drop(self) -> bool:
            """Drop what has come of the body. Return whether it has ended."""
            while self.connection.their_state is SEND_BODY:
                try:
                    event = self.connection.next_event()
                except h11.RemoteProtocolError:
                    break
                if event is h11.NEED_DATA:
                    return False
                if isinstance(event, h11.Data):
                    self._dropped += len(event.data)
                    if self._dropped > MOST_DROPPED:
                        break
            self._dropping = False
            if self.connection.their_state is DONE:
                return True
            await self.send(Closed())
            return False

        async def _send_error_response(self, status_code: int) -> None:
            bad = framing.NoSuchMethod()
            kind, body = bad.content() if status_code == bad.status else (b"", b"")
            about = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), _LAST[1]] if body else _LAST
            fields = [*about, *refused(None, status_code, self.connection.why), *self.config.response_headers("h11")]
            await self._send_h11_event(h11.Response(status_code=status_code, headers=fields))
            if body:
                await self._send_h11_event(h11.Data(data=body))
            await self._send_h11_event(h11.EndOfMessage())

    vars(hypercorn.protocol)[H11Protocol.__name__] = ExaminingH11Protocol
