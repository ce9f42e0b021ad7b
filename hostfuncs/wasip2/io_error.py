"""wasi:io/error: the error resource that a stream's `last-operation-failed` carries."""

from hostfuncs.outbound import ErrorCode
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import STRING, Borrow


@resource("error")
class IoError(Entry):
    """An error of a stream.

    Parameters:
        text: what `to-debug-string` returns.
        code: what `wasi:http/types.http-error-code` returns, if the error comes from HTTP.
        file_code: what `wasi:filesystem/types.filesystem-error-code` returns, if the error comes from a file.
    """

    __slots__ = ("code", "file_code", "text")

    def __init__(self, text: str, code: ErrorCode | None = None, file_code: str | None = None) -> None:
        self.text = text
        self.code = code
        self.file_code = file_code


INTERFACE = Interface("wasi:io/error", {"error": IoError})


@INTERFACE.function("[method]error.to-debug-string", Borrow(IoError), result=STRING)
def to_debug_string(_host: Host, error: IoError) -> str:
    """Return a text for people. WASI tells guests not to parse it."""
    return error.text
