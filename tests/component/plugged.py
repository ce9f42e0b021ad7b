"""`sandboxd component` as a process, and calls as daprd makes them (facts of dapr 1.18: pkg/components/pluggable)."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc

from sandboxd.front.grpc.proto import component_pb2
from sandboxd.front.grpc.proto.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from tests.grpc_calls import UNLIMITED, Answer, call
from tests.running import RunningServer

SERVICE = "dapr.proto.components.v1.OutputBinding"


class Plugged(RunningServer):
    """`sandboxd component`, whose socket is there.

    Parameters:
        folder: holds the folders of sockets and of properties.
        options: further command-line options.
        name: of the socket.
        environ: variables on top of the test's own.
    """

    def __init__(
        self, folder: Path, *options: str, name: str = "wasm", environ: Mapping[str, str] | None = None
    ) -> None:
        self.sockets = folder / "sockets"
        self.socket = self.sockets / f"{name}.sock"
        options = ("--sockets-folder", str(self.sockets), "--state-folder", str(folder / "state"), *options)
        if name != "wasm":
            options += ("--name", name)
        super().__init__(
            None, "--workers", "1", *options, environ=environ, command="component", bind=True, ready="serving_grpc"
        )

    @contextlib.contextmanager
    def dialled(self) -> Iterator[grpc.Channel]:
        """A channel to the socket. daprd waits for the connection, too."""
        with grpc.insecure_channel(f"unix:{self.socket}", options=UNLIMITED) as channel:
            yield channel


def discovered(channel: grpc.Channel) -> list[str]:
    """The services that reflection lists."""
    method = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    asked = ServerReflectionRequest(list_services="*").SerializeToString()
    answer = ServerReflectionResponse.FromString(next(iter(method(iter([asked]), timeout=60))))
    return [found.name for found in answer.list_services_response.service]


def init(channel: grpc.Channel, instance: str, **properties: str) -> Answer:
    """Init."""
    request = component_pb2.OutputBindingInitRequest(metadata=component_pb2.MetadataRequest(properties=properties))
    return asked(channel, "Init", request.SerializeToString(), instance)


def invoke(
    channel: grpc.Channel,
    instance: str,
    data: bytes = b"null",
    metadata: Mapping[str, str] | None = None,
    operation: str = "execute",
    timeout: float = 60,
) -> Answer:
    """Invoke. The data are those of the reply."""
    request = component_pb2.InvokeRequest(data=data, metadata=metadata or {}, operation=operation)
    answer = asked(channel, "Invoke", request.SerializeToString(), instance, timeout)
    answer.body = component_pb2.InvokeResponse.FromString(answer.body).data
    return answer


def asked(channel: grpc.Channel, method: str, message: bytes, instance: str, timeout: float = 60) -> Answer:
    """Any call, for an instance."""
    headers = (("x-component-instance", instance),)
    return call(channel, f"/{SERVICE}/{method}", message, headers, timeout=timeout)
