"""A call, and the methods that answer calls. Nothing here reads or writes."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sandboxd.front.grpc import answers
from sandboxd.front.grpc.heads import Head
from sandboxd.front.grpc.messages import Message
from sandboxd.front.grpc.status import Code, GrpcError, Metadata

log = logging.getLogger("sandboxd.grpc")

Abandon = Callable[[], None]
"""Gives up what a method has begun: the caller has gone, or its deadline has passed. Nothing is answered any more."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a method gets of a call's head, once it may be called."""

    headers: Metadata = ()
    greeting: Metadata = ()
    """The initial metadata of the answer."""
    texts: dict[str, str] = field(init=False)
    """The headers that are no bytes. Of several of one name the first counts."""
    head: bytes = field(init=False)
    """The block with which an answer begins."""

    def __post_init__(self) -> None:
        texts: dict[str, str] = {}
        for name, value in self.headers:
            if isinstance(value, str):
                texts.setdefault(name, value)
        object.__setattr__(self, "texts", texts)
        object.__setattr__(self, "head", answers.head_with(self.greeting) if self.greeting else answers.HEAD)


class Sender(Protocol):
    """What sends the answer of a call."""

    def answer(self, call: "Call", message: bytes) -> None:
        """Send a message, and the status OK."""

    def fail(self, call: "Call", error: GrpcError) -> None:
        """Send the status of a call that failed."""


class Call:
    """One call. A method takes its message, and answers it once.

    Parameters:
        id: of its stream.
        head: of its request.
        sender: sends its answer.
        began_ns: CLOCK_MONOTONIC instant at which it came.
        window_in: what the caller may send on the stream. Bytes.
        window_out: what may be sent to the caller on the stream. Bytes.
    """

    __slots__ = (
        "_sender",
        "abandon",
        "admitted",
        "answered",
        "began_ns",
        "begun",
        "body",
        "body_left",
        "deadline_ns",
        "dropped",
        "ended",
        "head",
        "held",
        "held_at",
        "held_moved",
        "held_since",
        "held_size",
        "id",
        "message",
        "method",
        "moved_ns",
        "sent",
        "started",
        "tail",
        "taken",
        "window_in",
        "window_out",
    )

    def __init__(self, id: int, head: Head, sender: Sender, began_ns: int, *, window_in: int, window_out: int) -> None:
        self.id = id
        self.head = head
        self._sender = sender
        self.began_ns = self.moved_ns = began_ns
        timeout = head.timeout_ns
        self.deadline_ns: int | None = None if timeout is None else began_ns + timeout
        """The caller's deadline, of CLOCK_MONOTONIC; None for none."""
        self.admitted: Admitted = _NOBODY
        self.method: Method | None = None
        self.message = b""
        """The message, without its prefix; for as long as the method begins."""
        self.body: Message | None = None
        """As much of the message as there is; None while nothing came, or if it came with one frame."""
        self.body_left = head.content_length
        """What is left of a body whose length the head tells; negative if it does not."""
        self.dropped = 0
        """Bytes that came after it was decided what is answered."""
        self.window_in = window_in
        self.taken = 0
        """Bytes that came since the stream's window was last enlarged."""
        self.window_out = window_out
        self.ended = False
        """Whether the caller has ended its side of the stream."""
        self.started = False
        """Whether the message was given to the method."""
        self.answered = False
        """Whether it is decided what is answered."""
        self.begun = False
        """Whether the head of the answer was sent by itself."""
        self.sent = False
        """Whether the answer was sent to its end."""
        self.abandon: Abandon | None = None
        self.held = memoryview(b"")
        """What is to be sent still, before `tail`."""
        self.held_at = 0
        self.held_since = self.held_moved = 0.0
        self.held_size = 0
        """How long the held answer is in all, since when it is held, and when a part of it was sent."""
        self.tail: bytes | None = None
        """The block that ends the stream; None while it is not decided."""

    def __repr__(self) -> str:
        state = "sent" if self.sent else "answered" if self.answered else "running" if self.started else "coming"
        return f"<Call {self.id} of {self.head.path} {state}>"

    @property
    def headers(self) -> Metadata:
        """Those headers that the method sees."""
        return self.admitted.headers

    @property
    def remaining_s(self) -> float | None:
        """Seconds from its beginning to the caller's deadline; None for no deadline."""
        timeout = self.head.timeout_ns
        return None if timeout is None else timeout * 1e-9

    def answer(self, message: bytes) -> None:
        """Answer with a message. Nothing happens if the call is answered, or its caller has gone."""
        self.abandon = None
        if not self.answered:
            self.answered = True
            self._sender.answer(self, message)

    def fail(self, error: GrpcError) -> None:
        """Answer with an error. Nothing happens if the call is answered, or its caller has gone."""
        self.abandon = None
        self.body = None
        if not self.answered:
            self.answered = True
            self._sender.fail(self, error)

    def give_up(self) -> None:
        """Let nothing be answered any more, and give up what has begun."""
        self.answered = True
        abandon, self.abandon = self.abandon, None
        if abandon is not None:
            abandon()

    def start(self, message: bytes) -> None:
        """Give the message to the method."""
        self.started = True
        self.body = None
        self.message = message
        method = self.method
        assert method is not None
        try:
            abandon = method.begin(self)
        except GrpcError as error:
            self.fail(error)
        except Exception:  # noqa: BLE001 - a bug, which is logged there; the connection goes on
            self.broke()
        else:
            if not self.answered:
                self.abandon = abandon
        self.message = b""  # what is long is not held twice

    def guarded(self, answer: Callable[..., None], *args: Any) -> None:
        """Call a function that answers this call, and answer what it raises.

        Parameters:
            answer: called with this call and `args`.
        """
        try:
            answer(self, *args)
        except GrpcError as error:
            self.fail(error)
        except Exception:  # noqa: BLE001 - likewise; a step of the pool must go on
            self.broke()

    def broke(self) -> None:
        """Log the exception that is handled now, which is a bug, and answer without its text."""
        log.exception("a call could not be answered")
        self.fail(GrpcError(Code.INTERNAL, "internal failure of the server"))


_NOBODY: Final = Admitted()


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A method of a service."""

    begin: Callable[[Call], Abandon | None]
    """Begins to answer a call: answers it at once, or returns what gives it up. It may raise GrpcError."""
    each: Callable[[bytes], bytes] | None = None
    """If it is there, the call is a stream of messages, and each of them is answered by what this returns."""
    open: bool = False
    """Whether it may be called without a token, and where there is no room for others."""


def at_once(answer: Callable[[Call], bytes]) -> Method:
    """Return the method that answers with what a function returns, which may raise GrpcError."""

    def begin(call: Call) -> None:
        call.answer(answer(call))

    return Method(begin=begin)


class Methods:
    """Finds the method of a call.

    Parameters:
        methods: by `/service/method`.
        admit: returns what a method gets of a head's metadata, or raises GrpcError.
        other: makes the method for every other name; None answers UNIMPLEMENTED.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        admit: Callable[[Metadata], Admitted],
        *,
        other: Callable[[str], Method] | None = None,
    ) -> None:
        self._methods = methods
        self._admit = admit
        self._other = other

    def __repr__(self) -> str:
        return f"<Methods {', '.join(self._methods)}>"

    def admit(self, call: Call, *, crowded: bool) -> None:
        """Find the method of a call, and whether it may be called.

        Parameters:
            crowded: there is no room but for open methods.

        Raises:
            GrpcError: it may not.
        """
        head = call.head
        if head.error is not None:
            raise head.error
        admitted: Admitted | None = head.admitted
        if admitted is None:
            method = self._methods.get(head.path)
            if method is None:
                if self._other is None:
                    raise GrpcError(Code.UNIMPLEMENTED, f"unknown method {head.path}")
                method = self._other(head.path)
            admitted = Admitted(head.metadata) if method.open else self._admit(head.metadata)
            head.method, head.admitted = method, admitted
        call.method, call.admitted = head.method, admitted
        if crowded and not head.method.open:
            raise GrpcError(Code.UNAVAILABLE, "there are too many connections", reason=NO_ROOM, retry_after_s=1)


NO_ROOM: Final = "ERR_NO_WORKER"
"""The reason of an error where a caller is to come again."""
