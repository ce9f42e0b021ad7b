"""The life of a worker as one table."""

from enum import Enum, auto


class WorkerState(Enum):
    """Where a worker is in its life.

    =========  =====================================  ==================
    state      meaning                                may it get work?
    =========  =====================================  ==================
    STARTING   asked of the zygote, not READY yet     no
    IDLE       READY, nothing in flight               yes
    BUSY       at least one invocation in flight      look-ahead only
    DRAINING   finishes what is in flight, then goes  no
    KILLED     SIGKILL asked for, not reaped yet      no
    GONE       reaped, or lost with the zygote        no
    =========  =====================================  ==================
    """

    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    DRAINING = auto()
    KILLED = auto()
    GONE = auto()


class WorkerEvent(Enum):
    """What can happen to a worker."""

    READY = auto()
    SENT = auto()
    EMPTIED = auto()
    RETIRE = auto()
    KILL = auto()
    EXITED = auto()


class IllegalTransitionError(Exception):
    """An event that cannot happen in that state: a bug of the pool. Nothing was changed."""


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
    """The state that follows.

    Raises:
        IllegalTransitionError: the event cannot happen there.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(f"{event.name} in state {state.name}") from None
