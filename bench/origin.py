"""An origin for guests that call out: answers every request after a fixed time, from one process.

    python -m bench.origin MILLISECONDS

Prints its port, and ends with its standard input.
"""

import asyncio
import sys

REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


class Answering(asyncio.Protocol):
    """One connection of a client that sends no bodies."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (at := self._held.find(b"\r\n\r\n")) >= 0:
            self._held = self._held[at + 4 :]
            asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, REPLY)


async def serve(delay_s: float) -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(delay_s), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) / 1000))
