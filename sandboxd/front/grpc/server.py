"""Serves Dapr's gRPC API with grpcio's asyncio server.

grpcio runs threads of its own, so it is imported and started in the front only, which forks no process that goes on in
Python: workers come from the zygote, which is another program.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc import aio

from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.front.grpc.floods import Floods
from sandboxd.front.grpc.service import SERVICE, Service
from sandboxd.front.grpc.status import GrpcError, Metadata
from sandboxd.front.servers.connections import CallerLimits
from sandboxd.log import fields
from sandboxd.metrics import Metrics

log = logging.getLogger("sandboxd.grpc")

BODY_TIMEOUT: Final = "body_timeout"
SEND_TIMEOUT: Final = "send_timeout"
UNREAD: Final = "unread"
STREAMS: Final = 100
"""The most calls at once on one connection, as in Go's server."""
LARGE_BYTES: Final = 64 * 1024
"""Responses from this size on may have to wait for their reader, and are watched."""
HEADROOM_BYTES: Final = 16 * 1024 * 1024
"""Requests that are longer than allowed by no more than this are read to their end, to be refused in Dapr's words."""
IDLE_MS: Final = 300_000
"""Connections without calls are closed after this time."""
PING_MS: Final = 60_000
"""Connections are asked after this time whether they live, and have a third of it to answer."""
LEAST_PING_MS: Final = 5_000
"""Callers that ping more often are sent GOAWAY ENHANCE_YOUR_CALM."""

Greeting = tuple[tuple[str, str], ...]
Method = Callable[[bytes, Metadata, int, float | None], Awaitable[bytes]]
"""Answers a call: of its message, its headers, the CLOCK_MONOTONIC instant at which it came in nanoseconds, and the
seconds until its deadline, which is None if there is none. It raises GrpcError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpcConfig:
    """Where gRPC is served, and the bounds of its calls."""

    targets: Sequence[str] = ()
    """Addresses as grpcio wants them: host:port, or unix:path."""
    max_message_bytes: int = 4 * 1024 * 1024
    max_header_bytes: int = 16 * 1024
    callers: CallerLimits
    certificate: bytes = b""
    """PEM; empty serves without TLS."""
    key: bytes = b""


class Unread:
    """The responses that callers have not read yet.

    Parameters:
        limits: of callers.
        metrics: counts those that are cut off.
    """

    def __init__(self, limits: CallerLimits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._held = 0
        self._waiting: dict[asyncio.Task[Any], tuple[float, int]] = {}
        """Task of a call -> since when its response is ready, and its size; the oldest first."""

    def __repr__(self) -> str:
        return f"<Unread {self._held} bytes>"

    def watch(self, size: int, context: "aio.ServicerContext[Any, Any]") -> None:
        """Watch a large response until it was taken by grpcio's connection; end the call if that takes too long.

        How much of it was read is not to be learned. So where others need the room, `minRate` counts no more: of those
        that had `sendTimeout`, the oldest are cut off.

        Parameters:
            size: of the response. Bytes.
            context: of the call, whose task this is called in.

        Raises:
            GrpcError: too much is held already.
        """
        loop = asyncio.get_running_loop()
        self._make_room(size, loop.time())
        if self._held + size > self._limits.max_unread_bytes:
            self._metrics.turned_away(UNREAD)
            text = "too many responses wait for callers to read them"
            raise GrpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        task = asyncio.current_task()
        assert task is not None
        graced = self._limits.send_timeout_s
        if self._limits.min_rate:
            graced += size / self._limits.min_rate
        timer = loop.call_later(graced, self._cut, task, SEND_TIMEOUT)
        self._held += size
        self._waiting[task] = (loop.time(), size)

        def done(_: object) -> None:
            timer.cancel()
            self._forget(task)

        context.add_done_callback(done)

    def _make_room(self, size: int, now: float) -> None:
        for task, (since, _) in list(self._waiting.items()):
            if self._held + size <= self._limits.max_unread_bytes or now - since < self._limits.send_timeout_s:
                return
            self._cut(task, UNREAD)

    def _cut(self, task: "asyncio.Task[Any]", reason: str) -> None:
        self._metrics.turned_away(reason)
        self._forget(task)
        task.cancel()

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        _, size = self._waiting.pop(task, (0.0, 0))
        self._held -= size


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the method of a call, and answers it within the bounds.

    Parameters:
        methods: by `/service/method`.
        admit: returns the headers that a method gets, or raises GrpcError.
        config: the bounds.
        metrics: counts callers that are turned away.
        other: the method for every other name, which is its first argument; None leaves them to grpcio.
        greet: returns the initial metadata of the answer, or raises GrpcError.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        admit: Callable[[Metadata], Metadata],
        config: GrpcConfig,
        metrics: Metrics,
        *,
        other: Callable[[str], Method] | None = None,
        greet: Callable[[Metadata], Greeting] = lambda _: (),
    ) -> None:
        self._admit = admit
        self._greet = greet
        self._other = other
        self._max_bytes = config.max_message_bytes
        self._body_timeout_s = config.callers.body_timeout_s
        self.turned_away = metrics.turned_away
        self._unread = Unread(config.callers, metrics)
        self.floods: Floods | None = None
        """Told of every call, where connections are watched."""
        self._methods = {name: self._handler(method) for name, method in methods.items()}

    def service(self, details: Any) -> Any:
        """See grpcio."""
        found = self._methods.get(details.method)
        if found is None and self._other is not None:
            return self._handler(self._other(details.method))
        return found

    def _handler(self, method: Method) -> Any:
        # With one request message, as the method has it, grpcio would wait for it without end.
        async def answer(_requests: object, context: "aio.ServicerContext[Any, Any]") -> bytes:
            began = time.monotonic_ns()
            try:
                headers = self._admit(context.invocation_metadata())
                greeting = self._greet(headers)
                message = await self._read(context)
                reply = await method(message, headers, began, context.time_remaining())
                if len(reply) >= LARGE_BYTES:
                    self._unread.watch(len(reply), context)
                if greeting:
                    await context.send_initial_metadata(greeting)
            except GrpcError as error:
                # Returning would send an empty message before the status, which some clients take for the answer.
                await context.abort(error.code, error.message, error.trailers())
            return reply

        return grpc.stream_unary_rpc_method_handler(answer)

    async def _read(self, context: "aio.ServicerContext[Any, Any]") -> bytes:
        """Return the request's message, and have what it takes of the connection accounted for.

        Raises:
            GrpcError: it did not come, or it is too long.
        """
        if self.floods is None:
            return await self._message(context)
        account = self.floods.began(context.peer())
        began, size = time.monotonic(), None
        try:
            message = await self._message(context)
            size = len(message)
        except GrpcError as error:
            size = 0 if error.code is grpc.StatusCode.INTERNAL else None
            raise
        finally:
            self.floods.ended(account, context.invocation_metadata(), size, time.monotonic() - began)
        return message

    async def _message(self, context: "aio.ServicerContext[Any, Any]") -> bytes:
        """See `_read`."""
        try:
            async with asyncio.timeout(self._body_timeout_s):
                message: bytes = await context.read()
        except TimeoutError:
            self.turned_away(BODY_TIMEOUT)
            raise GrpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "the request's message did not come in time") from None
        if message is aio.EOF:
            raise GrpcError(grpc.StatusCode.INTERNAL, "the call has no request message")
        if len(message) > self._max_bytes:
            text = f"grpc: received message larger than max ({len(message)} vs. {self._max_bytes})"
            raise GrpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        return message


def dapr_handlers(service: Service, config: GrpcConfig, metrics: Metrics) -> Handlers:
    """Return the handlers of Dapr's API. Parameters as of `Handlers`."""

    async def get_metadata(_message: bytes, _headers: Metadata, _began: int, _remaining: float | None) -> bytes:
        return service.get_metadata()

    async def set_metadata(message: bytes, _headers: Metadata, _began: int, _remaining: float | None) -> bytes:
        return service.set_metadata(message)

    def other(name: str) -> Method:
        async def refuse(message: bytes, _headers: Metadata, _began: int, _remaining: float | None) -> bytes:
            service.refuse(name, message)

        return refuse

    def greet(headers: Metadata) -> Greeting:
        baggage = service.baggage(headers)
        return (("baggage", baggage),) if baggage else ()

    methods: dict[str, Method] = {
        SERVICE + "InvokeBinding": service.invoke_binding,
        SERVICE + "GetMetadata": get_metadata,
        SERVICE + "SetMetadata": set_metadata,
    }
    return Handlers(methods, service.authenticate, config, metrics, other=other, greet=greet)


async def serve(
    handlers: Handlers,
    config: GrpcConfig,
    stop: asyncio.Event,
    *,
    drain_s: float = 30.0,
    add: Callable[[Any], None] = lambda _: None,
    accepting: Callable[[], None] = lambda: None,
    released: Callable[[], None] = lambda: None,
) -> None:
    """Serve until `stop` is set, then finish what has begun.

    Parameters:
        handlers: answer the calls.
        config: where, and within which bounds.
        stop: set it to stop accepting and to let calls finish.
        drain_s: how long they may take; what is left then is cancelled. Seconds.
        add: adds other services to grpcio's server.
        accepting: called as soon as connections are accepted.
        released: called as soon as nothing is accepted any more.

    Raises:
        SandboxdError: an address is not available.
    """
    server = aio.server(options=_options(config))
    watching: asyncio.Task[None] | None = None
    server.add_generic_rpc_handlers((handlers,))
    add(server)
    for target in config.targets:
        try:
            if config.certificate:
                pair = grpc.ssl_server_credentials([(config.key, config.certificate)])
                server.add_secure_port(target, pair)
            else:
                server.add_insecure_port(target)
        except RuntimeError as error:
            raise SandboxdError(
                f"cannot listen for gRPC on {target}: {error}",
                remedy="choose another address for gRPC",
                exit_code=ExitCode.LISTEN,
            ) from error
    await server.start()
    port = next((int(target.rpartition(":")[2]) for target in config.targets if not target.startswith("unix:")), 0)
    if port:
        handlers.floods = Floods(port, config.max_message_bytes + HEADROOM_BYTES, STREAMS, handlers.turned_away)
        watching = asyncio.create_task(handlers.floods.watch(), name="grpc-floods")
    grace_s = 0.0
    try:
        accepting()
        log.info("serving gRPC", extra=fields(event="serving_grpc", address=", ".join(config.targets)))
        await stop.wait()
        grace_s = drain_s
    finally:
        ending = asyncio.ensure_future(server.stop(grace_s))
        released()
        await ending
        if watching is not None:
            watching.cancel()
        for target in config.targets:
            if target.startswith("unix:"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(target.removeprefix("unix:"))


def _options(config: GrpcConfig) -> list[tuple[str, int]]:
    callers = config.callers
    # A single process has one descriptor per connection, as over HTTP.
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes + HEADROOM_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", config.max_header_bytes),
        ("grpc.absolute_max_metadata_size", config.max_header_bytes),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.max_allowed_incoming_connections", callers.max_connections),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.server_handshake_timeout_ms", int(callers.head_timeout_s * 1000)),
        ("grpc.keepalive_time_ms", PING_MS),
        ("grpc.keepalive_timeout_ms", PING_MS // 3),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_MS),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", LEAST_PING_MS),
        ("grpc.so_reuseport", 1),
    ]


def add_health(service: Service, server: Any) -> None:
    """Add grpc.health.v1 and reflection to grpcio's server."""
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
        """Tells whether bindings can be called."""

        async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - grpcio's name
            if request.service not in ("", SERVICE.strip("/")):
                await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
            ready = not service.not_ready()
            status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
            return health_pb2.HealthCheckResponse(status=status)

    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    names = (SERVICE.strip("/"), health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
