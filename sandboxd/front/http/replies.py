"""Whole responses, and how they are sent by raw ASGI."""

from collections.abc import Iterable
from typing import Final

from sandboxd.front.ports import Headers, Send

JSON = (b"content-type", b"application/json")
INTERNAL_ERROR: Final = "internal failure of the server"
"""The text of the answer to a request that cannot be answered because of a bug."""

Reply = tuple[int, Headers, bytes]
"""A response whose body is complete: status, headers (Content-Length among them), body."""
Laid = tuple[int, Headers | bytes, bytes]
"""A `Reply` whose headers may be the lines of a head in HTTP/1.1 already."""


async def reply(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (JSON,)) -> None:
    """Send a response whose body is complete."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def plain_error(status: int, text: str, more: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    """Return an error as Go's http.Error writes it.

    Parameters:
        more: additional headers.
    """
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff"), *more]
    return status, [*headers, (b"content-length", b"%d" % len(body))], body


async def reply_plain_error(send: Send, status: int, text: str, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send an error as Go's http.Error does. Parameters as of `plain_error`."""
    status, headers, body = plain_error(status, text, more)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
