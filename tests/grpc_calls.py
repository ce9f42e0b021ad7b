"""Calls over gRPC as any client makes them: bytes in, bytes out, with everything that came beside."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from sandboxd.front.grpc.proto import runtime_pb2, status_pb2

DAPR = "/dapr.proto.runtime.v1.Dapr/"
STATUS = "grpc-status-details-bin"
Headers = Sequence[tuple[str, str | bytes]]
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass
class Answer:
    """The answer to a call."""

    code: str
    message: str = ""
    body: bytes = b""
    details: list[dict[str, Any]] = field(default_factory=list)
    initial: list[tuple[str, str]] = field(default_factory=list)
    trailing: list[tuple[str, str]] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        """The guest's output, for an InvokeBinding."""
        return bytes(runtime_pb2.InvokeBindingResponse.FromString(self.body).data)


def call(channel: grpc.Channel, method: str, message: bytes, headers: Headers = (), **options: Any) -> Answer:
    """Make one call and wait for its end, at most a minute."""
    made = channel.unary_unary(method if "/" in method else DAPR + method)
    try:
        body, ended = made.with_call(message, metadata=list(headers), **{"timeout": 60, **options})
    except grpc.RpcError as error:
        ended = error
        body = b""
    initial = [(k, v) for k, v in ended.initial_metadata() or () if not k.startswith(("grpc-", "content-"))]
    trailers = list(ended.trailing_metadata() or ())
    packed = next((value for key, value in trailers if key == STATUS), None)
    return Answer(
        ended.code().name,
        ended.details() or "",
        body,
        [] if packed is None else _details(packed),
        initial,
        [(k, v) for k, v in trailers if k != STATUS],
    )


def _details(packed: bytes) -> list[dict[str, Any]]:
    out = []
    for detail in status_pb2.Status.FromString(packed).details:
        kind = detail.type_url.rpartition(".")[2]
        message = getattr(status_pb2, kind).FromString(detail.value)
        shown: dict[str, Any] = {"@type": detail.type_url}
        if kind == "ErrorInfo":
            shown |= {"reason": message.reason, "domain": message.domain}
            if message.metadata:
                shown["metadata"] = dict(message.metadata)
        elif kind == "DebugInfo":
            shown["detail"] = message.detail
        else:
            shown["seconds"] = message.retry_delay.seconds
        out.append(shown)
    return out


def invoke(
    channel: grpc.Channel,
    name: str,
    data: bytes = b"",
    metadata: Mapping[str, str] | None = None,
    headers: Headers = (),
    operation: str = "execute",
    **options: Any,
) -> Answer:
    """InvokeBinding."""
    request = runtime_pb2.InvokeBindingRequest(name=name, data=data, metadata=metadata or {}, operation=operation)
    return call(channel, "InvokeBinding", request.SerializeToString(), headers, **options)


def held_port() -> socket.socket:
    """A socket that holds a free loopback port for `--grpc-fd`: bound, not listening."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    held.set_inheritable(True)
    return held
