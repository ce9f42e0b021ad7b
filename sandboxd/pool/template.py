"""One template: its key, its states with the table of their transitions, and what is known of its starts."""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Final, Generic, NamedTuple, TypeVar

from sandboxd.wire.messages import GuestWarm

Child = TypeVar("Child")


class Key(NamedTuple):
    """The arguments and variables that a template was started with."""

    binding: str
    args: tuple[bytes, ...]
    """argv without argv[0]."""
    env: tuple[tuple[bytes, bytes], ...]
    """The variables on top of the operator's, without those of the trace context."""


class TemplateState(Enum):
    """The state of a template.

    =======  ===========================================  =====================
    state    meaning                                      does it give children?
    =======  ===========================================  =====================
    BOOTING  its guest runs towards its first input       no
    PARKED   its guest waits for input                    yes
    FAILED   it has no process; it is started again when  no
             it is needed and its delay is over
    RETIRED  it is given up                               no
    =======  ===========================================  =====================
    """

    BOOTING = auto()
    PARKED = auto()
    FAILED = auto()
    RETIRED = auto()


class TemplateEvent(Enum):
    """The events that change a template's state."""

    PARKED = auto()
    FAILED = auto()
    RETRY = auto()
    RETIRE = auto()


class IllegalTemplateTransitionError(Exception):
    """The event cannot happen in this state: a bug of the pool. The state is unchanged."""


_S, _E = TemplateState, TemplateEvent
TRANSITIONS: Final = {
    (_S.BOOTING, _E.PARKED): _S.PARKED,
    (_S.BOOTING, _E.FAILED): _S.FAILED,
    (_S.PARKED, _E.FAILED): _S.FAILED,
    (_S.FAILED, _E.RETRY): _S.BOOTING,
    (_S.BOOTING, _E.RETIRE): _S.RETIRED,
    (_S.PARKED, _E.RETIRE): _S.RETIRED,
    (_S.FAILED, _E.RETIRE): _S.RETIRED,
}


class Miss(StrEnum):
    """The reason why an invocation of a binding with `warmStart` runs cold: a label of `sandboxd_warm_misses_total`."""

    NEW = "new"
    """Its arguments have not been seen often enough."""
    BOOTING = "booting"
    FAILED = "failed"
    """The template ended, or its guest cannot be parked."""
    QUICK = "quick"
    """Its guest starts so quickly that forking would cost more than it saves."""
    NO_CHILD = "no_child"
    """All children that were ready are in use."""
    NO_ROOM = "no_room"
    """As many templates as there may be are in use."""
    UNFIT = "unfit"
    """The invocation carries an HTTP request, or streams."""


@dataclass(eq=False, slots=True)
class Template(Generic[Child]):
    """One template. Only `sandboxd.pool.templates` changes it."""

    key: Key
    warm: GuestWarm
    most: int
    """The most children that may ever be kept ready."""
    state: TemplateState = TemplateState.BOOTING
    ready: deque[Child] = field(default_factory=deque)
    """The parked children."""
    starting: int = 0
    """The children that were asked for and are neither ready nor lost. Each is told of, also after a failure."""
    wanted: int = 1
    """The number of children to keep ready."""
    private_bytes: int = 0
    boot_cpu_ns: int = 0
    """The processor time that its guest took to be parked."""
    child_cpu_ns: int = 0
    """The processor time that its first child took to be ready; 0 before."""
    proven: bool = False
    """Whether its first child has shown that it pays."""
    why: Miss = Miss.FAILED
    """The reason for which invocations run cold while it has failed."""
    used_ns: int = 0
    failures: int = 0
    """The number of failures in a row."""
    retry_ns: int = 0
    lost: int = 0
    """The number of children in a row that did not become ready."""
    spare: int = 0
    """The fewest children that were left over in the present window."""
    window_ns: int = 0

    def advance(self, event: TemplateEvent) -> None:
        """Move to the next state.

        Raises:
            IllegalTemplateTransitionError: the event cannot happen in this state.
        """
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            raise IllegalTemplateTransitionError(f"{event.name} in state {self.state.name}") from None
