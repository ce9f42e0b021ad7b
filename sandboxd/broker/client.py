"""The front's side of the egress broker: starts it, tells it what it must know, and answers who asks."""

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import time
from collections.abc import Coroutine, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from sandboxd.broker import messages as b
from sandboxd.broker.frames import FrameStream
from sandboxd.broker.running import NO_PLACE, Place, RunningPage
from sandboxd.errors import printable
from sandboxd.log import fields
from sandboxd.processes import interpreter
from sandboxd.processes.ending import ended
from sandboxd.wire import messages as m
from sandboxd.wire.standard_error import StandardError

log = logging.getLogger("sandboxd.broker")

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
LASTED_S: Final = 30.0
"""A broker that has run for so long is started anew at once when it ends."""
ANSWER_WITHIN_S: Final = 0.5
"""A worker asks as soon as it runs an invocation. The result of the one before may still be in its socket."""
ASK_AGAIN_S: Final = 0.001
PING_S: Final = 2.0
"""Between two questions whether the broker still answers."""
MOST_UNANSWERED: Final = 5
"""After so many questions without an answer it counts as hung. While the front stands still, it asks none."""
LAST_WORDS_S: Final = 1.0
"""The time that a hung broker has to write its threads' stacks before it is killed."""
_MAX_QUOTED: Final = 200


class BrokerEvents(Protocol):
    """The pool, as far as the broker asks something of it. Called on the event loop."""

    def binding_run_by(self, serial: int, invocation: int) -> str | None:
        """Return the binding for which a worker runs an invocation now; None if it does not."""

    def on_broker_reports_fault(self, serial: int, what: str) -> None:
        """A worker broke the broker's protocol."""

    def on_broker_out_of_descriptors(self, serial: int) -> None:
        """The broker has no descriptor for a worker, which it therefore does not serve."""


class _Attached(NamedTuple):
    """A worker that is served."""

    generation: int
    channel: socket.socket
    """The broker's end of its socket pair."""
    place: Place | None

    def told(self, serial: int) -> b.Attach:
        """Return the message that names it."""
        return b.Attach(serial, self.generation, NO_PLACE if self.place is None else self.place.number)


class BrokerClient:
    """The egress broker of a pool, from the time on at which a guest may call out.

    Parameters:
        events: knows the workers.
        environ: the environment of the process.
    """

    def __init__(self, events: BrokerEvents, environ: Mapping[str, str]) -> None:
        self.restarts = 0
        """The number of times that it ended while it was needed, and was started again."""
        self._events = events
        self._environ = environ
        self._wall = ""
        self._wanted = False
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: FrameStream | None = None
        self._errors: StandardError | None = None
        self._learned: dict[int, b.Learn] = {}
        self._workers: dict[int, _Attached] = {}
        self._running: RunningPage | None = None
        self._started_at = 0.0
        self._ends_in_a_row = 0
        self._unanswered = 0
        self._hung = False
        self._closing = False
        self._starting: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<BrokerClient pid={self.pid} workers={len(self._workers)}>"

    @property
    def pid(self) -> int | None:
        """Its process id; None while there is none."""
        return self._process.pid if self._process is not None else None

    def learn(self, generation: int, load: m.Load) -> None:
        """Tell the policies of a generation, before `attach` names it. The first call starts the process.

        Parameters:
            generation: its number.
            load: what its zygote was told to load.
        """
        policies = tuple(
            b.BindingPolicy(
                binding=spec.binding, allowed_outbound_hosts=spec.allowed_outbound_hosts, own_ports=spec.own_ports
            )
            for spec in load.guests
        )
        learned = b.Learn(generation=generation, outbound=load.outbound, policies=policies)
        self._learned[generation] = learned
        self._wall = load.confinement.wall
        if self._stream is not None:
            self._stream.send(learned)
        elif not self._wanted:
            self._wanted = True
            self._start()

    def forget(self, generation: int) -> None:
        """A generation has ended."""
        if self._learned.pop(generation, None) is not None and self._stream is not None:
            self._stream.send(b.Forget(generation))

    def attach(self, serial: int, generation: int, channel: socket.socket) -> Place | None:
        """Have a worker served.

        Parameters:
            serial: its number.
            generation: the one it was forked from.
            channel: the broker's end of its socket pair. It is kept, so that another broker can take over.

        Returns:
            where to note what the worker runs; None if there is no place, and the broker has to ask.
        """
        place = self._running.take() if self._running is not None else None
        worker = self._workers[serial] = _Attached(generation, channel, place)
        if self._stream is not None:
            self._stream.send(worker.told(serial), [channel.fileno()])
        return place

    def detach(self, serial: int) -> None:
        """A worker is dead."""
        worker = self._workers.pop(serial, None)
        if worker is not None:
            worker.channel.close()
            if worker.place is not None and self._running is not None:
                self._running.give_back(worker.place)

    async def close(self, timeout_s: float = 2.0) -> None:
        """End the process.

        Parameters:
            timeout_s: the time after which it is killed.
        """
        self._closing = True
        if self._starting is not None:
            self._starting.cancel()
        for serial in list(self._workers):
            self.detach(serial)
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._running is not None:
            self._running.close()
            self._running = None
        await asyncio.gather(*self._tasks, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            await ended(process, timeout_s)

    # ------------------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._starting = None
        try:
            if self._running is None:
                self._running = RunningPage()
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._start_later(f"the egress broker cannot be started: {error}")
            return
        try:
            # It has its own session, so that a terminal's Ctrl-C reaches only the front, which then drains.
            self._process = subprocess.Popen(
                interpreter.command("sandboxd.broker.main", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=interpreter.environment(self._environ),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            self._start_later(f"the egress broker cannot be started: {error}")
            return
        finally:
            theirs.close()
        self._started_at = time.monotonic()
        self._errors = StandardError(log, "stderr of the egress broker")
        self._run_reading(self._errors, self._process)
        self._stream = FrameStream(ours, b.FromBroker, self._received, self._lost)
        self._stream.send(b.BuildWall(self._wall), [self._running.descriptor])
        self._unanswered, self._hung = 0, False
        self._ping(self._stream)
        for learned in self._learned.values():
            self._stream.send(learned)
        for serial, worker in self._workers.items():
            self._stream.send(worker.told(serial), [worker.channel.fileno()])

    def _run_reading(self, errors: StandardError, process: subprocess.Popen[bytes]) -> None:
        async def read() -> None:
            await asyncio.get_running_loop().connect_read_pipe(lambda: errors, process.stderr)

        self._run(read())

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ping(self, stream: FrameStream) -> None:
        """Ask whether it still answers, again and again, until it is another one."""
        if self._stream is not stream or self._process is None or self._hung:
            return
        loop = asyncio.get_running_loop()
        if self._unanswered < MOST_UNANSWERED:
            self._unanswered += 1
            stream.send(b.Ping())
            loop.call_later(PING_S, self._ping, stream)
            return
        self._hung = True
        # faulthandler then writes where each thread stands. Its end closes the socket, and `_lost` follows.
        self._process.send_signal(signal.SIGABRT)
        loop.call_later(LAST_WORDS_S, self._process.kill)

    def _lost(self) -> None:
        self._stream = None
        lost = msgspec.msgpack.encode(b.Lost())
        for worker in self._workers.values():
            # A worker that does not read waits until its own time is over.
            with contextlib.suppress(OSError):
                worker.channel.send(lost, socket.MSG_DONTWAIT)
        self._run(self._report_end())

    async def _report_end(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        assert self._errors is not None
        process.kill()  # whoever closes the socket and lives on is of no use
        status = await asyncio.to_thread(process.wait)
        how = f"ended with status {status}"
        if self._hung:
            how = f"did not answer for {PING_S * MOST_UNANSWERED:g} s and was killed"
        self._start_later(f"the egress broker {how}{await self._errors.await_last_words()}")

    def _start_later(self, why: str) -> None:
        if self._closing:
            return
        if time.monotonic() - self._started_at > LASTED_S:
            self._ends_in_a_row = 0
        delay = min(BACKOFF_FIRST_S * 2**self._ends_in_a_row, BACKOFF_MAX_S)
        self._ends_in_a_row = min(self._ends_in_a_row + 1, 10)
        self.restarts += 1
        log.error("%s; another is started in %g s", why, delay, extra=fields(event="broker-lost"))
        self._starting = asyncio.get_running_loop().call_later(delay, self._start)

    def _received(self, message: b.FromBroker) -> None:
        self._unanswered = 0
        match message:
            case b.AskBinding():
                self._answer(message, time.monotonic() + ANSWER_WITHIN_S)
            case b.WorkerFault(serial, what):
                self._events.on_broker_reports_fault(serial, printable(what[:_MAX_QUOTED]))
            case b.WorkerUnserved(serial):
                self._events.on_broker_out_of_descriptors(serial)
            case b.Serving(missing):
                layers = "; ".join(f"{layer} ({why})" for layer, why in missing)
                if missing:
                    log.warning("the wall around the egress broker lacks %s", layers, extra=fields(event="broker"))
                else:
                    log.info("the egress broker serves (pid %s)", self.pid, extra=fields(event="broker"))

    def _answer(self, asked: b.AskBinding, until: float, again_s: float = ASK_AGAIN_S) -> None:
        if self._stream is None:
            return
        binding = self._events.binding_run_by(asked.serial, asked.invocation)
        if binding is None and time.monotonic() < until:
            # Less often each time: a compromised worker may ask many things that are never true.
            asyncio.get_running_loop().call_later(again_s, self._answer, asked, until, 2 * again_s)
        else:
            self._stream.send(b.BindingAnswer(asked.question, binding or ""))
