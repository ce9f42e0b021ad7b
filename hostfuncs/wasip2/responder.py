"""The interface of an object that receives a guest's response."""

from typing import Protocol

from hostfuncs.wasip2.stdio import Sink


class Responder(Protocol):
    """Receives the response of a guest that is called with a request.

    The guest calls `head`, writes to `body`, and ends with `finish` or `abort`. It may write and finish the body before
    `head`. A response without a body is finished before `head`.
    """

    @property
    def body(self) -> Sink:
        """The destination of the response's body."""
        ...

    def head(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Take the status and the header lines. Part of the body may have come before them."""
        ...

    def refuse(self, code: str) -> None:
        """Take an error code, which the guest gave in place of a response. Called instead of `head`."""
        ...

    def finish(self) -> None:
        """Take note that the body is complete."""
        ...

    def abort(self, why: str) -> None:
        """Take note that the body will never be complete, and why."""
        ...
