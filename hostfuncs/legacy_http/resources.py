"""The resources behind the handles of Dapr's wasi-http."""

import sys

from hostfuncs.account import HANDLE_BYTES, Account
from hostfuncs.outbound import ErrorCode, Exchange

Pairs = tuple[tuple[bytes, bytes], ...]


def weight_of(pairs: Pairs) -> int:
    """Return the bytes of memory that header lines take, with Python's overhead."""
    return sum(sys.getsizeof(pair) + sys.getsizeof(pair[0]) + sys.getsizeof(pair[1]) for pair in pairs)


class Resource:
    """The object that a handle names."""

    __slots__ = ()

    weight: int = HANDLE_BYTES
    """The bytes of memory that the resource holds, with Python's overhead. Constant while the handle is alive."""


class Fields(Resource):
    """A list of header lines."""

    __slots__ = ("pairs", "weight")

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.weight = HANDLE_BYTES + weight_of(pairs)


class Request(Resource):
    """An outgoing request. `handle` sends it as it is at that moment, and may send it again."""

    __slots__ = ("authority", "content", "headers", "method", "scheme", "target", "weight")

    def __init__(self, method: str, scheme: str, authority: str, target: str, headers: Pairs) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.target = target
        self.headers = headers
        self.content: Writer | None = None
        texts = (method, scheme, authority, target)
        self.weight = HANDLE_BYTES + sum(map(sys.getsizeof, texts)) + weight_of(headers)


class Writer(Resource):
    """An output stream: the body of a request or response that the guest is writing.

    The bytes are counted until Python frees them. The stream, the request and the code that sends them share one copy,
    and the guest may drop its handles of the first two during the transfer.

    Parameters:
        account: counts the bytes.
    """

    __slots__ = ("_account", "closed", "data")

    def __init__(self, account: Account) -> None:
        self._account = account
        self.data = bytearray()
        self.closed = False

    def append(self, data: bytes) -> None:
        """Add bytes. Raises HostMemoryExceeded."""
        self._account.take(len(data))
        self.data += data

    def __del__(self) -> None:
        self._account.held -= len(self.data)


class Future(Resource):
    """The response of a request that has been sent, or the error in its place."""

    __slots__ = ("error", "exchange", "response", "response_handle")

    def __init__(self, exchange: Exchange | None, error: ErrorCode | None) -> None:
        self.exchange = exchange
        self.error = error
        self.response: Response | None = None
        self.response_handle = 0

    def ready(self) -> bool:
        """Return whether `future-incoming-response-get` would return at once."""
        return self.exchange is None or self.exchange.done()


class Response(Resource):
    """A response whose head has arrived."""

    __slots__ = ("consumed", "exchange", "headers_handle")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.headers_handle = 0
        self.consumed = False


class Reader(Resource):
    """An input stream: the body of a response that arrived."""

    __slots__ = ("exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange


class Answer(Resource):
    """An outgoing response. A guest that runs as a command can make one, but has no request to answer with it."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: Writer | None = None


class Pollable(Resource):
    """The result of the subscribe functions. At the commit that Dapr pins, wasi-go has no function that takes one."""

    __slots__ = ()


class IncomingRequest(Resource):
    """A request to the guest. A guest that runs as a command has none, so every handle of one is forged."""

    __slots__ = ()


class Outparam(Resource):
    """The place for a guest's response.

    A guest that runs as a command has none, so every handle of one is forged.
    """

    __slots__ = ()
