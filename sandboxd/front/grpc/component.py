"""`dapr.proto.components.v1.OutputBinding`: sandboxd as a pluggable component under daprd.

Source: dapr pkg/components/bindings/output_pluggable.go and pkg/components/pluggable. One process serves many
components: daprd names the component in each call's header `x-component-instance`.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from sandboxd.front.answering import payload
from sandboxd.front.answering.deciding import OPERATION, unfit
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.http_guest import NO_DATA, response_metadata
from sandboxd.front.answering.outcomes import failure
from sandboxd.front.grpc.invoking import Asked, Invocations
from sandboxd.front.grpc.proto.component_pb2 import (
    InvokeRequest,
    InvokeResponse,
    ListOperationsResponse,
    OutputBindingInitRequest,
)
from sandboxd.front.grpc.server import GrpcConfig, Handlers, Method
from sandboxd.front.grpc.status import UNDECODABLE, GrpcError, Metadata
from sandboxd.front.ports import Bindings, Invoker, Served
from sandboxd.log import fields
from sandboxd.metrics import Metrics
from sandboxd.wire.streams import StdinKind, StdoutKind

log = logging.getLogger("sandboxd.component")

SERVICE: Final = "dapr.proto.components.v1.OutputBinding"
INSTANCE: Final = "x-component-instance"
DAPRD_BYTES: Final = 4 * 1024 * 1024
"""The longest message that daprd takes from a pluggable component: grpc-go's default, which daprd does not change."""
INIT_TIMEOUT_S: Final = 5.0
"""Dapr's default of spec.initTimeout."""
MAX_PROPERTIES_BYTES: Final = 512 * 1024
"""The longest properties of one component, names and values together."""

Initialise = Callable[[str, Mapping[str, str]], Awaitable[str]]
"""Serves a component under its name, with its properties. Returns why it cannot; empty if it can."""


class Component:
    """Answers daprd's calls.

    Parameters:
        invoker: runs guests.
        metrics: where requests are counted.
        initialise: called for each Init.
    """

    def __init__(self, invoker: Invoker, metrics: Metrics, initialise: Initialise) -> None:
        self.bindings = Bindings()
        """The components that are served. Assign another snapshot to change them; running calls keep theirs."""
        self._invocations = Invocations(invoker, metrics)
        self._initialise = initialise

    def __repr__(self) -> str:
        return f"<Component of {len(self.bindings.by_name)} instances>"

    async def init(self, message: bytes, headers: Metadata, began: int, _remaining: float | None) -> bytes:
        """Init: serve an instance. It may come again with other properties.

        Raises:
            GrpcError: the instance cannot be served.
        """
        name = _instance(headers)
        properties = dict(_read(OutputBindingInitRequest, message).metadata.properties)
        if sum(len(key) + len(value) for key, value in properties.items()) > MAX_PROPERTIES_BYTES:
            text = f"the properties are longer than {MAX_PROPERTIES_BYTES} bytes"
            raise GrpcError(grpc.StatusCode.INVALID_ARGUMENT, text)
        fault = await self._initialise(name, properties)
        if fault:
            log.error("daprd's Init failed: %s", fault, extra=fields(event="init_failed", binding=name))
            raise GrpcError(grpc.StatusCode.INVALID_ARGUMENT, fault)
        seconds = (time.monotonic_ns() - began) * 1e-9
        log.info("daprd's Init took %.1f s", seconds, extra=fields(event="init", binding=name))
        if seconds > 0.8 * INIT_TIMEOUT_S:
            log.warning(
                "daprd gives up a component whose Init takes longer than its initTimeout (by default %.0f s); set "
                "spec.initTimeout in its file, as in initTimeout: 60s. The compiled guest is kept for the next start",
                INIT_TIMEOUT_S,
                extra=fields(event="init_slow", binding=name),
            )
        return b""

    async def list_operations(
        self, _message: bytes, _headers: Metadata, _began: int, _remaining: float | None
    ) -> bytes:
        """ListOperations."""
        encoded: bytes = ListOperationsResponse(operations=[OPERATION]).SerializeToString()
        return encoded

    async def ping(self, _message: bytes, _headers: Metadata, _began: int, _remaining: float | None) -> bytes:
        """Ping."""
        return b""

    async def invoke(self, message: bytes, headers: Metadata, began: int, remaining_s: float | None) -> bytes:
        """Invoke: run the guest of an instance.

        Raises:
            GrpcError: the call failed. daprd puts its own words before the message.
            CancelledError: daprd's caller has gone, or its deadline has passed.
        """
        name = _instance(headers)
        request = _read(InvokeRequest, message)
        served = self.bindings.by_name.get(name)
        if served is None:
            text = f"component {name} is not known here; restart daprd, which then sends its properties again"
            raise GrpcError(grpc.StatusCode.FAILED_PRECONDITION, text)
        metadata = dict(request.metadata)
        try:
            data, stdout = _kinds(served, metadata, request.data)
            asked = Asked(name, request.operation, metadata, data, began, remaining_s)
            result, served, span = await self._invocations.run(asked, served, loading=False)
        except Failure as failed:
            raise _error(failed, name) from None
        answer = InvokeResponse(data=payload.reply_of(stdout, result.stdout), content_type=served.binding.content_type)
        if result.http is not None:
            for header, value in response_metadata(result.http):
                key = header.decode("latin-1").removeprefix("metadata.")
                answer.metadata[key] = value.decode("utf-8", "replace")
        encoded: bytes = answer.SerializeToString()
        if len(encoded) > DAPRD_BYTES:
            self._invocations.too_long(asked, served)
            text = (
                f"the reply takes {len(encoded)} bytes, and daprd accepts at most {DAPRD_BYTES} from a pluggable "
                "component; call sandboxd without daprd for longer ones"
            )
            raise GrpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._invocations.completed(asked, served, result, span)
        return encoded

    def handlers(self, config: GrpcConfig, metrics: Metrics) -> Handlers:
        """Return the handlers of the service. Parameters as of `Handlers`."""
        methods: dict[str, Method] = {
            "Init": self.init,
            "Invoke": self.invoke,
            "ListOperations": self.list_operations,
            "Ping": self.ping,
        }
        return Handlers(
            {f"/{SERVICE}/{name}": method for name, method in methods.items()}, lambda headers: headers, config, metrics
        )


def add_reflection(server: Any) -> None:
    """Add reflection, by which daprd finds out what a socket serves. It speaks v1alpha only."""
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server)


def _instance(headers: Metadata) -> str:
    name = next((value for key, value in headers if key == INSTANCE), "")
    if not isinstance(name, str) or not name:
        raise GrpcError(grpc.StatusCode.INVALID_ARGUMENT, f"the call has no header {INSTANCE}; only daprd may call")
    return name


def _read(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except DecodeError:
        raise GrpcError(grpc.StatusCode.INTERNAL, UNDECODABLE) from None


def _kinds(served: Served, metadata: Mapping[str, str], data: bytes) -> tuple[bytes, StdoutKind]:
    """Return the guest's input, and the kind of reply. Raises Failure.

    daprd's HTTP API sends the JSON text of `data`, and its gRPC API any bytes.
    """
    if not served.is_program:
        return (b"" if data == NO_DATA else data), StdoutKind.RAW
    try:
        kind = payload.stdin_kind(metadata, served.binding.stdin)
        stdout = payload.stdout_kind(metadata, served.binding.stdout)
        return (data if kind is StdinKind.JSON else payload.stdin_of(kind, data)), stdout
    except (payload.KindError, payload.DataError) as error:
        raise unfit(error) from None


def _error(failed: Failure, name: str) -> GrpcError:
    """The error of a call, without the words that daprd puts before it."""
    error = GrpcError.of(failed)
    error.message = error.message.removeprefix(failure(name, ""))
    return error
