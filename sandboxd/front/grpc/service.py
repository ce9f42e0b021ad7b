"""`dapr.proto.runtime.v1.Dapr`: what a call is answered. Nothing here depends on a server.

Source: dapr pkg/api/grpc/grpc.go and its golden recordings in tests/golden/daprd-1.18.2/grpc.jsonl.
"""

import hmac
import time
from typing import Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from sandboxd.front.answering.attributes import TOO_MANY, Attributes
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.http_guest import response_metadata
from sandboxd.front.answering.tracing import baggage_fault
from sandboxd.front.grpc.invoking import Asked, Invocations
from sandboxd.front.grpc.proto.runtime_pb2 import (
    GetMetadataResponse,
    InvokeBindingRequest,
    InvokeBindingResponse,
    RegisteredComponents,
    SetMetadataRequest,
    StoreRequest,
)
from sandboxd.front.grpc.status import UNDECODABLE, GrpcError, Metadata
from sandboxd.front.ports import Bindings, FrontSettings, Health, Invoker
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome

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
            grpc.StatusCode.UNAUTHENTICATED,
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
            raise GrpcError(grpc.StatusCode.INVALID_ARGUMENT, f"invalid baggage header: {fault}")
        return text

    async def invoke_binding(self, message: bytes, headers: Metadata, began: int, remaining_s: float | None) -> bytes:
        """InvokeBinding.

        Parameters:
            message: the encoded request.
            headers: of the call, without the token.
            began: CLOCK_MONOTONIC instant at which the call came.
            remaining_s: seconds until the caller's deadline; None for no deadline.

        Returns:
            the encoded response.

        Raises:
            GrpcError: the call failed.
            CancelledError: the caller has gone, or its deadline has passed.
        """
        request = InvokeBindingRequest()
        try:
            request.ParseFromString(message)
        except DecodeError:
            self._unnamed.ended_grpc(Outcome.BAD_REQUEST, (time.monotonic_ns() - began) * 1e-9)
            raise GrpcError(grpc.StatusCode.INTERNAL, UNDECODABLE) from None
        metadata = dict(request.metadata)
        for key, value in headers:
            if isinstance(value, str):
                metadata.setdefault(key, value)
        served = self.bindings.by_name.get(request.name)
        asked = Asked(request.name, request.operation, metadata, request.data, began, remaining_s)
        try:
            result, served, span = await self._invocations.run(asked, served, loading=self.bindings.loading)
        except Failure as failed:
            raise GrpcError.of(failed, debug=any(key == DEBUG for key, _ in headers)) from None
        answer = InvokeBindingResponse(data=result.stdout)
        if result.http is not None:
            for header, text_bytes in response_metadata(result.http):
                key = header.decode("latin-1").removeprefix("metadata.")
                answer.metadata[key] = text_bytes.decode("utf-8", "replace")
        encoded: bytes = answer.SerializeToString()
        if len(encoded) > self._max_bytes:
            self._invocations.too_long(asked, served)
            text = f"grpc: trying to send message larger than max ({len(encoded)} vs. {self._max_bytes})"
            raise GrpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._invocations.completed(asked, served, result, span)
        return encoded

    def not_ready(self) -> list[str]:
        """Return what the server still waits for; empty when it is ready."""
        return self._health.not_ready()

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
            raise GrpcError(grpc.StatusCode.INTERNAL, UNDECODABLE) from None
        if not self._attributes.set(request.key, request.value):
            raise GrpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MANY, reason="ERR_METADATA_LIMIT")
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
            raise GrpcError(grpc.StatusCode.UNKNOWN, _NOT_OURS)
        name = method[len(SERVICE) :]
        if name in _STATE:
            request = StoreRequest()
            try:
                request.ParseFromString(message)
            except DecodeError:
                raise GrpcError(grpc.StatusCode.INTERNAL, UNDECODABLE) from None
            text = f"state store {request.store_name} is not configured"
            raise GrpcError(grpc.StatusCode.FAILED_PRECONDITION, text, reason="DAPR_STATE_NOT_CONFIGURED")
        if name in _OTHERS:
            text, reason = next(found for word, found in _STORES.items() if word in name or word == "Lock")
            raise GrpcError(grpc.StatusCode.FAILED_PRECONDITION, text, reason=reason)
        if name in _KNOWN_ELSEWHERE:
            text = f"sandboxd serves output bindings only; {name} needs a daprd"
            raise GrpcError(grpc.StatusCode.UNIMPLEMENTED, text)
        raise GrpcError(grpc.StatusCode.UNKNOWN, _NOT_DAPRS)
