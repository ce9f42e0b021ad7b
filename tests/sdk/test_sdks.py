"""What each of Dapr's SDKs gets: its start-up probes, bytes, text, objects, metadata, an error, the API token."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.conftest import guest_component
from tests.grpc_calls import held_port
from tests.guests import ToolMissingError, skip_or_fail
from tests.running import RunningServer, write_components
from tests.sdk import installed

# Minutes when an SDK is installed for the first time, and seconds of starting its runtime later.
pytestmark = [pytest.mark.slow, pytest.mark.build]

ARGUMENTS = "arg 5:multi\narg 4:dump\narg 1:a\n"
FAILED = "error invoking output binding multi: module closed with exit_code(3)"
LARGE = 3 << 20


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The variables by which SDKs find a server."""
    folder = write_components(tmp_path_factory.mktemp("resources"), [guest_component("multi")])
    with held_port() as held:
        options = ("--workers", "1", "--app-id", "orders", "--grpc-fd", str(held.fileno()))
        token = {"DAPR_API_TOKEN": "sesame"}
        with RunningServer(folder, *options, environ=token, pass_fds=(held.fileno(),)) as server:
            server.wait_for(lambda line: line.get("event") == "serving_grpc")
            yield {
                **os.environ,
                **token,
                "DAPR_HTTP_PORT": str(server.port),
                "DAPR_GRPC_PORT": str(held.getsockname()[1]),
                "DAPR_RUNTIME_HOST": "127.0.0.1",
                "DAPR_SIDECAR_IP": "127.0.0.1",
            }


def answers(command: list[str], variables: Mapping[str, str]) -> dict[str, Any]:
    """Run a program and return what it printed last."""
    done = subprocess.run(command, env=dict(variables), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["ready"] is True
    assert found["object"] == {"a": 1}
    assert FAILED in found["error"]
    assert found["large"] == LARGE
    assert found["id"] == "orders"
    return found


def test_python(variables: Mapping[str, str]) -> None:
    try:
        command = installed.python_sdk()
    except ToolMissingError as missing:
        skip_or_fail(missing)
    found = answers(command, variables)
    assert found["bytes"] == b"\xff\x00hello".hex()
    assert found["text"] == "text"
    assert found["metadata"] == ARGUMENTS + "x"
    assert found["token"] == "Unauthorized"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_javascript(variables: Mapping[str, str], protocol: str) -> None:
    try:
        command, more = installed.js_sdk(protocol)
    except ToolMissingError as missing:
        skip_or_fail(missing)
    found = answers(command, {**variables, **more})
    # Over HTTP `data` is JSON for the guest, too; over gRPC the SDK sends a text as it is.
    assert found["text"] == "text"
    assert found["metadata"] == ARGUMENTS + ('"x"' if protocol == "http" else "x")
    assert found["set"] is True
    # With a wrong token this SDK waits for a sidecar; that it has got here is the proof of the right one.
    assert found["health"] is True


def test_go(variables: Mapping[str, str]) -> None:
    try:
        command = installed.go_sdk()
    except ToolMissingError as missing:
        skip_or_fail(missing)
    found = answers(command, variables)
    assert found["bytes"] == b"\xff\x00hello".hex()
    assert found["text"] == "text"
    assert found["metadata"] == ARGUMENTS + "x"
    assert "code = Unauthenticated desc = Unauthorized" in found["token"]


def test_java(variables: Mapping[str, str]) -> None:
    try:
        command = installed.java_sdk()
    except ToolMissingError as missing:
        skip_or_fail(missing)
    found = answers(command, variables)
    assert found["bytes"] == b"\xff\x00hello".hex()
    assert found["text"] == "text"
    assert found["metadata"] == ARGUMENTS + "x"
    assert "UNAUTHENTICATED" in found["token"]
