"""Send whole responses by raw ASGI."""

from collections.abc import Iterable

from sandboxd.front.ports import Send

JSON = (b"content-type", b"application/json")


async def reply(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (JSON,)) -> None:
    """Send a response whose body is complete."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def reply_plain_error(send: Send, status: int, text: str, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send an error as Go's http.Error does.

    Parameters:
        more: additional headers.
    """
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff"), *more]
    await reply(send, status, f"{text}\n".encode(), headers)
