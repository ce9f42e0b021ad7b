"""What does HTTP/2 cost for a call, in the codec of the gRPC server and in hyper-h2? Processor time, without sockets.

Each gets the frames of the same calls, as grpcio's client sends them once its table is filled, and answers each with
its message. The service does nothing.

    python -m bench.grpc_codec [CALLS]
"""

import asyncio
import sys
import time
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.events
from hpack import Encoder

from sandboxd.front.grpc import frames as f
from tests.unit.grpc_peer import GRPC, Peer

BEGIN = f.PREFACE + f.settings([(f.INITIAL_WINDOW_SIZE, 1 << 22)]) + f.window_update(0, 1 << 30)
MESSAGE = b"\0\0\0\0\x20" + b"x" * 32


def calls(count: int) -> list[bytes]:
    """The frames of each call."""
    encoder = Encoder()
    streams = range(1, 2 * count, 2)
    return [f.frame(f.HEADERS, 4, one, encoder.encode(GRPC)) + f.frame(f.DATA, 1, one, MESSAGE) for one in streams]


async def ours(chunks: Iterable[bytes]) -> float:
    """Seconds of processor time."""
    peer = Peer(greets=False)
    peer.connection.data_received(BEGIN)
    written = []
    peer.transport.write = lambda data: written.append(len(data))  # type: ignore[method-assign,func-returns-value]
    began = time.process_time()
    for chunk in chunks:
        peer.connection.data_received(chunk)
    passed = time.process_time() - began
    assert len(written) >= len(list(chunks))
    return passed


def theirs(chunks: Iterable[bytes]) -> float:
    """Seconds of processor time."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    server.initiate_connection()
    server.receive_data(BEGIN)
    began = time.process_time()
    for chunk in chunks:
        data = b""
        for event in server.receive_data(chunk):
            if isinstance(event, h2.events.DataReceived):
                server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                data += event.data
            elif isinstance(event, h2.events.StreamEnded):
                head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
                server.send_headers(event.stream_id, head)
                server.send_data(event.stream_id, data)
                server.send_headers(event.stream_id, [(b"grpc-status", b"0")], end_stream=True)
        server.data_to_send()
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    chunks = calls(count)
    for _ in range(3):
        print(f"ours {asyncio.run(ours(chunks)) / count * 1e6:.1f} us, h2 {theirs(chunks) / count * 1e6:.1f} us")


if __name__ == "__main__":
    main()
