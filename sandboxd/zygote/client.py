"""The front's end of the zygote: starts it, asks it for workers, hears of their deaths."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from sandboxd.errors import SHORT_OF, ExitCode, SandboxdError
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.zygote import hardening

log = logging.getLogger("sandboxd.worker")

RECEIVE_BYTES = 1 << 16
MAX_LINE = 8192
MAX_FDS = 48
FDS_PER_WORKER = 3


class ZygoteError(SandboxdError):
    """The zygote could not be started, or could not load the engine."""

    exit_code = ExitCode.WORKERS


class _StandardError(asyncio.Protocol):
    """What the zygote and its workers print (tracebacks, fatal signals) becomes lines of the server's log."""

    def __init__(self) -> None:
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line:
                log.error("%s", line.decode("utf-8", "replace"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            log.error("%s", self._rest.decode("utf-8", "replace"))


class ZygoteEvents(Protocol):
    """Who hears what the zygote says. Called on the event loop, never re-entrantly from a method of the client."""

    def on_spawned(self, serial: int, pid: int, channel: socket.socket, page_fd: int, pidfd: int) -> None:
        """A worker was forked. The callee owns the socket and both descriptors."""

    def on_spawn_failed(self, serial: int, detail: str) -> None:
        """No worker could be forked."""

    def on_spawned_in_vain(self, serial: int, pid: int) -> None:
        """A worker was forked, but this process could not hold its descriptors. `on_exited` follows if it is killed."""

    def on_exited(self, serial: int, status: int) -> None:
        """A worker was reaped; status as in os.waitstatus_to_exitcode."""

    def on_zygote_lost(self) -> None:
        """The zygote died without being asked to. Its workers live on, but nobody replaces, kills or reaps them."""


class ZygoteClient:
    """One zygote process.

    Parameters:
        events: who is told.
    """

    def __init__(self, events: ZygoteEvents) -> None:
        self._events = events
        self._decoder = codec.Decoder(codec.FromZygote)
        self._arrived: deque[list[int]] = deque()
        """The descriptors of each worker that has been announced, or is about to be."""
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded: asyncio.Future[m.Loaded] | None = None
        self._closing = False

    def __repr__(self) -> str:
        pid = self._process.pid if self._process else None
        return f"<ZygoteClient pid={pid}{' closed' if self._socket is None else ''}>"

    @property
    def pid(self) -> int | None:
        """Process id of the zygote; None before `start`."""
        return self._process.pid if self._process else None

    async def start(self, load: m.Load) -> m.Loaded:
        """Start the process and have it load the guests.

        Raises:
            ZygoteError: the process died or refused the engine settings.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            # A session of its own, so that a terminal's Ctrl-C reaches the front alone, which then drains.
            # Popen itself is quick, and asyncio's own subprocesses need a child watcher we have no other use for.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-m", "sandboxd.zygote.main", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=hardening.environment(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            remedy = SHORT_OF.get(error.errno or 0, "")
            raise ZygoteError(f"the zygote cannot be started: {error}", remedy=remedy) from error
        finally:
            theirs.close()
        await loop.connect_read_pipe(_StandardError, self._process.stderr)
        ours.setblocking(False)
        self._socket = ours
        self._loaded = loop.create_future()
        loop.add_reader(ours.fileno(), self._on_readable)
        try:
            await loop.sock_sendall(ours, codec.encode(load))
            return await self._loaded
        except OSError as error:
            raise ZygoteError(f"the zygote died while it was given its guests: {error}") from error
        finally:
            self._loaded = None

    def spawn(self, serial: int) -> None:
        """Ask for a worker; `on_spawned` or `on_spawn_failed` follows."""
        self._send(m.Spawn(serial))

    def kill(self, serial: int) -> None:
        """Ask for a worker's death by SIGKILL; `on_exited` follows. A worker already reaped is ignored."""
        self._send(m.Kill(serial))

    def end(self) -> None:
        """SIGKILL a zygote that does nothing any more; `on_zygote_lost` follows."""
        if self._process is not None:
            self._process.kill()

    async def close(self, timeout_s: float = 2.0) -> None:
        """Close the socket, which ends the zygote and all its workers, and reap it.

        Parameters:
            timeout_s: how long it may take before it is killed.
        """
        self._closing = True
        self._disconnect()
        process = self._process
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

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
            # Frames are a few bytes and the zygote reads at once: a full socket means it does not run any more.
            asyncio.get_running_loop().call_soon(self._lose)

    def _on_readable(self) -> None:
        assert self._socket is not None
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, RECEIVE_BYTES, MAX_FDS)
            # unix(7): what is read ends behind a message with descriptors, so these belong to one worker. Those for
            # which there is no room in this process are gone, and the flag is all that is left of them.
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
                if len(fds) == FDS_PER_WORKER:
                    self._events.on_spawned(serial, pid, socket.socket(fileno=fds[0]), fds[1], fds[2])
                else:
                    _close(fds)
                    self._events.on_spawned_in_vain(serial, pid)
            case m.SpawnFailed(serial, detail):
                self._events.on_spawn_failed(serial, detail)
            case m.Exited(serial, _, status):
                self._events.on_exited(serial, status)
            case m.Loaded():
                if self._loaded is not None and not self._loaded.done():
                    self._loaded.set_result(message)
            case m.LoadFailed(detail):
                if self._loaded is not None and not self._loaded.done():
                    self._loaded.set_exception(ZygoteError(detail))

    def _lose(self) -> None:
        if self._closing or self._socket is None:
            return
        self._disconnect()
        if self._loaded is not None and not self._loaded.done():
            status = None
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = self._process.wait(0.5)
            self._loaded.set_exception(ZygoteError(f"the zygote died while loading (exit status {status})"))
            return
        self._events.on_zygote_lost()


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
