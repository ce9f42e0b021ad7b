"""Every call recorded from daprd 1.18.2 over gRPC against the running server."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sandboxd.front.grpc.proto import runtime_pb2
from tests.grpc_calls import UNLIMITED, Answer, call, invoke
from tests.guests import path
from tests.running import RunningServer, component, write_components

GOLDEN = Path(__file__).parents[1] / "golden" / "daprd-1.18.2" / "grpc.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_bytes().splitlines()]
PLAIN = [case for case in CASES if not case["case"].startswith("token: ")]
TOKEN = [case for case in CASES if case["case"].startswith("token: ")]
NAMES = {"echo": "multi", "multi": "multi", "a b": "multi", "é": "multi", "args": "args", "loop": "loop"}
TRACE = re.compile(r"\nwasm stack trace:(\n\t[^\n]*\.[^\n]*\([^\n]*\)[^\n]*)+")
"""daprd's form of a trace: a line for each frame, of module, function and types."""
BIG_ARGS = "dump," + "x" * 1_000_000


def served(folder: Path, **environ: str) -> Iterator[grpc.Channel]:
    """A server with the recording's bindings, on a Unix socket."""
    documents = [component(name, f"file://{path(guest)}", argsLimit="2Mi") for name, guest in NAMES.items()]
    # Dapr's example.wasm, which is built with TinyGo, traps where it has no argument.
    shutil.copy(path("trap"), folder / "example.wasm")
    documents.append(component("example", f"file://{folder / 'example.wasm'}"))
    resources = write_components(folder / "resources", documents)
    where = folder / "grpc.sock"
    options = ("--workers", "2", "--app-id", "wasm", "--grpc-unix-socket", str(where))
    environ = {"SANDBOXD_LIMITS_CEILINGS_ARGS_LIMIT": "2Mi", **environ}
    with (
        RunningServer(resources, *options, environ=environ) as running,
        grpc.insecure_channel(f"unix:{where}", options=UNLIMITED) as channel,
    ):
        running.wait_for(lambda line: line.get("event") == "serving_grpc")
        yield channel


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    yield from served(tmp_path_factory.mktemp("grpc"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    yield from served(tmp_path_factory.mktemp("guarded"), DAPR_API_TOKEN="sesame")


def recorded(case: dict[str, Any], channel: grpc.Channel) -> Answer:
    """Make a recorded call."""
    request = case["request"]
    if case["method"] != "InvokeBinding":
        return call(channel, case["method"], base64.b64decode(request["message_b64"]))
    data = base64.b64decode(request["data_b64"]) if "data_b64" in request else b"x" * request["data_bytes"]
    metadata = dict(request["metadata"])
    if "...(" in metadata.get("args", ""):
        metadata["args"] = BIG_ARGS
    headers = [(key, base64.b64decode(text) if key.endswith("-bin") else text) for key, text in request["headers"]]
    headers = [(key, "a" * 10_000 if case["case"] == "header of 10 KB" and key == "x-big" else v) for key, v in headers]
    options: dict[str, Any] = {}
    if case["case"] == "gzip request":
        options["compression"] = grpc.Compression.Gzip
    if case["case"] == "deadline passes in a loop":
        options["timeout"] = 0.5
    return invoke(channel, request["name"], data, metadata, headers, request["operation"], **options)


def same_message(found: str, wanted: str) -> None:
    """Compare messages: a trap's number and trace by their form."""
    head, trace, _ = wanted.partition("\nwasm stack trace:")
    number = re.compile(r"\[([^]]*)-\d+\]")
    assert number.sub(r"[\1-N]", found.partition("\nwasm stack trace:")[0]) == number.sub(r"[\1-N]", head)
    if trace and "\n" in found:
        assert TRACE.search(found), found


@pytest.mark.parametrize("case", PLAIN, ids=[case["case"] for case in PLAIN])
def test_recorded_call(channel: grpc.Channel, case: dict[str, Any]) -> None:
    answer = recorded(case, channel)
    wanted = case["response"]
    assert answer.code == wanted["code"], answer
    assert answer.initial == [tuple(pair) for pair in wanted["initial_metadata"]]
    assert answer.trailing == [tuple(pair) for pair in wanted["trailing_metadata"]]
    if wanted["code"] != "OK":
        same_message(answer.message, wanted["message"])
        # The ends of a guest's output, which Dapr does not tell, are beside Dapr's details.
        assert [found for found in answer.details if not found["@type"].endswith(".DebugInfo")] == wanted["details"]
    elif case["method"].endswith("/GetMetadata"):
        ours = runtime_pb2.GetMetadataResponse.FromString(answer.body)
        theirs = runtime_pb2.GetMetadataResponse.FromString(base64.b64decode(wanted["message_b64"]))
        shown = {found.name: found for found in ours.registered_components}
        assert ours.id == theirs.id
        assert [shown[found.name] for found in theirs.registered_components if found.name in NAMES]
        assert all(shown[found.name] == found for found in theirs.registered_components if found.name in shown)
        assert {"daprRuntimeVersion"} <= set(ours.extended_metadata)
        assert ours.runtime_version
    elif "message_b64" in wanted:
        assert answer.body == base64.b64decode(wanted["message_b64"])
    elif case["request"]["name"] == "args":
        # Dapr's guest ends no line; ours ends every one.
        assert answer.data == base64.b64decode(wanted["data_b64"]) + b"\n"
    else:
        assert len(answer.data) == wanted["data_bytes"]
        if "data_b64" in wanted:
            assert answer.data == base64.b64decode(wanted["data_b64"])
        elif wanted["data_sha"] != case["request"].get("data_sha"):
            assert hashlib.sha256(answer.data).hexdigest() == wanted["data_sha"]


@pytest.mark.parametrize("case", TOKEN, ids=[f"{case['method']} {case['case']}" for case in TOKEN])
def test_recorded_token(guarded: grpc.Channel, case: dict[str, Any]) -> None:
    headers = [tuple(header) for header in case["request"]["headers"]]
    if case["method"] == "InvokeBinding":
        answer = invoke(guarded, "multi", b"x", {"args": "dump"}, headers)
    else:
        answer = call(guarded, case["method"], b"", headers)
    wanted = case["response"]
    assert answer.code == wanted["code"]
    assert answer.initial == []
    assert answer.trailing == []
    if wanted["code"] == "OK":
        if "data_b64" in wanted:
            assert answer.data == base64.b64decode(wanted["data_b64"])
    else:
        assert answer.message == wanted["message"]
        assert answer.details == wanted["details"]
