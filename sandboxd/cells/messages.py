"""What the supervisor and its cells say to each other, over one stream socket per cell.

Frames are those of `sandboxd.wire.codec`. A cell trusts its supervisor and the reverse: both run our code only, and
whatever came from outside has been checked before it gets into a message.
"""

from sandboxd.wire.messages import Message

Labels = tuple[tuple[str, str], ...]
"""Names and values, in the metric's own order, which is the same in all cells."""
Sample = tuple[str, Labels, float]
"""Name with its suffix (`_total`, `_bucket`, ...), labels, value."""


class Family(Message, frozen=True, tag="family"):
    """One metric of one cell, or of all."""

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
    """0 and up."""
    first: bool
    """No cell was ever ready: this one answers from the start, so that probes hear why it is not ready yet. Any other
    leaves connections in its queue until it can run guests."""
    config: bytes
    """As `sandboxd.cells.share.pack` gives it: the cell's share of the server's settings."""
    attributes: tuple[tuple[str, str], ...] = ()
    """What callers have left with PUT /v1.0/metadata/{key}."""


class State(Message, frozen=True, tag="state"):
    """How the server as a whole stands; sent whenever it changes."""

    ready: int
    """Cells that can run guests."""
    cells: int
    """Cells there should be."""


class Ask(Message, frozen=True, tag="ask"):
    """Send your metrics. Answered by Snapshot with the same id."""

    id: int


class Ping(Message, frozen=True, tag="ping"):
    """Say that you still run. Answered by Pong with the same id. Cheap, where a Snapshot costs milliseconds."""

    id: int


class Merged(Message, frozen=True, tag="merged"):
    """The answer to Collect: the metrics of all cells."""

    id: int
    families: tuple[Family, ...]


class ReloadCell(Message, frozen=True, tag="reload"):
    """Read components and guests anew. Answered by Reloaded."""


class Watch(Message, frozen=True, tag="watch"):
    """From now on it is this cell that watches for changed files and guests, for all."""


class Attribute(Message, frozen=True, tag="attribute"):
    """A caller left an attribute. From the cell it reached to the supervisor, and from there to all other cells."""

    key: str
    value: str


# cell -> supervisor --------------------------------------------------------------------------------------------------


class Readiness(Message, frozen=True, tag="readiness"):
    """What keeps the cell from being ready; empty when it is. Sent whenever that changes."""

    missing: tuple[str, ...]


class Snapshot(Message, frozen=True, tag="snapshot"):
    """The cell's metrics. Id 0 is sent unasked, at the end of a cell."""

    id: int
    families: tuple[Family, ...]


class Pong(Message, frozen=True, tag="pong"):
    """The answer to Ping."""

    id: int


class Collect(Message, frozen=True, tag="collect"):
    """The metrics of all cells are wanted. Answered by Merged with the same id."""

    id: int


class Changed(Message, frozen=True, tag="changed"):
    """The watching cell has noticed changes; all are to reload."""


class Reloaded(Message, frozen=True, tag="reloaded"):
    """A reload has ended; `error` says why it was refused, or is empty."""

    error: str


ToCell = Welcome | State | Ask | Ping | Merged | ReloadCell | Watch | Attribute
ToSupervisor = Readiness | Snapshot | Pong | Collect | Changed | Reloaded | Attribute
