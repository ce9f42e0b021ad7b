"""Calls the binding `multi` with Dapr's Python SDK. Prints one JSON object of answers."""

import json
import os

import grpc
from dapr.clients import DaprClient

out = {}
with DaprClient(max_grpc_message_length=8 << 20) as client:
    client.wait(20)
    out["ready"] = True

    def call(data, **metadata):
        return client.invoke_binding("multi", "execute", data, metadata)

    out["bytes"] = call(b"\xff\x00hello").data.hex()
    out["text"] = call("text").text()
    out["object"] = call(json.dumps({"a": 1})).json()
    out["metadata"] = call(b"x", args="dump,a").text()
    out["large"] = len(call(b"x" * (3 << 20)).data)
    try:
        call(b"", args="exit,3")
    except grpc.RpcError as error:
        out["error"] = error.details()
    out["id"] = client.get_metadata().application_id
    client.set_metadata("sdk", "python")
os.environ["DAPR_API_TOKEN"] = "wrong"
from dapr.conf import settings  # noqa: E402

settings.DAPR_API_TOKEN = "wrong"
with DaprClient() as client:
    try:
        client.invoke_binding("multi", "execute", b"")
    except grpc.RpcError as error:
        out["token"] = error.details()
print(json.dumps(out))
