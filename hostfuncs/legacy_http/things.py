"""What the handles of Dapr's wasi-http stand for."""

from hostfuncs.outbound import ErrorCode, Exchange

Pairs = tuple[tuple[bytes, bytes], ...]


class Fields:
    """A list of header lines."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs


class Request:
    """An outgoing request. Sent as it is when `handle` is called; sending it again is allowed."""

    __slots__ = ("authority", "content", "headers", "method", "scheme", "target")

    def __init__(self, method: str, scheme: str, authority: str, target: str, headers: Pairs) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.target = target
        self.headers = headers
        self.content: Writer | None = None


class Writer:
    """An output stream: the body of a request or response while the guest puts it together."""

    __slots__ = ("closed", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self.closed = False


class Future:
    """An answer on its way, or the reason why there will be none."""

    __slots__ = ("error", "exchange", "response", "response_handle")

    def __init__(self, exchange: Exchange | None, error: ErrorCode | None) -> None:
        self.exchange = exchange
        self.error = error
        self.response: Response | None = None
        self.response_handle = 0

    def ready(self) -> bool:
        """Whether `future-incoming-response-get` would answer at once."""
        return self.exchange is None or self.exchange.done()


class Response:
    """An answer that has begun to arrive."""

    __slots__ = ("consumed", "exchange", "headers_handle")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.headers_handle = 0
        self.consumed = False


class Reader:
    """An input stream: the body of a response."""

    __slots__ = ("exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange


class Answer:
    """An outgoing response, which a guest that runs as a command can make but has nobody to give to."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: Writer | None = None


class Pollable:
    """Something to wait for."""

    __slots__ = ("thing",)

    def __init__(self, thing: Future | Reader | Writer) -> None:
        self.thing = thing

    def ready(self) -> bool:
        """Whether waiting for it would end at once."""
        if isinstance(self.thing, Future):
            return self.thing.ready()
        if isinstance(self.thing, Reader):
            return self.thing.exchange.body.ready()
        return True


class IncomingRequest:
    """A request to the guest. None exists in a guest that runs as a command, so every handle of one is forged."""

    __slots__ = ()


class Outparam:
    """Where a guest puts its response. None exists in a guest that runs as a command."""

    __slots__ = ()
