"""`dapr.proto.runtime.v1.Dapr`: what a call is answered. Nothing here reads, writes or waits.

Source: dapr pkg/api/grpc/grpc.go and its golden recordings in tests/golden/daprd-1.18.2/grpc.jsonl.
"""

import hmac
import time
from collections.abc import Mapping
from functools import partial
from typing import Final, NoReturn

from google.protobuf.message import DecodeError

from sandboxd.front.answering.attributes import TOO_MANY, Attributes
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.http_guest import response_metadata
from sandboxd.front.answering.tracing import baggage_fault
from sandboxd.front.grpc.calls import Abandon, Admitted, Call, Method, Methods, at_once
from sandboxd.front.grpc.health import SERVICE as HEALTH
from sandboxd.front.grpc.health import health
from sandboxd.front.grpc.invoking import Asked, Invocation, Invocations
from sandboxd.front.grpc.proto.runtime_pb2 import (
    GetMetadataResponse,
    InvokeBindingRequest,
    InvokeBindingResponse,
    RegisteredComponents,
    SetMetadataRequest,
    StoreRequest,
)
from sandboxd.front.grpc.reflection import reflection
from sandboxd.front.grpc.status import UNDECODABLE, Code, GrpcError, Metadata
from sandboxd.front.ports import Bindings, FrontSettings, Health, Invoker
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Result

SERVICE: Final = "/dapr.proto.runtime.v1.Dapr/"
DEBUG: Final = "sandboxd-debug"
"""The header by which a caller asks for what Dapr's errors have no place for."""
TOKEN: Final = "dapr-api-token"  # noqa: S105 - the name, not the token
_NOT_OURS: Final = "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata"
_NOT_DAPRS: Final = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
_STORES: Final = {
    "Secret": ("secret store is not configured", "ERR_SECRET_STORES_NOT_CONFIGURED"),
    "Lock": ("lock store is not configured", "ERR_LOCK_STORE_NOT_CONFIGURED"),
}
_STATE: Final = frozenset(
    ("GetState", "GetBulkState", "SaveState", "QueryStateAlpha1", "DeleteState", "DeleteBulkState",
     "ExecuteStateTransaction")
)  # fmt: skip
_OTHERS: Final = frozenset(("GetSecret", "GetBulkSecret", "TryLockAlpha1", "UnlockAlpha1"))
_KNOWN_ELSEWHERE: Final = frozenset(
    ("InvokeService", "PublishEvent", "BulkPublishEventAlpha1", "SubscribeTopicEventsAlpha1", "RegisterActorTimer",
     "UnregisterActorTimer", "RegisterActorReminder", "UnregisterActorReminder", "GetActorState",
     "ExecuteActorStateTransaction", "InvokeActor", "GetConfigurationAlpha1", "GetConfiguration",
     "SubscribeConfigurationAlpha1", "SubscribeConfiguration", "UnsubscribeConfigurationAlpha1",
     "UnsubscribeConfiguration", "EncryptAlpha1", "DecryptAlpha1", "StartWorkflowAlpha1", "GetWorkflowAlpha1",
     "PurgeWorkflowAlpha1", "TerminateWorkflowAlpha1", "PauseWorkflowAlpha1", "ResumeWorkflowAlpha1",
     "RaiseEventWorkflowAlpha1", "StartWorkflowBeta1", "GetWorkflowBeta1", "PurgeWorkflowBeta1",
     "TerminateWorkflowBeta1", "PauseWorkflowBeta1", "ResumeWorkflowBeta1", "RaiseEventWorkflowBeta1", "Shutdown",
     "ScheduleJobAlpha1", "GetJobAlpha1", "DeleteJobAlpha1", "ConverseAlpha1", "ConverseAlpha2")
)  # fmt: skip
"""The methods of Dapr's service that sandboxd has no part of."""


class Service:
    """Answers the methods of Dapr's API.

    Parameters:
        settings: limits of requests.
        invoker: runs guests.
        metrics: where requests are counted.
        health: tells what GetMetadata shows beside the attributes.
        attributes: those that SetMetadata sets.
    """

    def __init__(
        self, settings: FrontSettings, invoker: Invoker, metrics: Metrics, health: Health, attributes: Attributes
    ) -> None:
        self.bindings = Bindings()
        """The bindings that are served. Assign another snapshot to change them; running requests keep theirs."""
        self._settings = settings
        self._invocations = Invocations(invoker, metrics)
        self._unnamed = metrics.binding("")
        self._health = health
        self._attributes = attributes
        self._token = settings.api_token.encode() if settings.api_token else None
        self._max_bytes = settings.max_body_bytes

    def __repr__(self) -> str:
        return f"<Service of {len(self.bindings.by_name)} bindings>"

    def authenticate(self, headers: Metadata) -> Metadata:
        """Return the headers without the token.

        Parameters:
            headers: of the call. Of several tokens the first counts.

        Raises:
            GrpcError: the token is missing or wrong.
        """
        if self._token is None:
            return headers
        given = next((value for name, value in headers if name == TOKEN), None)
        if given is None:
            why = "missing api token in request metadata"
        elif hmac.compare_digest(given.encode() if isinstance(given, str) else given, self._token):
            return tuple(header for header in headers if header[0] != TOKEN)
        else:
            why = "authentication error: api token mismatch"
        self._unnamed.ended_grpc(Outcome.UNAUTHORIZED, 0.0)
        raise GrpcError(
            Code.UNAUTHENTICATED,
            "Unauthorized",
            reason="Unauthorized",
            metadata={"http.code": "401", "http.error_message": why},
        )

    def baggage(self, headers: Metadata) -> str:
        """Return the baggage that is answered; empty for none.

        Raises:
            GrpcError: it is malformed.
        """
        found = [value for name, value in headers if name == "baggage" and isinstance(value, str) and value]
        if not found:
            return ""
        text = ",".join(found)
        fault = baggage_fault(text)
        if fault:
            self._unnamed.ended_grpc(Outcome.BAD_REQUEST, 0.0)
            raise GrpcError(Code.INVALID_ARGUMENT, f"invalid baggage header: {fault}")
        return text

    def admit(self, headers: Metadata) -> Admitted:
        """Return what a method gets of a call's headers.

        Raises:
            GrpcError: the call is refused for them.
        """
        headers = self.authenticate(headers)
        baggage = self.baggage(headers)
        return Admitted(headers, (("baggage", baggage),) if baggage else ())

    def methods(self, *, tools: bool = False) -> Methods:
        """Return the methods of Dapr's API.

        Parameters:
            tools: serve health checks and reflection, too, which daprd does not have.
        """
        others: Mapping[str, Method] = {}
        if tools:
            served = (SERVICE.strip("/"), HEALTH)
            others = {**health(lambda: not self._health.not_ready(), served[:1]), **reflection(served)}
        found = {
            SERVICE + "InvokeBinding": Method(begin=self.invoke_binding),
            SERVICE + "GetMetadata": at_once(lambda _: self.get_metadata()),
            SERVICE + "SetMetadata": at_once(lambda call: self.set_metadata(call.message)),
        }
        return Methods(
            {**found, **others}, self.admit, other=lambda name: at_once(lambda call: self.refuse(name, call.message))
        )

    def invoke_binding(self, call: Call) -> Abandon | None:
        """InvokeBinding. Answers the call, or returns what gives it up.

        Raises:
            GrpcError: the request cannot be read.
        """
        try:
            request = InvokeBindingRequest.FromString(call.message)
        except DecodeError:
            self._unnamed.ended_grpc(Outcome.BAD_REQUEST, (time.monotonic_ns() - call.began_ns) * 1e-9)
            raise GrpcError(Code.INTERNAL, UNDECODABLE) from None
        if request.metadata:
            metadata = dict(request.metadata)
            for key, value in call.admitted.texts.items():
                metadata.setdefault(key, value)
        else:
            metadata = call.admitted.texts.copy()
        name = request.name
        asked = Asked(name, request.operation, metadata, request.data, call.began_ns, call.remaining_s)
        bindings = self.bindings
        served = bindings.by_name.get(name)
        ended = partial(call.guarded, self._ended)
        return self._invocations.begin(asked, served, ended, loading=bindings.loading).abandon

    def _ended(self, call: Call, invocation: Invocation, found: Result | Failure) -> None:
        """Answer an invocation. See `Invocations.begin`. Raises GrpcError."""
        if isinstance(found, Failure):
            raise GrpcError.of(found, debug=DEBUG in call.admitted.texts)
        answer = InvokeBindingResponse(data=found.stdout)
        if found.http is not None:
            for header, text_bytes in response_metadata(found.http):
                key = header.decode("latin-1").removeprefix("metadata.")
                answer.metadata[key] = text_bytes.decode("utf-8", "replace")
        encoded: bytes = answer.SerializeToString()
        if len(encoded) > self._max_bytes:
            invocation.too_long()
            text = f"grpc: trying to send message larger than max ({len(encoded)} vs. {self._max_bytes})"
            raise GrpcError(Code.RESOURCE_EXHAUSTED, text)
        invocation.completed(found)
        call.answer(encoded)

    def get_metadata(self) -> bytes:
        """GetMetadata. Return the encoded response."""
        version = self._settings.version
        answer = GetMetadataResponse(
            id=self._settings.app_id,
            registered_components=[
                *(
                    RegisteredComponents(name=found.name, type=found.type, version=found.version)
                    for found in self.bindings.listed
                ),
                *(
                    RegisteredComponents(
                        name=served.binding.name,
                        type="bindings.wasm",
                        version=served.binding.version,
                        capabilities=["OUTPUT_BINDING"],
                    )
                    for served in self.bindings.by_name.values()
                ),
            ],
            extended_metadata={
                **self._attributes.values,
                "daprRuntimeVersion": version,
                **self._health.remarks(),
            },
            runtime_version=version,
        )
        encoded: bytes = answer.SerializeToString()
        return encoded

    def set_metadata(self, message: bytes) -> bytes:
        """SetMetadata. Return the encoded response, which is empty.

        Raises:
            GrpcError: it cannot be read, or there is no room.
        """
        request = SetMetadataRequest()
        try:
            request.ParseFromString(message)
        except DecodeError:
            raise GrpcError(Code.INTERNAL, UNDECODABLE) from None
        if not self._attributes.set(request.key, request.value):
            raise GrpcError(Code.RESOURCE_EXHAUSTED, TOO_MANY, reason="ERR_METADATA_LIMIT")
        return b""

    def refuse(self, method: str, message: bytes) -> NoReturn:
        """Answer a method that is not served.

        Parameters:
            method: `/service/method`.
            message: the encoded request.

        Raises:
            GrpcError: as daprd, which takes unknown methods for calls to another application. Methods of building
                blocks that daprd has and sandboxd has not are UNIMPLEMENTED.
        """
        if not method.startswith(SERVICE):
            raise GrpcError(Code.UNKNOWN, _NOT_OURS)
        name = method[len(SERVICE) :]
        if name in _STATE:
            request = StoreRequest()
            try:
                request.ParseFromString(message)
            except DecodeError:
                raise GrpcError(Code.INTERNAL, UNDECODABLE) from None
            text = f"state store {request.store_name} is not configured"
            raise GrpcError(Code.FAILED_PRECONDITION, text, reason="DAPR_STATE_NOT_CONFIGURED")
        if name in _OTHERS:
            text, reason = next(found for word, found in _STORES.items() if word in name or word == "Lock")
            raise GrpcError(Code.FAILED_PRECONDITION, text, reason=reason)
        if name in _KNOWN_ELSEWHERE:
            text = f"sandboxd serves output bindings only; {name} needs a daprd"
            raise GrpcError(Code.UNIMPLEMENTED, text)
        raise GrpcError(Code.UNKNOWN, _NOT_DAPRS)
