"""Decodes large request bodies in processes of their own, so that no body holds the front's interpreter lock.

A hostile body of 4 MiB takes the decoder up to a second. In a thread of the front, all other requests would wait for
it. There are two processes, so that bodies of up to SHORT_BYTES never wait behind longer ones. A process is started for
the first body that needs it.
"""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from typing import Final

import msgspec

from sandboxd import gojson
from sandboxd.front.answering.payload import DataError, KindError
from sandboxd.processes import interpreter
from sandboxd.wall import Mode
from sandboxd.wall.confinement import kept_environment
from sandboxd.wire.streams import StdinKind

SHORT_BYTES: Final = 512 * 1024
MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
"""The most bytes of bodies that are being decoded or wait for it. A single body may be longer."""
REQUEST: Final = struct.Struct("=?BI")
"""The frame of a body: whether it was cut at the limit, its kind's index in KINDS, its length. The body follows."""
KINDS: Final = (None, *StdinKind)
"""The kinds of stdin into which `data` is converted; None leaves it as it is."""
REPLY: Final = struct.Struct("=BI")
"""The frame of a reply: 0, or the index of an error in ERRORS and 1 more, and the length of what follows.

The decoded request follows in MessagePack, or the error's message.
"""
ERRORS: Final[tuple[type[Exception], ...]] = (gojson.MalformedError, gojson.TooLargeError, DataError, KindError)
"""The errors that a reply can carry."""

_KEPT_ENVIRONMENT: Final = frozenset(("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "VIRTUAL_ENV"))


class DecoderLostError(Exception):
    """The decoding process died twice in a row, or cannot be started."""


class DecoderBusyError(Exception):
    """MOST_WAITING_BYTES of bodies are being decoded already."""


class BodyDecoder:
    """Decodes bodies in the decoding processes. Use it on one event loop.

    Parameters:
        wall: the mode of the wall around the processes, see `sandboxd.wall.Mode`.
    """

    def __init__(self, wall: str) -> None:
        self._short = _Lane(wall)
        self._long = _Lane(wall)
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<BodyDecoder short={self._short!r} long={self._long!r}>"

    async def decode(
        self, body: bytes, kind: StdinKind | None = None, *, cut: bool, deadline_ns: int
    ) -> gojson.Request:
        """Decode a body as `gojson.decode` does, and convert `data` as `payload.converted` does.

        Parameters:
            body: the body, cut at the limit.
            kind: the binding's kind of stdin; None leaves `data` as it is, whatever the request asks for.
            cut: whether the body was longer than the limit.
            deadline_ns: CLOCK_MONOTONIC instant; a process that is not done by then is killed.

        Raises:
            MalformedError, TooLargeError: see `gojson.decode`.
            DataError, KindError: see `payload.converted`.
            TimeoutError: it was not decoded by the deadline.
            DecoderBusyError: too many bytes are being decoded already.
            DecoderLostError: it could not be decoded.
        """
        size = len(body)
        if self._bytes and self._bytes + size > MOST_WAITING_BYTES:
            raise DecoderBusyError
        lane = self._short if size <= SHORT_BYTES else self._long
        self._bytes += size
        try:
            return await lane.decode(body, kind, cut, deadline_ns)
        finally:
            self._bytes -= size

    def close(self) -> None:
        """End the processes."""
        self._short.close()
        self._long.close()


class _Lane:
    """One process and the bodies that wait for it."""

    def __init__(self, wall: str) -> None:
        self._wall = wall
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[gojson.Request]] = set()
        self._served: asyncio.Task[gojson.Request] | None = None

    def __repr__(self) -> str:
        return f"<_Lane pid={self._process.pid if self._process else None} bodies={len(self._tasks)}>"

    async def decode(self, body: bytes, kind: StdinKind | None, cut: bool, deadline_ns: int) -> gojson.Request:
        # In a task of its own: if the caller leaves, the reply must still be read, or the next body would get it.
        task = asyncio.ensure_future(self._decode(body, kind, cut, deadline_ns))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task is not self._served:
                task.cancel()
            raise

    def _done(self, task: "asyncio.Task[gojson.Request]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio logs an exception that nobody retrieves, and the caller may be gone

    async def _decode(self, body: bytes, kind: StdinKind | None, cut: bool, deadline_ns: int) -> gojson.Request:
        left_s = (deadline_ns - time.monotonic_ns()) / 1e9
        async with asyncio.timeout(left_s), self._turn:
            self._served = asyncio.current_task()
            try:
                try:
                    return await self._ask(body, kind, cut)
                except (ConnectionError, asyncio.IncompleteReadError):
                    # The process died, by this body or an earlier one.
                    self._kill()
                    return await self._ask(body, kind, cut)
            except (gojson.MalformedError, DataError, KindError):
                raise
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self._kill()
                raise DecoderLostError("the process that decodes bodies died") from error
            except BaseException:
                # The deadline passed, or the server ends. The reply must not be taken for that of the next body.
                self._kill()
                raise
            finally:
                self._served = None

    async def _ask(self, body: bytes, kind: StdinKind | None, cut: bool) -> gojson.Request:
        if self._process is None:
            await self._start()
        assert self._reader is not None
        assert self._writer is not None
        self._writer.write(REQUEST.pack(cut, KINDS.index(kind), len(body)))
        self._writer.write(body)
        await self._writer.drain()
        error, size = REPLY.unpack(await self._reader.readexactly(REPLY.size))
        payload = await self._reader.readexactly(size)
        if error:
            raise ERRORS[error - 1](payload.decode("utf-8", "replace"))
        operation, metadata, data = msgspec.msgpack.decode(payload, type=tuple[str, dict[str, str] | None, bytes])
        return gojson.Request(operation, metadata, data)

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            environ = kept_environment(os.environ, _KEPT_ENVIRONMENT, ("PYTHON",))
            # Popen does not block for long, and asyncio's own subprocesses need a child watcher.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                interpreter.command(
                    "sandboxd.front.decoding.process", str(theirs.fileno()), str(os.getpid()), str(Mode(self._wall))
                ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=interpreter.environment(environ),
                start_new_session=True,
            )
            self._reader, self._writer = await asyncio.open_connection(sock=ours)
        except OSError as error:
            ours.close()
            self._kill()
            raise DecoderLostError(f"the process that decodes bodies cannot be started: {error}") from error
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            # In a thread: the kernel needs a while to free a gigabyte.
            threading.Thread(target=process.wait, name="reap", daemon=True).start()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._kill()
