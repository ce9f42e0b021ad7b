"""Workers, a zygote and a clock that do what a script says: the pool's own code on top, no process below.

The pool's steps are synchronous, so every race is an order of steps; a script can therefore choose any of them.
"""

import asyncio
import contextlib
import os
import signal
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast
from unittest import mock

from sandboxd.outcome import Outcome
from sandboxd.pool.worker import Role, Worker
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.page import PAGE_BYTES, StatusPage
from sandboxd.zygote.client import ZygoteEvents


class Clock:
    """Stands in for the module `time`: it moves when told."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9


class ScriptedLoop(asyncio.SelectorEventLoop):
    """An event loop by the scripted clock whose connections are scripted transports."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def time(self) -> float:
        return self.clock.monotonic()

    async def create_unix_connection(self, protocol_factory: Callable[[], Any], *_: Any, **options: Any) -> Any:
        transport: ScriptedTransport = options["sock"].transport
        transport.protocol = protocol_factory()
        transport.protocol.connection_made(transport)
        return transport, transport.protocol

    def settle(self) -> None:
        """Run everything that is due."""

        async def turns() -> None:
            for _ in range(6):
                await asyncio.sleep(0)

        self.run_until_complete(turns())

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps that no timer of the pool falls between."""
        end = self.clock.now_ns + int(seconds * 1e9)
        while self.clock.now_ns < end:
            self.clock.now_ns = min(end, self.clock.now_ns + max(10_000_000, int(seconds * 1e7)))
            self.settle()


class ScriptedTransport(asyncio.Transport):
    """The front's end of a worker's socket."""

    def __init__(self, process: "Process") -> None:
        self.process = process
        self.protocol: Worker | None = None
        self.closed = False

    def write(self, data: bytes) -> None:
        if not self.closed and self.process.alive:
            self.process.unread += self.process.decoder.feed(data)

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._lost)

    def _lost(self) -> None:
        assert self.protocol is not None
        self.protocol.connection_lost(None)


class ScriptedSocket:
    """Stands in for a worker's socket, as the zygote sends it."""

    def __init__(self, transport: ScriptedTransport) -> None:
        self.transport = transport

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def detach(self) -> int:
        """The transport has it already."""
        return -1

    def close(self) -> None:
        self.transport.closed = True


class Process:
    """A worker process: reads frames in order, and says what the script makes it say.

    A template says whether its guest is parked, and nothing else. A template's child ends after its invocation.
    """

    def __init__(self, serial: int, world: "World", role: Role = Role.WORKER) -> None:
        self.serial = serial
        self.role = role
        self.parked = False
        self._clock = world.clock
        self.alive = True
        self.status = 0
        self.reaped = False
        self.up = False
        self.running: m.Invoke | None = None
        self.unread: list[m.Invoke] = []
        self.unsent = b""
        self.number = 0
        self.decoder = codec.Decoder(codec.ToWorker)
        self.memfd = os.memfd_create("scripted")
        os.ftruncate(self.memfd, PAGE_BYTES)
        self.page = StatusPage(self.memfd)
        self.transport = ScriptedTransport(self)
        self._begun = world.begun

    def __repr__(self) -> str:
        return f"<Process {self.serial} {'alive' if self.alive else self.status} running={self.running is not None}>"

    def get_up(self, cpu_ns: int = 0) -> None:
        self.up = True
        self.unsent += codec.encode(m.Ready(1000 + self.serial, 0, cpu_ns if self.role is Role.CHILD else 0))

    def park(self, *, works: bool, boot_ns: int, private_bytes: int) -> None:
        """In a template: its guest is parked, or ends."""
        self.parked = True
        self._clock.now_ns += boot_ns
        if works:
            message: m.Message = m.Parked(at="stdin", boot_ns=boot_ns, cpu_ns=boot_ns, private_bytes=private_bytes)
        else:
            message = m.NotParked(outcome=Outcome.COMPLETED)
        self.unsent += codec.encode(message)
        if not works:
            self.die(0)

    def begin(self) -> None:
        """Look at the next frame, as `sandboxd.worker.main.run` does."""
        invoke = self.unread.pop(0)
        self.number += 1
        if self.page.begin(self.number):
            self.running = invoke
            self._begun[invoke.call.stdin] += 1
        else:
            self.unsent += codec.encode(m.Skipped(invoke.id))
            if self.role is Role.CHILD:
                self.die(0)

    def finish(self, outcome: Outcome, guest_ns: int, retire: bool) -> None:
        assert self.running is not None
        self._clock.now_ns += guest_ns
        result = m.Result(
            id=self.running.id, outcome=outcome, stdout=self.running.call.stdin, guest_ns=guest_ns, retire=retire
        )
        self.unsent += codec.encode(result)
        self.running = None
        if self.role is Role.CHILD:
            self.die(0)

    def deliver(self, size: int | None = None) -> None:
        """Deliver up to `size` bytes of what it has sent to the front."""
        data, self.unsent = self.unsent[:size], self.unsent[len(self.unsent) if size is None else size :]
        if data and not self.transport.closed:
            assert self.transport.protocol is not None
            self.transport.protocol.data_received(data)

    def die(self, status: int) -> None:
        self.alive = False
        self.status = status
        self.running = None

    def close(self) -> None:
        """The kernel closes its socket: what it had said is read first, then the end."""
        self.deliver()
        if not self.transport.closed and self.transport.protocol is not None:
            self.transport.closed = True
            self.transport.protocol.connection_lost(None)

    def release(self) -> None:
        self.page.close()
        os.close(self.memfd)


class ScriptedZygote:
    """In the place of ZygoteClient. Requests wait until the script lets them happen."""

    def __init__(self, events: ZygoteEvents, world: "World") -> None:
        self.events = events
        self.spawns: deque[int] = deque()
        self.kills: list[int] = []
        self.roles: dict[int, Role] = {}
        self.templates: dict[int, int] = {}
        """The serial of the template of each child."""
        self.processes: dict[int, Process] = {}
        self.dead = False
        self.lost = False
        self._world = world
        world.zygotes.append(self)

    async def start(self, load: m.Load, timeout_s: float) -> m.Loaded:
        await asyncio.sleep(0)
        return m.Loaded(failed=tuple((spec.binding, "broken") for spec in load.guests if spec.artifact == "broken"))

    def spawn(self, serial: int) -> None:
        if not self.dead:  # what the client is asked after the zygote's end goes nowhere
            self.spawns.append(serial)

    def spawn_template(self, order: m.SpawnTemplate) -> None:
        self.roles[order.serial] = Role.TEMPLATE
        self.spawn(order.serial)

    def spawn_child(self, serial: int, template: int) -> None:
        self.roles[serial] = Role.CHILD
        self.templates[serial] = template
        self.spawn(serial)

    def kill(self, serial: int) -> None:
        if not self.dead:
            self.kills.append(serial)

    def end(self) -> None:
        asyncio.get_running_loop().call_soon(self.lose)

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.dead = True
        self.spawns.clear()
        self.kills.clear()
        for process in self.processes.values():
            if process.alive:
                process.die(-signal.SIGKILL)

    def lose(self) -> None:
        """It dies."""
        if not self.dead:
            self.dead = True
            self.spawns.clear()
            self.kills.clear()
            self.lost = True
            self.events.on_zygote_lost(cast(Any, self))

    def fork(self) -> None:
        """Do what was asked first."""
        serial = self.spawns.popleft()
        template = self.processes.get(self.templates.get(serial, 0))
        if serial in self.templates and (template is None or not template.alive):
            self.events.on_spawn_failed(serial, "the template has ended")
            return
        process = self.processes[serial] = Process(serial, self._world, self.roles.get(serial, Role.WORKER))
        self._world.processes.append(process)
        pidfd = os.memfd_create("pidfd")
        self._world.by_pidfd[pidfd] = process
        channel = cast(Any, ScriptedSocket(process.transport))
        self.events.on_spawned(serial, 1000 + serial, channel, os.dup(process.memfd), pidfd)

    def fork_without_descriptors(self) -> None:
        """Do it for a front that has no room for what comes with the worker."""
        serial = self.spawns.popleft()
        process = self.processes[serial] = Process(serial, self._world)
        self._world.processes.append(process)
        process.transport.closed = True
        self.events.on_spawned_without_descriptors(serial, 1000 + serial)

    def refuse(self) -> None:
        """Fail to do it."""
        self.events.on_spawn_failed(self.spawns.popleft(), "no more processes")

    def execute(self, at: int) -> None:
        """Kill whom the front wants dead."""
        serial = self.kills.pop(at % len(self.kills))
        process = self.processes.get(serial)
        if process is None and serial in self.templates and serial in self.spawns:
            self.spawns.remove(serial)
            self.events.on_spawn_failed(serial, "it was given up")
        if process is not None and process.alive:
            process.die(-signal.SIGKILL)

    def reap(self, process: Process) -> None:
        process.reaped = True
        self.events.on_exited(process.serial, process.status)


class World:
    """Everything below one pool."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = ScriptedLoop(self.clock)
        self.zygotes: list[ScriptedZygote] = []
        self.processes: list[Process] = []
        self.by_pidfd: dict[int, Process] = {}
        self.begun: Counter[bytes] = Counter()
        """How often each payload was begun by a worker."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """The pool's modules see this world while the context is open."""
        with contextlib.ExitStack() as patches:
            for module in (
                "pool",
                "delivery",
                "lease",
                "maintenance",
                "starting",
                "sweep",
                "polling",
                "worker",
                "warm",
                "spares",
            ):
                patches.enter_context(mock.patch(f"sandboxd.pool.{module}.time", self.clock))
            patches.enter_context(
                mock.patch("sandboxd.pool.generations.ZygoteClient", lambda events: ScriptedZygote(events, self))
            )
            patches.enter_context(mock.patch("sandboxd.pool.worker.signal", self))
            yield

    SIGKILL = signal.SIGKILL

    def pidfd_send_signal(self, pidfd: int, number: int) -> None:
        """Takes the place of `signal.pidfd_send_signal`."""
        assert number == signal.SIGKILL
        process = self.by_pidfd[pidfd]
        if process.alive:
            process.die(-number)

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)

    def step(self, action: Callable[[], None]) -> None:
        """One thing happens; the pool does all that follows."""

        async def within() -> None:
            action()

        self.loop.run_until_complete(within())
        self.loop.settle()

    def zygote_of(self, process: Process) -> ScriptedZygote:
        return next(zygote for zygote in self.zygotes if process in zygote.processes.values())

    def go_on(self) -> bool:
        """Let every process do what it would do by itself, once. False if nothing was left to do."""
        did = False
        for zygote in self.zygotes:
            while zygote.spawns:
                self.step(zygote.fork)
                did = True
            while zygote.kills:
                self.step(lambda zygote=zygote: zygote.execute(0))  # type: ignore[misc]
                did = True
        for process in list(self.processes):
            did = self._go_on(process) or did
        return did

    def _go_on(self, process: Process) -> bool:
        did = False
        if process.alive and process.transport.closed:
            process.die(0)
            did = True
        if process.alive and not process.up:
            process.get_up()
        if process.alive and process.role is Role.TEMPLATE and not process.parked:
            process.park(works=True, boot_ns=1_000_000, private_bytes=1)
        if process.alive and process.running is not None:
            process.finish(Outcome.COMPLETED, 1_000_000, False)
        elif process.alive and process.unread:
            process.begin()
            did = True
        if process.unsent and not process.transport.closed:
            self.step(process.deliver)
            did = True
        if not process.alive:
            if not process.transport.closed:
                self.step(process.close)
                did = True
            zygote = self.zygote_of(process)
            if not process.reaped and not zygote.dead:
                self.step(lambda: zygote.reap(process))
                did = True
        return did

    def close(self) -> None:
        for process in self.processes:
            process.release()
        self.loop.close()
