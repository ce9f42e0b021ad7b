"""The messages between the supervisor and its cells, over one stream socket per cell (the status socket).

The frames are those of `sandboxd.wire.codec`. A cell and its supervisor trust each other: both run only sandboxd's
code, and data from outside is checked before it enters a message.
"""

from sandboxd.wire.messages import Message

Labels = tuple[tuple[str, str], ...]
"""Names and values, in the metric's own order, which is the same in all cells."""
Sample = tuple[str, Labels, float]
"""Name with suffix (`_total`, `_bucket`, ...), labels, value."""


class Family(Message, frozen=True, tag="family"):
    """One metric family, of one cell or of all."""

    name: str
    kind: str
    """Type of the metric as prometheus_client names it: counter, gauge, histogram, unknown, ..."""
    text: str
    """The help line."""
    samples: tuple[Sample, ...]


# supervisor -> cell --------------------------------------------------------------------------------------------------


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The first message a cell gets."""

    number: int
    """The cell's number, from 0."""
    first: bool
    """Whether no cell was ever ready. Then this one answers from the start, so that probes hear why it is not ready.
    Any other cell accepts no connection until it can run guests."""
    config: bytes
    """The cell's share of the server's settings, encoded by `sandboxd.config.cells.pack`."""
    attributes: tuple[tuple[str, str], ...] = ()
    """The attributes that callers have set with PUT /v1.0/metadata/{key}."""


class State(Message, frozen=True, tag="state"):
    """The state of the whole server. It is sent whenever it changes."""

    ready: int
    """The number of cells that can run guests."""
    cells: int
    """The number of cells that there should be."""


class Ask(Message, frozen=True, tag="ask"):
    """Asks a cell for its metrics. Answered by Snapshot with the same id."""

    id: int


class Ping(Message, frozen=True, tag="ping"):
    """Asks a cell whether it still runs. Answered by Pong with the same id. A Snapshot would cost milliseconds."""

    id: int


class Merged(Message, frozen=True, tag="merged"):
    """The answer to Collect: the metrics of all cells."""

    id: int
    families: tuple[Family, ...]


class ReloadCell(Message, frozen=True, tag="reload"):
    """Tells a cell to read components and guests again. Answered by Reloaded."""


class Watch(Message, frozen=True, tag="watch"):
    """Tells a cell to watch for changed files and guests on behalf of all cells."""


class Attribute(Message, frozen=True, tag="attribute"):
    """A caller set an attribute. The cell sends it to the supervisor, which sends it to all other cells."""

    key: str
    value: str


class AskStatus(Message, frozen=True, tag="ask-status"):
    """Asks a cell for its part of the status document. Answered by StatusPart with the same id."""

    id: int


class StatusParts(Message, frozen=True, tag="status-parts"):
    """The answer to CollectStatus: the parts of all cells that answered, encoded by `sandboxd.admin.report`."""

    id: int
    parts: tuple[bytes, ...]


class LogLevel(Message, frozen=True, tag="log-level"):
    """The least severity that is logged from now on. A cell sends it to the supervisor, which sends it to all."""

    level: str


# cell -> supervisor --------------------------------------------------------------------------------------------------


class Readiness(Message, frozen=True, tag="readiness"):
    """The conditions that the cell still waits for; none when it is ready. It is sent whenever they change."""

    missing: tuple[str, ...]


class Snapshot(Message, frozen=True, tag="snapshot"):
    """The cell's metrics. A cell that ends sends one with id 0 unasked."""

    id: int
    families: tuple[Family, ...]


class Pong(Message, frozen=True, tag="pong"):
    """The answer to Ping."""

    id: int


class Collect(Message, frozen=True, tag="collect"):
    """Asks the supervisor for the metrics of all cells. Answered by Merged with the same id."""

    id: int


class StatusPart(Message, frozen=True, tag="status-part"):
    """The answer to AskStatus."""

    id: int
    part: bytes


class CollectStatus(Message, frozen=True, tag="collect-status"):
    """Asks the supervisor for the parts of all cells. Answered by StatusParts with the same id."""

    id: int


class Changed(Message, frozen=True, tag="changed"):
    """The watching cell noticed changes: all cells must reload."""


class Reloaded(Message, frozen=True, tag="reloaded"):
    """A reload has ended; `error` says why it was refused, or is empty."""

    error: str


ToCell = Welcome | State | Ask | Ping | Merged | ReloadCell | Watch | Attribute | AskStatus | StatusParts | LogLevel
ToSupervisor = (
    Readiness | Snapshot | Pong | Collect | Changed | Reloaded | Attribute | StatusPart | CollectStatus | LogLevel
)
