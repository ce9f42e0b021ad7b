"""HTTP origins on the loopback that serve modules by a script, and the store and `fetch` for tests of downloads."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from sandboxd.modules import source
from sandboxd.modules.download import Downloader, FetchSettings
from sandboxd.modules.source import Fetched
from sandboxd.modules.store import Store

GUEST = b"\0asm\x01\0\0\0" + bytes(range(256)) * 40
QUICK = FetchSettings(
    max_bytes=100_000,
    connect_timeout_s=30,
    read_timeout_s=30,
    total_timeout_s=60,
    backoff_s=0.001,
    backoff_max_s=0.002,
    revalidate_timeout_s=30,
)
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def reply(status: int = 200, body: bytes = GUEST, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Connection: close"]
    fields = {"Content_Length": str(len(body)), **headers}
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Origin:
    """Answers each request with the next of its script; the last one repeats. Records the heads it was sent."""

    def __init__(self, *script: bytes | Answer) -> None:
        self.script = list(script)
        self.heads: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # the client left, or the test is over


@contextlib.asynccontextmanager
async def origin(*script: bytes | Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    it = Origin(*script)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, ssl=tls)
    it.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/my-guest.wasm"
    try:
        yield it
    finally:
        server.close()
        for task in it.tasks:
            task.cancel()
        await asyncio.gather(*it.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn


async def fetch(url: str, store: Store, *, settings: FetchSettings = QUICK, **options: Any) -> Fetched:
    async with Downloader(settings, tls=options.pop("tls", None)) as downloader:
        options.setdefault("pin", None)
        return await source.fetch(url, store=store, downloader=downloader, settings=settings, **options)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)
