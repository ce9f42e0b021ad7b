"""The front's hot path in one process, without sockets: HTTP bytes in, frames out, results in, HTTP bytes out.

The real application, pool and uvicorn protocol on a real event loop; transports are stand-ins that cost next to
nothing, and the worker behind them answers at once. What is left is the front's own work, which can be counted.
"""

import asyncio
import struct
from typing import Any

import msgspec

from sandboxd.components.binding import Binding
from sandboxd.front.http.app import App
from sandboxd.front.ports import Bindings, FrontSettings
from sandboxd.front.servers.connections import CallerLimits, Connections
from sandboxd.front.servers.refusals import Refusals
from sandboxd.front.servers.uvicorn_protocol import bounded_protocol
from sandboxd.metrics import Metrics
from sandboxd.metrics.journal import Journal
from sandboxd.outcome import Outcome
from sandboxd.pool.generation import GuestEntry
from sandboxd.pool.pool import Pool
from sandboxd.pool.settings import PoolSettings
from sandboxd.pool.state import WorkerEvent
from sandboxd.pool.worker import Worker
from sandboxd.wire import codec
from sandboxd.wire import messages as m

BODY = b'{"operation": "execute", "data": "hello"}'
REQUESTS = [
    b"POST /v1.0/bindings/tiny HTTP/1.1\r\nHost: 127.0.0.1:3500\r\nContent-Type: application/json%b\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (blank, len(BODY), BODY)
    for blank in (b"", b" ")
]
"""Two requests whose heads differ."""


GOOD = m.Result(id=0, outcome=Outcome.COMPLETED, stdout=b'"HELLO"', instantiate_ns=9000, guest_ns=20000)
FAILED = m.Result(
    id=0,
    outcome=Outcome.EXIT_NONZERO,
    exit_code=1,
    stderr=b"no argument\n",
    stderr_total=12,
    instantiate_ns=9000,
    guest_ns=20000,
)


class _Transport(asyncio.Transport):
    """Swallows what is written; `written` counts calls."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 3500)})
        self.written = 0

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


class ClientTransport(_Transport):
    """The connection of a caller, whose next request follows each answer."""

    def __init__(self, path: "FrontPath") -> None:
        super().__init__()
        self._path = path

    def write(self, data: Any) -> None:
        """An answer, or a part of one."""
        self.written += 1
        if bytes(data).endswith((b'"HELLO"', b'"}')):
            self._path.answered()


class WorkerTransport(_Transport):
    """The socket of a worker that answers at once."""

    def __init__(self, worker: Worker, result: m.Result) -> None:
        super().__init__()
        self._worker = worker
        self._template = codec.encode(msgspec.structs.replace(result, id=2**31))
        self._id_at = self._template.index(struct.pack(">I", 2**31))
        self._loop = asyncio.get_running_loop()

    def write(self, data: Any) -> None:
        """A frame: its id is taken from the pool's own count, not decoded, which would be the worker's work."""
        self.written += 1
        number = self._worker.inflight[-1].id
        at = self._id_at
        self._loop.call_soon(
            self._worker.data_received, self._template[:at] + struct.pack(">I", number) + self._template[at + 4 :]
        )


class _Generation:
    """As much of a generation as leases need."""

    lost = False
    retiring = False

    def __init__(self) -> None:
        self.entries = {"tiny": GuestEntry(0, "tiny", 64, "", 192)}

    def runs(self, binding: str) -> bool:
        """Return whether it has this guest."""
        return binding in self.entries


class Ready:
    """A server that is ready: a stand-in for `sandboxd.front.ports.Health`."""

    def not_ready(self) -> list[str]:
        return []

    def waits_for(self) -> str:
        return ""

    def remarks(self) -> dict[str, str]:
        return {}


class FrontPath:
    """Made on a running loop.

    Parameters:
        connections: callers, each with one request in flight.
        result: what the worker answers.
        repeats: whether the heads of a caller's requests are the same.
    """

    def __init__(self, connections: int = 1, result: m.Result = GOOD, *, repeats: bool = True) -> None:
        from uvicorn.config import Config
        from uvicorn.server import ServerState

        loop = asyncio.get_running_loop()
        self.metrics = Metrics(version="0")
        self.metrics.journal = Journal()
        self.pool = Pool(PoolSettings(workers=1))
        generation: Any = _Generation()
        worker = Worker(1, generation, self.pool._delivery)
        self.worker_transport = WorkerTransport(worker, result)
        worker.connection_made(self.worker_transport)
        worker.advance(WorkerEvent.READY)
        self.pool._leases.swap(generation, [worker])
        self.app = App(FrontSettings(version="0"), self.pool, self.metrics, Ready())
        self.app.bindings = Bindings.of([Binding(name="tiny", version="v1", url="file:///tiny.wasm")], self.metrics)
        config = Config(
            self.app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            proxy_headers=False,
        )
        refusals = Refusals()
        protocol = bounded_protocol(16384, Connections(CallerLimits(), refusals), refusals, self.app.direct)
        self._protocols = []
        for _ in range(connections):
            made: Any = protocol(config, ServerState(), {}, loop)
            self.client_transport = ClientTransport(self)
            made.connection_made(self.client_transport)
            self._protocols.append(made)
        self._requests = REQUESTS[:1] if repeats else REQUESTS
        self._left = 0
        self._answered = 0
        self._done = loop.create_future()

    def answered(self) -> None:
        """One caller has its answer."""
        self._answered += 1
        if self._answered == self._left:
            self._done.set_result(None)

    async def run(self, count: int) -> None:
        """Answer `count` requests, one after the other on each connection."""
        loop = asyncio.get_running_loop()
        while count > 0:
            burst = self._protocols[:count]
            self._left, self._answered, self._done = len(burst), 0, loop.create_future()
            for protocol in burst:
                protocol.data_received(self._requests[0])
            await self._done
            count -= len(burst)
            self._requests = self._requests[::-1]

    def close(self) -> None:
        """Give back threads."""
        self.app.close()
