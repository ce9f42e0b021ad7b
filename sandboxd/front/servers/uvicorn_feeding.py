"""Feeds uvicorn's parser: received bytes go to it piece by piece, and never more than it has to know.

- One request of a connection at a time: what comes behind a request stays unparsed, and the connection unread, until
  that request is answered. A single read can hold ten thousand requests, each of which would be a hundred times as
  large once it is parsed.
- Requests that offer an upgrade to h2c, as Java's HttpClient does by default, are answered in HTTP/1.1 (RFC 9110,
  7.8: a server may ignore Upgrade). httptools stops at such a head and drops the body, so the head is taken out of its
  hands and given back without the offer.
- What is not a request is refused.

Imported only where uvicorn and httptools are installed.
"""

from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandboxd.front.http import trace_headers
from sandboxd.front.servers import framing
from sandboxd.front.servers.refusals import Refusal, Refusals

_OFFER: Final = frozenset((b"upgrade", b"http2-settings"))
_END_OF_HEAD: Final = b"\r\n\r\n"
"""Also the end of a chunked body. What is parsed at once ends there, so it holds one request, or two at the most."""
_INVALID: Final = "Invalid HTTP request received."
_PREFACE: Final = b"PRI * HTTP/2.0\r\n"
"""The preface of HTTP/2 with prior knowledge (RFC 9113, 3.4)."""
_PIECES: Final = 256
"""So many pieces of what was received are parsed before the event loop has its turn again."""


class FeedingProtocol(HttpToolsProtocol):
    """See the module. Subclasses tell it of heads, by `_head_since` and `_heads`, and make the cycles."""

    max_head_bytes: int
    """The longest head, counting names, values and four bytes for each header. Longer ones are answered with 431."""
    refusals: Refusals
    """Told of callers that are turned away."""

    _head_since: float | None = None
    _heads = 0
    """The number of heads that were complete."""
    _fed = 0
    """The number of bytes of a head that arrived with earlier pieces."""
    _began = False
    _measure = False
    """The head may be too long."""
    _bad: framing.BadHead | None = None
    _received: bytes = b""
    _parsed = 0
    """The number of bytes of `_received` that are parsed."""
    _continues = False
    """`_parse` will be called again by the event loop."""
    _offer = False
    _fresh = False
    _encoded = False

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
            if self._continues or (cycle is not None and not cycle.response_complete and not cycle.more_body):
                self.flow.pause_reading()
                return
            if pieces == _PIECES:
                self.flow.pause_reading()
                self._parse_soon()
                return
            pieces += 1
            self._feed(self._piece())
        cycle = self.cycle
        if cycle is not None and cycle.more_body and not self.transport.is_closing():
            self._await_body()
        if self.flow.read_paused and not self.transport.is_closing() and not self._unread_body():
            self.flow.resume_reading()

    def _await_body(self) -> None:
        """All is parsed that was received, and the body of the last request is not whole."""

    def _parse_soon(self) -> None:
        """Go on to parse in the next turn of the event loop."""
        if not self._continues:
            self._continues = True
            self.loop.call_soon(self._parse)

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
        heads = self._heads
        # Only what begins with a request's first line may be parsed again.
        self._fresh = not self._fed and (former is None or (former.response_complete and not former.more_body))
        self._measure = self._fed > 0 or len(data) > self.max_head_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._feed_again(stopped.args[0])
        except httptools.HttpParserError:
            self.send_400_response(_INVALID)
            if self._encoded:
                self._encoded = False
                return  # the same request comes again, with a target that httptools takes
        else:
            self._parsed += len(data)
            if self._parsed >= len(self._received):
                self._received, self._parsed = b"", 0
        if self._head_since is None or self.headers is None:
            return
        # A head is incomplete. That nothing of this piece stood before it is only known if the head is all
        # there is; otherwise the piece counts nearly nothing, and the true bound is the limit and one read.
        whole = self._heads == heads and (former is None or not former.more_body)
        self._fed += len(data) if whole or not self._began else 1
        if self._fed > self.max_head_bytes and not self.transport.is_closing():
            self._bad = framing.BadHead(431, "Request Header Fields Too Large")
            self.send_400_response("")

    def _refuse(self, bad: framing.BadHead) -> None:
        """Refuse the head: httptools wraps the error in one of its own, and `send_400_response` answers that."""
        self._bad = bad
        raise bad

    def _feed_again(self, stopped: int) -> None:
        """Feed the head of a request without its offer of an upgrade.

        Parameters:
            stopped: where httptools stopped in what it was fed: at the end of the head.
        """
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
        self._parsed += stopped
        if self._parsed >= len(self._received):
            self._received, self._parsed = b"", 0
        try:
            self.parser.feed_data(b"".join((*head, b"\r\n")))
        except httptools.HttpParserError:
            self.send_400_response(_INVALID)

    def send_400_response(self, msg: str) -> None:
        """Refuse what was received last, and close the connection.

        Parameters:
            msg: the reason, if there is no better one.
        """
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
            elif framing.has_unknown_method(waiting):
                self._bad = framing.NoSuchMethod()
        bad, self._bad = self._bad or framing.BadHead(400, msg), None
        self._received, self._parsed = b"", 0
        self.refusals.add(Refusal.HEAD_SIZE if bad.status == 431 else Refusal.MALFORMED)
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
        kind, text = bad.content()
        head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\nconnection: close\r\n"
        head %= (bad.status, HTTPStatus(bad.status).phrase.encode(), kind)
        head += b"%b: %b\r\n" % trace_headers.refused(None, bad.status, bad.reason)[0]
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(text) + text)
        self.transport.close()
