"""The queue of invocations that wait for a worker: bounded, FIFO within a binding, round-robin between bindings."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from sandboxd.pool.invocation import Invocation


class WaitingQueue:
    """Invocations without a worker.

    Parameters:
        limit: the most invocations that may wait; 0 means none.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.binding_limit = limit
        """The most invocations of one binding that may wait."""
        self._queues: OrderedDict[str, deque[Invocation]] = OrderedDict()
        self.size = 0
        """The number of invocations that wait. To be changed here only; `len` of the queue is the same, and slower."""

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<WaitingQueue {self.size}/{self.limit} of {len(self._queues)} bindings>"

    def free_places(self, binding: str) -> int:
        """Return how many further invocations of a binding may wait; negative if a full queue took some back."""
        queue = self._queues.get(binding)
        return min(self.limit - self.size, self.binding_limit - (len(queue) if queue is not None else 0))

    def waiting(self, binding: str) -> int:
        """Return how many invocations of a binding wait."""
        return len(self._queues.get(binding, ()))

    def bindings(self) -> "Iterator[tuple[str, deque[Invocation]]]":
        """Yield the bindings whose invocations wait, and these in their order."""
        yield from self._queues.items()

    def append(self, invocation: "Invocation") -> None:
        """Add an invocation at the end of its binding's queue."""
        self._queue_of(invocation).append(invocation)
        self.size += 1

    def requeue(self, invocation: "Invocation") -> None:
        """Put back an invocation that was taken out: at the head of its binding's queue, even a full one."""
        self._queue_of(invocation).appendleft(invocation)
        self.size += 1

    def defer(self, invocation: "Invocation") -> None:
        """Put an invocation back so that it is the next one of all: it is its turn, but not at this worker."""
        queue = self._queue_of(invocation)
        queue.appendleft(invocation)
        self._queues.move_to_end(invocation.binding, last=False)
        self.size += 1

    def remove(self, invocation: "Invocation") -> bool:
        """Remove an invocation. Return whether it was in the queue."""
        queue = self._queues.get(invocation.binding)
        if queue is None or invocation not in queue:
            return False
        queue.remove(invocation)
        self._drop_if_empty(invocation.binding, queue)
        self.size -= 1
        return True

    def take(self, may_run: Callable[[str], bool]) -> "Invocation | None":
        """Take out the next invocation to run: the first of the next binding that may run; None if there is none.

        Parameters:
            may_run: returns whether one more invocation of a binding may run now.
        """
        for binding, queue in self._queues.items():
            if may_run(binding):
                invocation = queue.popleft()
                self.size -= 1
                if queue:
                    self._queues.move_to_end(binding)
                else:
                    del self._queues[binding]
                return invocation
        return None

    def take_expired(self, expired: Callable[["Invocation"], bool]) -> "list[Invocation]":
        """Take out the invocations whose time is over.

        Parameters:
            expired: returns whether an invocation's time is over. A binding's invocations are in order of arrival, so
                the search stops at the first that is not expired, unless that one was put back: it waits anew.
        """
        out = []
        for binding, queue in list(self._queues.items()):
            kept = []
            while queue:
                if expired(queue[0]):
                    out.append(queue.popleft())
                elif queue[0].sent_ns:
                    kept.append(queue.popleft())
                else:
                    break
            queue.extendleft(reversed(kept))
            self._drop_if_empty(binding, queue)
        self.size -= len(out)
        return out

    def clear(self) -> "list[Invocation]":
        """Take out all invocations."""
        out = [invocation for queue in self._queues.values() for invocation in queue]
        self._queues.clear()
        self.size = 0
        return out

    def _queue_of(self, invocation: "Invocation") -> "deque[Invocation]":
        queue = self._queues.get(invocation.binding)
        if queue is None:
            queue = self._queues[invocation.binding] = deque()
        return queue

    def _drop_if_empty(self, binding: str, queue: "deque[Invocation]") -> None:
        if not queue:
            del self._queues[binding]
