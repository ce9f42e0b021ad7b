"""The trace headers of answers, and malformed baggage, as Dapr's middleware has them before every route.

Every answer has a `traceparent`. Its span id is the `request_id` of what the log says of the request. Dapr gives
probes and malformed baggage none; an operator who is asked about one of these needs it as well.

Source: dapr pkg/diagnostics/http_tracing.go.
"""

from typing import Final

from sandboxd.front.answering.runlog import log_refusal
from sandboxd.front.answering.tracing import baggage_fault, new_span
from sandboxd.front.http.auth import is_probe
from sandboxd.front.ports import Headers, Message, Scope, Send

ECHOED: Final = frozenset((b"baggage", b"tracestate"))
"""The request headers because of which an answer may have more than `traceparent`."""
_PATH_BYTES: Final = 200
"""The part of a request's path that the log shows."""


def baggage_of(scope: Scope) -> tuple[bytes, str]:
    """Return a request's baggage, and what is wrong with it.

    Returns:
        the headers joined with commas, empty if there are none; and opentelemetry-go's error, empty for none. Probes
        pass with any baggage.
    """
    joined = b",".join(value for name, value in scope["headers"] if name == b"baggage")
    if not joined or is_probe(scope):
        return joined, ""
    return joined, baggage_fault(joined.decode("utf-8", "replace"))


def echoed(scope: Scope, baggage: bytes) -> Headers:
    """Return the headers of the answer that repeat those of the request.

    Parameters:
        scope: of the request.
        baggage: of the request, well-formed.
    """
    out: Headers = [(b"baggage", baggage)] if baggage else []
    state = b",".join(value for name, value in scope["headers"] if name == b"tracestate")
    parent = _parent(scope)
    # A trace that cannot be continued has no state either.
    if state and parent is not None and new_span(parent)[3:35].encode() in parent:
        out.append((b"tracestate", state))
    return out


def traceparent(scope: Scope) -> Headers:
    """Return the `traceparent` of an answer that no endpoint for guests gives."""
    return [(b"traceparent", new_span(_parent(scope)).encode())]


def refused(scope: Scope | None, status: int, reason: str) -> Headers:
    """Return the `traceparent` of a refusal, and log it at debug.

    Parameters:
        scope: of the request; None if it has none, because its head could not be read.
        status: of the answer.
        reason: why it is refused; may quote the request.
    """
    span = new_span(None if scope is None else _parent(scope))
    log_refusal(span, status, reason)
    return [(b"traceparent", span.encode())]


def tracing(scope: Scope, send: Send) -> Send:
    """Return a `send` that adds `traceparent` to the answer, and logs at debug that it is an error."""
    headers = traceparent(scope)

    async def send_with_trace(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
            if message["status"] >= 400:
                reason = f"{scope['method']} {scope['raw_path'][:_PATH_BYTES].decode('latin-1')}"
                log_refusal(headers[0][1].decode(), message["status"], reason)
        await send(message)

    return send_with_trace


def adding(send: Send, headers: Headers) -> Send:
    """Return a `send` that adds headers to the answer."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return send_with_headers


def _parent(scope: Scope) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == b"traceparent"), None)
