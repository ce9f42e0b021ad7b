"""Who waits for a worker: bounded, first in first out within a binding, bindings in turn."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandboxd.pool.invocation import Invocation


class WaitingQueue:
    """Invocations without a worker.

    Parameters:
        limit: how many may wait; 0 means none.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.line_limit = limit
        """How many of one binding may wait."""
        self._lines: OrderedDict[str, deque[Invocation]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<WaitingQueue {self._size}/{self.limit} in {len(self._lines)} lines>"

    def places(self, binding: str) -> int:
        """How many further invocations of a binding may wait. Negative where some were given back to a full queue."""
        line = self._lines.get(binding)
        return min(self.limit - self._size, self.line_limit - (len(line) if line is not None else 0))

    def append(self, invocation: "Invocation") -> None:
        """Wait at the end of the binding's line."""
        self._line(invocation).append(invocation)
        self._size += 1

    def give_back(self, invocation: "Invocation") -> None:
        """Wait at the head of the line again: the worker it was sent to did not begin it. Never refused."""
        self._line(invocation).appendleft(invocation)
        self._size += 1

    def put_off(self, invocation: "Invocation") -> None:
        """Wait at the head of everything again: it is its turn, but not at this worker."""
        line = self._line(invocation)
        line.appendleft(invocation)
        self._lines.move_to_end(invocation.binding, last=False)
        self._size += 1

    def remove(self, invocation: "Invocation") -> bool:
        """Leave the queue. False if it was not there."""
        line = self._lines.get(invocation.binding)
        if line is None or invocation not in line:
            return False
        line.remove(invocation)
        self._drop_if_empty(invocation.binding, line)
        self._size -= 1
        return True

    def take(self, may_run: Callable[[str], bool]) -> "Invocation | None":
        """The next one to run: the first of the line whose turn it is among the bindings that may run.

        Parameters:
            may_run: says of a binding whether one more of its invocations may run now.
        """
        for binding, line in self._lines.items():
            if may_run(binding):
                invocation = line.popleft()
                self._size -= 1
                if line:
                    self._lines.move_to_end(binding)
                else:
                    del self._lines[binding]
                return invocation
        return None

    def take_expired(self, expired: Callable[["Invocation"], bool]) -> "list[Invocation]":
        """Take out those whose time is over.

        Parameters:
            expired: says so. Lines are in order of arrival, so behind one whose time is not over none is looked at,
                unless that one was given back: it waits anew.
        """
        out = []
        for binding, line in list(self._lines.items()):
            kept = []
            while line:
                if expired(line[0]):
                    out.append(line.popleft())
                elif line[0].sent_ns:
                    kept.append(line.popleft())
                else:
                    break
            line.extendleft(reversed(kept))
            self._drop_if_empty(binding, line)
        self._size -= len(out)
        return out

    def clear(self) -> "list[Invocation]":
        """Take all out."""
        out = [invocation for line in self._lines.values() for invocation in line]
        self._lines.clear()
        self._size = 0
        return out

    def _line(self, invocation: "Invocation") -> "deque[Invocation]":
        line = self._lines.get(invocation.binding)
        if line is None:
            line = self._lines[invocation.binding] = deque()
        return line

    def _drop_if_empty(self, binding: str, line: "deque[Invocation]") -> None:
        if not line:
            del self._lines[binding]
