"""The messages to and from the egress broker.

Front and broker have a stream socket with the frames of `sandboxd.wire.codec`. A worker and the broker have a socket
pair that keeps the boundaries of packets (SOCK_SEQPACKET, unix(7)): one message in MessagePack is one packet.
"""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from sandboxd.limits import OutboundSettings
from sandboxd.wire.messages import Message

PACKET_BYTES: Final = 1024
"""The longest packet. A host name has at most 253 characters."""

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]

# worker -> broker -----------------------------------------------------------------------------------------------------


class Dial(Message, frozen=True, tag="dial"):
    """Connect to an origin. Answered by Dialled or Failed, for a name possibly after Resolved."""

    id: Number
    invocation: Number
    """The id of the invocation that the worker says it runs. The front is asked whether it does."""
    scheme: str
    """Empty for the operator's proxy."""
    host: str
    port: Port


class Cancel(Message, frozen=True, tag="cancel"):
    """Give a Dial up. Not answered."""

    id: Number


# broker -> worker -----------------------------------------------------------------------------------------------------


class Failure(StrEnum):
    """Why a Dial failed."""

    DENIED = "denied"
    """The policy of the binding refuses it: `text` is the rule, `reason` as of `hostfuncs.outbound.policy.Denied`."""
    UNRESOLVED = "unresolved"
    """The name has no address."""
    LOOK_UP = "look-up"
    """getaddrinfo failed with `number`."""
    CONNECT = "connect"
    """The kernel failed it with the errno `number`; 0 if there was none."""
    NOT_RUNNING = "not-running"
    """By what the front says, the worker does not run that invocation."""


class Resolved(Message, frozen=True, tag="resolved"):
    """The name has addresses, and connecting comes now. Not sent where the host is an address."""

    id: int


class Dialled(Message, frozen=True, tag="dialled"):
    """The connected socket is attached."""

    id: int


class Failed(Message, frozen=True, tag="failed"):
    """There is no connection."""

    id: int
    why: Failure
    number: int = 0
    reason: str = ""
    text: str = ""


class Lost(Message, frozen=True, tag="lost"):
    """From the front: the broker ended, and every Dial that it had not answered is lost."""


# front -> broker ------------------------------------------------------------------------------------------------------


class BindingPolicy(Message, frozen=True, kw_only=True, tag="policy"):
    """The part of a binding that the broker needs."""

    binding: str
    allowed_outbound_hosts: tuple[str, ...] | None
    own_ports: tuple[int, ...]


class Learn(Message, frozen=True, kw_only=True, tag="learn"):
    """The policies of a generation."""

    generation: int
    outbound: OutboundSettings
    policies: tuple[BindingPolicy, ...]


class Forget(Message, frozen=True, tag="forget"):
    """A generation has ended, and so have its workers."""

    generation: int


class Attach(Message, frozen=True, tag="attach"):
    """Serve a worker. Attached: the broker's end of its socket pair."""

    serial: int
    generation: int
    place: int
    """Of its word in `sandboxd.broker.running`; NO_PLACE if it has none."""


class BindingAnswer(Message, frozen=True, tag="binding"):
    """The answer to AskBinding."""

    question: int
    binding: str
    """Empty if the worker does not run that invocation."""


class BuildWall(Message, frozen=True, tag="build-wall"):
    """Build the wall around the broker. Sent once, first; answered by Serving. Attached: the page of `running`."""

    wall: str
    """See `sandboxd.wall.Mode`."""


class Ping(Message, frozen=True, tag="ping"):
    """Answered by Pong: a broker that hangs answers nothing."""


# broker -> front ------------------------------------------------------------------------------------------------------


class Serving(Message, frozen=True, tag="serving"):
    """The broker serves. `missing_layers` are the layers of its wall that do not stand, and why."""

    missing_layers: tuple[tuple[str, str], ...]


class AskBinding(Message, frozen=True, tag="ask-binding"):
    """Which binding does this worker run this invocation for? Answered by BindingAnswer."""

    question: int
    serial: int
    invocation: int


class WorkerFault(Message, frozen=True, tag="worker-fault"):
    """A worker broke the protocol. The broker has closed its socket."""

    serial: int
    what: str


class WorkerUnserved(Message, frozen=True, tag="worker-unserved"):
    """The broker had no free descriptor for the socket of a worker, and cannot serve it."""

    serial: int


class Pong(Message, frozen=True, tag="pong"):
    """The answer to Ping."""


FromWorker = Dial | Cancel
ToWorker = Resolved | Dialled | Failed | Lost
ToBroker = BuildWall | Learn | Forget | Attach | BindingAnswer | Ping
FromBroker = Serving | AskBinding | WorkerFault | WorkerUnserved | Pong
