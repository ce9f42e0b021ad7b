"""Rows of the error table, each caused by a real guest or a real request."""

import re
from typing import Any

import pytest

from tests.running import RunningServer

INVOKE = "ERR_INVOKE_OUTPUT_BINDING"


def answer(server: RunningServer, binding: str, body: Any) -> tuple[int, dict[str, Any]]:
    with server.client() as client:
        reply = client.post(f"/v1.0/bindings/{binding}", json=body)
        assert reply.headers["content-type"] == "application/json"
        return reply.status_code, reply.json()


@pytest.mark.parametrize(
    ("binding", "args", "reason"),
    [
        ("exit", "7", "module closed with exit_code(7)"),
        ("exit", "255", "module closed with exit_code(255)"),
        ("trap", "", "module[trap-N] function[_start] failed: wasm error: unreachable"),
        ("trap", "memory", "module[trap-N] function[_start] failed: wasm error: out of bounds memory access"),
    ],
)
def test_guests_that_fail(server: RunningServer, binding: str, args: str, reason: str) -> None:
    status, body = answer(server, binding, {"operation": "execute", "metadata": {"args": args}})
    assert status == 500
    assert body["errorCode"] == INVOKE
    prefix, _, rest = body["message"].partition(": ")
    assert prefix == f"error invoking output binding {binding}"
    if rest.startswith("module["):
        guest, _, end = rest.removeprefix("module[").partition("]")
        name, _, number = guest.rpartition("-")
        assert name == binding
        assert number.isdecimal()
        rest = f"module[{name}-N]{end}"
    rest, mark, trace = rest.partition("\nwasm stack trace:")
    assert rest == reason
    # As Dapr tells it: a function a line, by module and name.
    assert not mark or re.fullmatch(r"(\n\t[^\n]*\.[^\n]*\([^\n]*\))+", trace), trace
    assert bool(mark) == (binding == "trap")


@pytest.mark.parametrize(
    ("binding", "body", "status", "code", "message"),
    [
        ("echo", [], 400, "ERR_MALFORMED_REQUEST", None),
        ("echo", {}, 500, INVOKE, "echo: operation field is missing from request"),
        ("nope", {"operation": "execute"}, 500, INVOKE, "nope: couldn't find output binding nope"),
        (
            "echo",
            {"operation": "get"},
            500,
            INVOKE,
            "echo: binding echo does not support operation get. supported operations:execute",
        ),
        (
            "echo",
            {"operation": "execute", "metadata": {"args": "a\0"}},
            500,
            INVOKE,
            "echo: args invalid: contains NUL character",
        ),
    ],
)
def test_requests_that_fail(
    server: RunningServer, binding: str, body: Any, status: int, code: str, message: str | None
) -> None:
    got_status, got = answer(server, binding, body)
    assert (got_status, got["errorCode"]) == (status, code)
    if message is None:
        message = (
            "failed deserializing HTTP body: json: cannot unmarshal array into Go value of type"
            " http.OutputBindingRequest"
        )
        assert got["message"] == message
    else:
        assert got["message"] == f"error invoking output binding {message}"


def test_environment_and_trace_reach_the_guest(server: RunningServer) -> None:
    with server.client() as client:
        reply = client.post(
            "/v1.0/bindings/env",
            json={"operation": "execute", "metadata": {"env.A": "x=y", "env.B": ""}},
            headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "v=1", "baggage": "k=v"},
        )
    lines = set(reply.text.splitlines())
    assert {"A=x=y", "B=", "TRACESTATE=v=1", "BAGGAGE=k=v", f"TRACEPARENT={reply.headers['traceparent']}"} == lines
    assert reply.headers["traceparent"].startswith(f"00-{'1' * 32}-")


def test_argv_with_commas(server: RunningServer) -> None:
    reply = server.invoke("args", metadata={"argv": '["a,b", ""]'})
    assert reply.text.splitlines() == ["args", "a,b", ""]


def test_every_run_is_in_the_metrics(server: RunningServer) -> None:
    def runs(text: str, name: str) -> float:
        return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    with server.client() as client:
        name = 'sandboxd_requests_total{binding="tiny",outcome="completed"'
        before = client.get("/metrics").text
        for _ in range(3):
            assert server.invoke("tiny", "x").status_code == 200
        after = client.get("/metrics").text
    assert runs(after, name) == runs(before, name) + 3
    guest = 'sandboxd_guest_duration_seconds_sum{binding="tiny"}'
    assert runs(after, guest) > runs(before, guest)
    assert runs(after, 'sandboxd_pool_busy_seconds_total{pool="default"}') > 0
    assert runs(after, 'sandboxd_guest_memory_peak_bytes_sum{binding="tiny"}') >= 65536
