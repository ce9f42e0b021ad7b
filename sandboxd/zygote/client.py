"""The front's client of the zygote: starts it, requests workers, and reports their ends."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from hostfuncs import texts
from sandboxd.errors import SHORT_OF, ConfigError, ExitCode, SandboxdError
from sandboxd.processes import interpreter
from sandboxd.processes.ending import ended
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.standard_error import StandardError
from sandboxd.zygote import hardening

log = logging.getLogger("sandboxd.worker")

RECEIVE_BYTES = 1 << 16
MAX_FDS = 48
FDS_PER_WORKER = (3, 4)
"""The numbers of descriptors that come with a worker: without, and with, the broker's end of its socket pair."""


class ZygoteError(SandboxdError):
    """The zygote could not be started, or could not load the engine."""

    exit_code = ExitCode.WORKERS


class _DiedError(Exception):
    """The zygote's socket closed while it loaded. The message says how the process ended."""


class ZygoteEvents(Protocol):
    """Receives the zygote's events. It is called on the event loop, never from within a method of the client."""

    def on_spawned(
        self,
        serial: int,
        pid: int,
        channel: socket.socket,
        page_fd: int,
        pidfd: int,
        broker: socket.socket | None = None,
    ) -> None:
        """A worker was forked. The callee owns the sockets and both descriptors.

        `broker` is the egress broker's end of the worker's socket pair, if there is one.
        """

    def on_spawn_failed(self, serial: int, detail: str) -> None:
        """A worker could not be forked."""

    def on_spawned_without_descriptors(self, serial: int, pid: int) -> None:
        """A worker was forked, but this process could not receive its descriptors. The callee kills it."""

    def on_exited(self, serial: int, status: int) -> None:
        """A worker was reaped. The status is that of os.waitstatus_to_exitcode."""

    def on_zygote_lost(self, client: "ZygoteClient") -> None:
        """The zygote died unexpectedly. Its workers still run, but nothing replaces, kills or reaps them."""


class ZygoteClient:
    """One zygote process.

    Parameters:
        events: receives its events.
    """

    def __init__(self, events: ZygoteEvents) -> None:
        self.lost = False
        """Whether the process died unexpectedly after it had loaded its guests."""
        self._events = events
        self._decoder = codec.Decoder(codec.FromZygote)
        self._arrived: deque[list[int]] = deque()
        """The received descriptors of each worker whose `Spawned` message is not handled yet."""
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = StandardError(log, "stderr of workers")
        self._loaded: asyncio.Future[m.Loaded] | None = None
        self._closing = False

    def __repr__(self) -> str:
        pid = self._process.pid if self._process else None
        return f"<ZygoteClient pid={pid}{' closed' if self._socket is None else ''}>"

    @property
    def pid(self) -> int | None:
        """The zygote's process id; None before `start`."""
        return self._process.pid if self._process else None

    async def start(self, load: m.Load, timeout_s: float) -> m.Loaded:
        """Start the process and have it load the guests.

        Parameters:
            load: the engine's settings and the guests.
            timeout_s: the time after which the process is killed.

        Raises:
            ZygoteError: the process died, refused the engine settings or did not answer in time.
            ConfigError: a setting is at fault.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            # It has its own session, so that a terminal's Ctrl-C reaches only the front, which then drains.
            # Popen takes little time, and asyncio's subprocesses would need a child watcher for this alone.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                interpreter.command("sandboxd.zygote.main", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=interpreter.environment(hardening.environment(os.environ)),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            remedy = SHORT_OF.get(error.errno or 0, "")
            raise ZygoteError(f"the zygote cannot be started: {error}", remedy=remedy) from error
        finally:
            theirs.close()
        await loop.connect_read_pipe(lambda: self._errors, self._process.stderr)
        ours.setblocking(False)
        self._socket = ours
        self._loaded = loop.create_future()
        loop.add_reader(ours.fileno(), self._on_readable)
        try:
            async with asyncio.timeout(timeout_s):
                await loop.sock_sendall(ours, codec.encode(load))
                return await self._loaded
        except TimeoutError:
            self.end()
            raise ZygoteError(
                f"the zygote did not load the guests within {timeout_s:g} s and was killed"
                f"{await self._errors.await_last_words()}",
                remedy="raise pool.loadTimeout if the machine is slow; otherwise find out what the zygote waits for",
            ) from None
        except OSError as error:
            words = await self._errors.await_last_words()
            raise ZygoteError(f"the zygote died before it had read which guests to load: {error}{words}") from error
        except _DiedError as error:
            raise ZygoteError(
                f"the zygote died while loading ({error}){await self._errors.await_last_words()}"
            ) from None
        finally:
            self._loaded = None

    def spawn(self, serial: int) -> None:
        """Request a worker. `on_spawned` or `on_spawn_failed` follows."""
        self._send(m.Spawn(serial))

    def spawn_template(self, order: m.SpawnTemplate) -> None:
        """Request a template. The same follows as for `spawn`."""
        self._send(order)

    def spawn_child(self, serial: int, template: int) -> None:
        """Request a child of a template, by its serial. The same follows as for `spawn`."""
        self._send(m.SpawnChild(serial, template))

    def kill(self, serial: int) -> None:
        """Have a worker killed with SIGKILL. `on_exited` follows, unless it was reaped already."""
        self._send(m.Kill(serial))

    def end(self) -> None:
        """Kill a zygote that hangs. `on_zygote_lost` follows."""
        if self._process is not None:
            self._process.kill()

    async def close(self, timeout_s: float = 2.0) -> None:
        """Close the socket, which ends the zygote and all its workers, and reap it.

        Parameters:
            timeout_s: the time after which it is killed.
        """
        self._closing = True
        self._disconnect()
        if self._process is not None:
            await ended(self._process, timeout_s)

    def _disconnect(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for fds in self._arrived:
            _close(fds)
        self._arrived.clear()

    def _send(self, message: m.Message) -> None:
        if self._socket is None:
            return
        data = codec.encode(message)
        try:
            sent = self._socket.send(data)
        except OSError:
            sent = 0
        if sent != len(data):
            # Frames are short, and the zygote reads them at once. If the socket is full, it has died or hangs.
            asyncio.get_running_loop().call_soon(self._lose)

    def _on_readable(self) -> None:
        assert self._socket is not None
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, RECEIVE_BYTES, MAX_FDS)
            # unix(7): a read ends after a message with descriptors, so these belong to one worker. Descriptors for
            # which this process has no free slot are lost. MSG_CTRUNC is the only sign of that.
            if fds or flags & socket.MSG_CTRUNC:
                self._arrived.append(fds)
            messages = self._decoder.feed(data) if data else None
        except BlockingIOError:
            return
        except (OSError, codec.ProtocolError):
            messages = None
        if messages is None:
            self._lose()
            return
        for message in messages:
            self._dispatch(message)

    def _dispatch(self, message: m.Loaded | m.LoadFailed | m.Spawned | m.SpawnFailed | m.Exited) -> None:
        match message:
            case m.Spawned(serial, pid):
                fds = self._arrived.popleft() if self._arrived else []
                if len(fds) in FDS_PER_WORKER:
                    broker = socket.socket(fileno=fds[3]) if len(fds) > 3 else None
                    self._events.on_spawned(serial, pid, socket.socket(fileno=fds[0]), fds[1], fds[2], broker)
                else:
                    _close(fds)
                    self._events.on_spawned_without_descriptors(serial, pid)
            case m.SpawnFailed(serial, detail):
                self._events.on_spawn_failed(serial, texts.bounded(detail))
            case m.Exited(serial, _, status):
                self._events.on_exited(serial, status)
            case m.Loaded():
                if self._loaded is not None and not self._loaded.done():
                    self._loaded.set_result(message)
            case m.LoadFailed(detail, remedy, setting):
                if self._loaded is not None and not self._loaded.done():
                    kind = ConfigError if setting else ZygoteError
                    self._loaded.set_exception(kind(texts.bounded(detail), remedy=texts.bounded(remedy)))

    def _lose(self) -> None:
        if self._closing or self._socket is None:
            return
        self._disconnect()
        if self._loaded is not None and not self._loaded.done():
            status = None
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = self._process.wait(0.5)
            self._loaded.set_exception(_DiedError(f"exit status {status}"))
            return
        self.lost = True
        self._events.on_zygote_lost(self)


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
