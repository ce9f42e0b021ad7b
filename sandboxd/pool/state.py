"""The states of a worker, the table of its transitions, and the reasons for its end."""

from enum import Enum, StrEnum, auto


class WorkerState(Enum):
    """The state of a worker.

    =========  =====================================  ==================
    state      meaning                                may it get work?
    =========  =====================================  ==================
    STARTING   requested, not READY yet               no
    IDLE       READY, nothing in flight               yes
    BUSY       at least one invocation in flight      look-ahead only
    DRAINING   finishes what is in flight, then ends  no
    KILLED     SIGKILL requested, not reaped yet      no
    GONE       reaped, or lost with the zygote        no
    =========  =====================================  ==================
    """

    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    DRAINING = auto()
    KILLED = auto()
    GONE = auto()

    # Enum's own is a function in Python, and the table is asked twice for each invocation. The members are singletons.
    __hash__ = object.__hash__


class WorkerEvent(Enum):
    """The events that change a worker's state."""

    READY = auto()
    SENT = auto()
    EMPTIED = auto()
    RETIRE = auto()
    KILL = auto()
    EXITED = auto()

    __hash__ = object.__hash__


class ExitReason(StrEnum):
    """The reason why a worker ended: the `reason` label of `sandboxd_worker_exits_total`."""

    RECYCLED = "recycled"
    """It ran `pool.recycleAfter` invocations, or asked to be replaced."""
    TIMEOUT_KILLED = "timeout_killed"
    """It did not answer after its invocation's deadline."""
    CANCELLED = "cancelled"
    """Its caller went away."""
    STALLED = "stalled"
    """It left its frames unread."""
    CRASHED = "crashed"
    KILLED = "killed"
    """SIGKILL came from outside, often from the kernel for lack of memory."""
    PROTOCOL = "protocol"
    """It violated the protocol between front and worker."""
    BOOT_FAILED = "boot_failed"
    SPARE = "spare"
    """It was one more than the pool keeps, and is needed no more."""
    RELOAD = "reload"
    SHUTDOWN = "shutdown"


class IllegalTransitionError(Exception):
    """The event cannot happen in this state: a bug of the pool. The state is unchanged."""


_S, _E = WorkerState, WorkerEvent
TRANSITIONS: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (_S.STARTING, _E.READY): _S.IDLE,
    (_S.STARTING, _E.RETIRE): _S.DRAINING,
    (_S.IDLE, _E.SENT): _S.BUSY,
    (_S.IDLE, _E.RETIRE): _S.DRAINING,
    (_S.BUSY, _E.SENT): _S.BUSY,
    (_S.BUSY, _E.EMPTIED): _S.IDLE,
    (_S.BUSY, _E.RETIRE): _S.DRAINING,
    (_S.DRAINING, _E.RETIRE): _S.DRAINING,
    (_S.DRAINING, _E.EMPTIED): _S.DRAINING,
    (_S.DRAINING, _E.READY): _S.DRAINING,
    **{(s, _E.KILL): _S.KILLED for s in (_S.STARTING, _S.IDLE, _S.BUSY, _S.DRAINING, _S.KILLED)},
    **{(s, _E.EXITED): _S.GONE for s in (_S.STARTING, _S.IDLE, _S.BUSY, _S.DRAINING, _S.KILLED)},
    (_S.KILLED, _E.RETIRE): _S.KILLED,
}


def advance(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """Return the state that follows an event.

    Raises:
        IllegalTransitionError: the event cannot happen in this state.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(f"{event.name} in state {state.name}") from None
