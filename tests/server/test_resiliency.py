"""Resiliency policies with real guests, over HTTP on both HTTP servers and over gRPC.

The answers are daprd's: tests/golden/daprd-1.18.2/resiliency.jsonl. tests/unit/test_resiliency.py plays every case.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.conftest import ENGINES, guest_component
from tests.dapr.resiliency_cases import shown
from tests.grpc_calls import UNLIMITED, invoke
from tests.running import RunningServer, write_components

TRAPPED = "error invoking output binding {0}: module[multi-{1}] function[_start] failed: wasm error: unreachable"


def resource(*, retries: int = 3) -> str:
    """Retries for `retried` and `retried-too`, a breaker for `broken` and `broken-too`, a timeout for `loop`."""
    policies = {
        "timeouts": {"short": "150ms"},
        "retries": {"again": {"duration": "1ms", "maxRetries": retries}},
        "circuitBreakers": {"breaker": {"trip": "consecutiveFailures >= 2", "timeout": "1h"}},
    }
    kinds = {"retried": "retry", "broken": "circuitBreaker"}
    names = {"retry": "again", "circuitBreaker": "breaker"}
    targets = {
        f"{name}{suffix}": {"outbound": {kind: names[kind]}} for name, kind in kinds.items() for suffix in ("", "-too")
    }
    targets["loop"] = {"outbound": {"timeout": "short"}}
    document = {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Resiliency",
        "metadata": {"name": "all"},
        "spec": {"policies": policies, "targets": {"components": targets}},
    }
    return json.dumps(document)


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("resiliency")
    names = ("retried", "retried-too", "broken", "broken-too", "plain")
    write_components(folder / "r", [*(guest_component(name, "multi") for name in names), guest_component("loop")])
    (folder / "r" / "resiliency.yaml").write_text(resource())
    socket = folder / "s"
    options = ("--engine", request.param, "--workers", "1", "--grpc-unix-socket", str(socket))
    with RunningServer(folder / "r", *options) as running:
        running.wait_for(lambda line: line.get("event") == "serving_grpc")
        running.socket = socket  # type: ignore[attr-defined]
        running.folder = folder / "r"  # type: ignore[attr-defined]
        yield running


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{server.socket}", options=UNLIMITED) as found:  # type: ignore[attr-defined]
        yield found


def message(server: RunningServer, name: str, args: str) -> str:
    answer = server.invoke(name, metadata={"args": args})
    return "ok" if answer.status_code == 200 else shown(f"{answer.status_code} {answer.json()['message']}")


def message_grpc(channel: grpc.Channel, name: str, args: str) -> str:
    answer = invoke(channel, name, b"", {"args": args})
    return "ok" if answer.code == "OK" else shown(f"{answer.code} {answer.message}")


def test_retries(server: RunningServer) -> None:
    assert message(server, "retried", "trap") == "500 " + TRAPPED.format("retried", 4)
    assert message(server, "retried", "trap") == "500 " + TRAPPED.format("retried", 8)
    assert message(server, "retried", "empty") == "ok"
    assert message(server, "plain", "trap") == "500 " + TRAPPED.format("plain", 1)
    assert server.metric("sandboxd_resiliency_retries_total", binding="retried") == 6
    assert server.metric("sandboxd_requests_total", binding="retried", outcome="trapped") == 2
    assert server.metric("sandboxd_guest_duration_seconds_count", binding="retried") == 9
    line = server.wait_for(lambda line: line.get("event") == "retry")
    assert line["message"] == "Error processing operation component[retried] output. Retrying in 1ms…"
    assert line["binding"] == "retried"


def test_a_breaker(server: RunningServer) -> None:
    assert message(server, "broken", "trap") == "500 " + TRAPPED.format("broken", 1)
    assert message(server, "broken", "trap") == "500 " + TRAPPED.format("broken", 2)
    answer = server.invoke("broken", metadata={"args": "empty"})
    assert answer.status_code == 500
    assert answer.json() == {
        "errorCode": "ERR_INVOKE_OUTPUT_BINDING",
        "message": "error invoking output binding broken: circuit breaker is open",
    }
    assert server.metric("sandboxd_circuit_breaker_state", binding="broken") == 2
    assert server.metric("sandboxd_circuit_breaker_state", binding="broken-too") < 2
    assert server.metric("sandboxd_requests_total", binding="broken", outcome="circuit_open") == 1
    line = server.wait_for(lambda line: line.get("event") == "circuit_breaker" and line["binding"] == "broken")
    assert line["message"] == 'Circuit breaker "breaker-broken" changed state from closed to open'


def test_a_timeout(server: RunningServer, channel: grpc.Channel) -> None:
    answer = server.invoke("loop")
    assert answer.status_code == 500
    assert answer.json()["message"] == "error invoking output binding loop: context deadline exceeded"
    assert "the timeout of its resiliency policy is 150ms" in answer.json()["detail"]
    over_grpc = invoke(channel, "loop")
    assert over_grpc.code == "INTERNAL"
    assert over_grpc.message == "error invoking output binding loop: context deadline exceeded"
    assert [detail["reason"] for detail in over_grpc.details] == ["ERR_INVOKE_OUTPUT_BINDING"]
    assert server.metric("sandboxd_resiliency_timeouts_total", binding="loop") == 2
    # It is not the binding's own limit, so that nobody raises that.
    assert server.metric("sandboxd_limits_reached_total", binding="loop", limit="timeout") == 0


def test_over_grpc(server: RunningServer, channel: grpc.Channel) -> None:
    assert message_grpc(channel, "retried-too", "trap") == "INTERNAL " + TRAPPED.format("retried-too", 4)
    assert message_grpc(channel, "retried-too", "empty") == "ok"
    for number in (1, 2):
        assert message_grpc(channel, "broken-too", "trap") == "INTERNAL " + TRAPPED.format("broken-too", number)
    refused = invoke(channel, "broken-too", b"", {"args": "empty"})
    assert (refused.code, refused.message) == (
        "INTERNAL",
        "error invoking output binding broken-too: circuit breaker is open",
    )
    assert [detail["reason"] for detail in refused.details] == ["ERR_INVOKE_OUTPUT_BINDING"]


@pytest.mark.slow  # two reloads, each noticed within a second
def test_a_reload_takes_new_policies_and_refuses_broken_ones(server: RunningServer) -> None:
    file: Path = server.folder / "resiliency.yaml"  # type: ignore[attr-defined]
    seen = len(server.lines)
    file.write_text(resource(retries=0))
    server.wait_for(lambda line: line.get("event") == "reloaded", since=seen)
    before = server.metric("sandboxd_resiliency_retries_total", binding="retried")
    assert message(server, "retried", "exit,3") == (
        "500 error invoking output binding retried: module closed with exit_code(3)"
    )
    assert server.metric("sandboxd_resiliency_retries_total", binding="retried") == before
    # The breaker is as it was.
    assert message(server, "broken", "empty") == "500 error invoking output binding broken: circuit breaker is open"
    seen = len(server.lines)
    file.write_text(resource().replace('"1ms"', '"soon"'))
    failed = server.wait_for(lambda line: line.get("event") == "reload_failed", since=seen)
    assert "Could not read resiliency policy: invalid retry 'again': duration 'soon' is not" in failed["message"]
    assert message(server, "retried", "empty") == "ok"
