"""`grpc.reflection.v1alpha.ServerReflection`: what is served, for daprd, which speaks this version only, and for tools.

Source: gRPC's server-reflection.md.
"""

from collections.abc import Mapping
from typing import Final

from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from sandboxd.front.grpc.calls import Call, Method
from sandboxd.front.grpc.proto.reflection_pb2 import (
    ErrorResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from sandboxd.front.grpc.status import UNDECODABLE, Code, GrpcError

SERVICE: Final = "grpc.reflection.v1alpha.ServerReflection"


def reflection(services: tuple[str, ...]) -> Mapping[str, Method]:
    """Return the method of the service, which may be called without a token.

    Parameters:
        services: their full names. The messages of all are in the files of `sandboxd.front.grpc.proto`.
    """
    names = sorted((*services, SERVICE))

    def begin(_call: Call) -> None:
        raise GrpcError(Code.INTERNAL, "a stream of messages was expected")

    def each(message: bytes) -> bytes:
        try:
            request = ServerReflectionRequest.FromString(message)
        except DecodeError:
            raise GrpcError(Code.INTERNAL, UNDECODABLE) from None
        answer = ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            listed = ListServiceResponse(service=[ServiceResponse(name=name) for name in names])
            answer.list_services_response.CopyFrom(listed)
        elif kind == "file_by_filename":
            _file(answer, request.file_by_filename, by_name=True)
        elif kind == "file_containing_symbol":
            _file(answer, request.file_containing_symbol, by_name=False)
        elif kind is None:
            answer.error_response.CopyFrom(_error(Code.INVALID_ARGUMENT, "nothing is asked for"))
        else:
            answer.error_response.CopyFrom(_error(Code.NOT_FOUND, "there are no extensions"))
        encoded: bytes = answer.SerializeToString()
        return encoded

    return {f"/{SERVICE}/ServerReflectionInfo": Method(begin=begin, each=each, open=True)}


def _file(answer: ServerReflectionResponse, name: str, *, by_name: bool) -> None:
    """Put the file of a name into the answer, or that there is none. None of ours imports another."""
    pool = descriptor_pool.Default()
    try:
        found = pool.FindFileByName(name) if by_name else pool.FindFileContainingSymbol(name)
    except KeyError:
        answer.error_response.CopyFrom(_error(Code.NOT_FOUND, "there is no such file or symbol"))
        return
    answer.file_descriptor_response.CopyFrom(FileDescriptorResponse(file_descriptor_proto=[found.serialized_pb]))


def _error(code: Code, text: str) -> ErrorResponse:
    return ErrorResponse(error_code=code, error_message=text)
