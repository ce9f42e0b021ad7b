"""wasi:io/error."""

from hostfuncs.outbound import ErrorCode
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import STRING, Borrow


@resource("error")
class IoError(Entry):
    """What went wrong on a stream.

    Parameters:
        text: for `to-debug-string`.
        code: if it comes from HTTP, for `wasi:http/types.http-error-code`.
    """

    __slots__ = ("code", "text")

    def __init__(self, text: str, code: ErrorCode | None = None) -> None:
        self.text = text
        self.code = code


INTERFACE = Interface("wasi:io/error", {"error": IoError})


@INTERFACE.function("[method]error.to-debug-string", Borrow(IoError), result=STRING)
def to_debug_string(_host: Host, error: IoError) -> str:
    """A text for people; guests are told not to take it apart."""
    return error.text
