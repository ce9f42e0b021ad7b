"""`dapr.proto.components.v1.OutputBinding`: sandboxd as a pluggable component under daprd.

Source: dapr pkg/components/bindings/output_pluggable.go and pkg/components/pluggable. One process serves many
components: daprd names the component in each call's header `x-component-instance`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from google.protobuf.message import DecodeError

from sandboxd.front.answering import payload
from sandboxd.front.answering.deciding import OPERATION, unfit
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.http_guest import NO_DATA, response_metadata
from sandboxd.front.answering.outcomes import failure
from sandboxd.front.grpc.calls import Abandon, Admitted, Call, Method, Methods, at_once
from sandboxd.front.grpc.invoking import Asked, Invocation, Invocations
from sandboxd.front.grpc.proto.component_pb2 import (
    InvokeRequest,
    InvokeResponse,
    ListOperationsResponse,
    OutputBindingInitRequest,
)
from sandboxd.front.grpc.reflection import reflection
from sandboxd.front.grpc.status import UNDECODABLE, Code, GrpcError, Metadata
from sandboxd.front.ports import Bindings, Invoker, Served
from sandboxd.log import fields
from sandboxd.metrics import Metrics
from sandboxd.wire.messages import Result
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
        self._inits: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Component of {len(self.bindings.by_name)} instances>"

    def init(self, call: Call) -> Abandon:
        """Init: serve an instance, in a task. It may come again with other properties."""

        message = call.message

        async def initialise() -> None:
            try:
                call.answer(await self._init(message, call.headers, call.began_ns))
            except GrpcError as error:
                call.fail(error)
            except Exception:  # noqa: BLE001 - a bug, which is logged there
                call.broke()

        task = asyncio.get_running_loop().create_task(initialise(), name="init")
        self._inits.add(task)
        task.add_done_callback(self._inits.discard)

        def abandon() -> None:
            task.cancel()

        return abandon

    async def _init(self, message: bytes, headers: Metadata, began: int) -> bytes:
        """Serve an instance.

        Raises:
            GrpcError: the instance cannot be served.
        """
        name = _instance(headers)
        properties = dict(_read(OutputBindingInitRequest, message).metadata.properties)
        if sum(len(key) + len(value) for key, value in properties.items()) > MAX_PROPERTIES_BYTES:
            text = f"the properties are longer than {MAX_PROPERTIES_BYTES} bytes"
            raise GrpcError(Code.INVALID_ARGUMENT, text)
        fault = await self._initialise(name, properties)
        if fault:
            log.error("daprd's Init failed: %s", fault, extra=fields(event="init_failed", binding=name))
            raise GrpcError(Code.INVALID_ARGUMENT, fault)
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

    def invoke(self, call: Call) -> Abandon | None:
        """Invoke: run the guest of an instance. Answers the call, or returns what gives it up.

        Raises:
            GrpcError: the call failed. daprd puts its own words before the message.
        """
        name = _instance(call.headers)
        request = _read(InvokeRequest, call.message)
        served = self.bindings.by_name.get(name)
        if served is None:
            text = f"component {name} is not known here; restart daprd, which then sends its properties again"
            raise GrpcError(Code.FAILED_PRECONDITION, text)
        metadata = dict(request.metadata)
        try:
            data, stdout = _kinds(served, metadata, request.data)
        except Failure as failed:
            raise _error(failed, name) from None
        asked = Asked(name, request.operation, metadata, data, call.began_ns, call.remaining_s)
        return self._invocations.begin(asked, served, partial(call.guarded, self._ended, stdout)).abandon

    def _ended(self, call: Call, stdout: StdoutKind, invocation: Invocation, found: Result | Failure) -> None:
        """Answer an invocation. See `Invocations.begin`. Raises GrpcError."""
        if isinstance(found, Failure):
            raise _error(found, invocation.asked.name)
        assert invocation.served is not None
        kind = invocation.served.binding.content_type
        answer = InvokeResponse(data=payload.reply_of(stdout, found.stdout), content_type=kind)
        if found.http is not None:
            for header, value in response_metadata(found.http):
                key = header.decode("latin-1").removeprefix("metadata.")
                answer.metadata[key] = value.decode("utf-8", "replace")
        encoded: bytes = answer.SerializeToString()
        if len(encoded) > DAPRD_BYTES:
            invocation.too_long()
            text = (
                f"the reply takes {len(encoded)} bytes, and daprd accepts at most {DAPRD_BYTES} from a pluggable "
                "component; call sandboxd without daprd for longer ones"
            )
            raise GrpcError(Code.RESOURCE_EXHAUSTED, text)
        invocation.completed(found)
        call.answer(encoded)

    def methods(self) -> Methods:
        """Return the methods of the service, and reflection, by which daprd finds out what a socket serves."""
        operations = ListOperationsResponse(operations=[OPERATION]).SerializeToString()
        found = {
            "Init": Method(begin=self.init),
            "Invoke": Method(begin=self.invoke),
            "ListOperations": at_once(lambda _: operations),
            "Ping": at_once(lambda _: b""),
        }
        return Methods(
            {**{f"/{SERVICE}/{name}": method for name, method in found.items()}, **reflection((SERVICE,))}, Admitted
        )


def _instance(headers: Metadata) -> str:
    name = next((value for key, value in headers if key == INSTANCE), "")
    if not isinstance(name, str) or not name:
        raise GrpcError(Code.INVALID_ARGUMENT, f"the call has no header {INSTANCE}; only daprd may call")
    return name


def _read(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except DecodeError:
        raise GrpcError(Code.INTERNAL, UNDECODABLE) from None


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
