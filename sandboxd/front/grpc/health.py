"""`grpc.health.v1.Health`: whether bindings can be called."""

from collections.abc import Callable, Mapping
from typing import Final

from google.protobuf.message import DecodeError

from sandboxd.front.grpc.calls import Call, Method, at_once
from sandboxd.front.grpc.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from sandboxd.front.grpc.status import UNDECODABLE, Code, GrpcError

SERVICE: Final = "grpc.health.v1.Health"


def health(ready: Callable[[], bool], services: tuple[str, ...]) -> Mapping[str, Method]:
    """Return the methods of the service, which may be called without a token.

    Parameters:
        ready: returns whether bindings can be called.
        services: the names that may be asked for beside the empty one.
    """

    def check(call: Call) -> bytes:
        try:
            request = HealthCheckRequest.FromString(call.message)
        except DecodeError:
            raise GrpcError(Code.INTERNAL, UNDECODABLE) from None
        if request.service and request.service not in services:
            raise GrpcError(Code.NOT_FOUND, "unknown service")
        status = HealthCheckResponse.SERVING if ready() else HealthCheckResponse.NOT_SERVING
        encoded: bytes = HealthCheckResponse(status=status).SerializeToString()
        return encoded

    def not_served(_call: Call) -> bytes:
        raise GrpcError(Code.UNIMPLEMENTED, "only Check is served")

    begin = {"Check": at_once(check), "Watch": at_once(not_served), "List": at_once(not_served)}
    return {f"/{SERVICE}/{name}": Method(begin=method.begin, open=True) for name, method in begin.items()}
