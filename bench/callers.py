"""Callers that check each answer: where a single request that is lost, or answered wrongly, must not go unseen.

Unlike the load generators, each caller is a thread of Python that waits for its answer before it asks again.
"""

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

ANSWER_S = 60.0
"""A request without an answer for so long is lost. It is longer than a guest's timeout and the queue's together."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One request, and what may come back."""

    body: bytes
    right: Callable[[int, bytes], bool]
    """Whether status and body are what they must be."""
    hang_up: bool = False
    """The caller sends it, closes its connection and waits for nothing."""


class Callers:
    """Ask on several connections until told to stop.

    Parameters:
        url: where.
        count: how many callers there are.
        ask: returns the request of a number, or None when a caller is to stop. Called in any thread, each number once.
    """

    def __init__(self, url: str, count: int, ask: Callable[[int], Asking | None]) -> None:
        self._url = urlsplit(url)
        self._ask = ask
        self._lock = threading.Lock()
        self._next = 0
        self.counts: Counter[str] = Counter()
        """`right`, `wrong`, `lost` (no answer) and `hung up`, and `status N` of all that were answered."""
        self.wrong: list[str] = []
        """The first answers that were wrong, and the first errors."""
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def run(self) -> None:
        """Start all callers and wait for them."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        connection = self._connect()
        while True:
            with self._lock:
                number = self._next
                self._next += 1
            asking = self._ask(number)
            if asking is None:
                break
            try:
                connection.request("POST", self._url.path, asking.body, {"Content-Type": "application/json"})
                if asking.hang_up:
                    connection.close()
                    self._count(["hung up"])
                    continue
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._count(["lost"], f"request {number}: {error!r}")
                connection.close()
                connection = self._connect()
                continue
            verdict = "right" if asking.right(answer.status, body) else "wrong"
            said = f"request {number}: {answer.status} {body[:200]!r}" if verdict == "wrong" else ""
            self._count([verdict, f"status {answer.status}"], said)
        connection.close()

    def _count(self, names: list[str], said: str = "") -> None:
        with self._lock:
            self.counts.update(names)
            if said and len(self.wrong) < 20:
                self.wrong.append(said)

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=ANSWER_S)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
