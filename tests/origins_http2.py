"""The scripted origin over HTTP/2. Its API is told in tests/origins.py."""

import socket

import h2.config
import h2.connection
import h2.events

from tests.listeners import Listener, Seen, pattern


class Http2Origin(Listener):
    """HTTP/2 over TLS (give a context whose ALPN offers h2)."""

    def serve(self, sock: socket.socket) -> None:
        """Answer streams as they complete."""
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        streams: dict[int, Seen] = {}
        waiting: dict[int, bytes] = {}
        while data := sock.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    fields = [(bytes(n), bytes(v)) for n, v in event.headers or ()]
                    pseudo = dict(fields)
                    seen = Seen(
                        pseudo[b":method"].decode(),
                        pseudo[b":path"].decode(),
                        [(b"host", pseudo[b":authority"]), *((n, v) for n, v in fields if not n.startswith(b":"))],
                    )
                    streams[event.stream_id] = seen
                    self.seen.append(seen)
                elif isinstance(event, h2.events.DataReceived):
                    streams[event.stream_id].body += event.data or b""
                    connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                elif isinstance(event, h2.events.TrailersReceived):
                    streams[event.stream_id].trailers = [(bytes(n), bytes(v)) for n, v in event.headers or ()]
                elif isinstance(event, h2.events.StreamEnded):
                    self._answer(connection, event.stream_id, streams[event.stream_id], waiting)
                elif isinstance(event, h2.events.StreamReset):
                    waiting.pop(event.stream_id, None)
            for stream_id in list(waiting):
                self._pump(connection, stream_id, waiting)
            sock.sendall(connection.data_to_send())
            if any(seen.target == "/goaway" for seen in streams.values()):
                return

    def _answer(
        self, connection: h2.connection.H2Connection, stream_id: int, seen: Seen, waiting: dict[int, bytes]
    ) -> None:
        name, _, argument = seen.target.partition("?")[0].strip("/").partition("/")
        if name == "reset":
            connection.send_headers(stream_id, [(":status", "200")])
            connection.send_data(stream_id, b"0123456789")
            connection.reset_stream(stream_id, 2)
        elif name == "goaway":
            connection.close_connection(last_stream_id=0)
        elif name == "trailers":
            connection.send_headers(stream_id, [(":status", "200")])
            connection.send_data(stream_id, b"body")
            connection.send_headers(stream_id, [("x-checksum", "abc")], end_stream=True)
        else:
            if name == "hold":
                self.released.wait(60)
            body = pattern(int(argument)) if name == "bytes" else seen.body
            connection.send_headers(stream_id, [(":status", "200"), ("x-method", seen.method)])
            waiting[stream_id] = body

    @staticmethod
    def _pump(connection: h2.connection.H2Connection, stream_id: int, waiting: dict[int, bytes]) -> None:
        while stream_id in waiting:
            body = waiting[stream_id]
            if not body:
                connection.end_stream(stream_id)
                del waiting[stream_id]
                return
            window = min(connection.local_flow_control_window(stream_id), connection.max_outbound_frame_size)
            if window <= 0:
                return
            connection.send_data(stream_id, body[:window])
            waiting[stream_id] = body[window:]
