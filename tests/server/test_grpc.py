"""The gRPC API beyond what was recorded: who ends a guest, limits, metrics, slow callers, ports, sockets, cells."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx2 as httpx
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from sandboxd.front.grpc.proto import reflection_pb2, runtime_pb2
from tests.certificates import Authority
from tests.conftest import guest_component
from tests.grpc_calls import DAPR, UNLIMITED, Answer, call, held_port, invoke
from tests.process.tree import until
from tests.running import RunningServer, listening_socket, write_components

GUESTS = ("multi", "loop", "env", "stderr", "upper")


class Served:
    """A server, its gRPC port and a channel."""

    def __init__(self, server: RunningServer, port: int, channel: grpc.Channel) -> None:
        self.server = server
        self.port = port
        self.channel = channel


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = write_components(tmp_path_factory.mktemp("resources"), [guest_component(name) for name in GUESTS])
    environ = {
        "SANDBOXD_POOL_QUEUE_LIMIT": "0",
        "SANDBOXD_LISTEN_BODY_TIMEOUT": "3s",
        "SANDBOXD_LISTEN_GRPC_HEALTH": "true",
        "SANDBOXD_METRICS_DAPR_COMPATIBILITY": "true",
    }
    with held_port() as held:
        port = held.getsockname()[1]
        # The server of this test inherits one socket more than RunningServer passes.
        server = RunningServer(
            folder, "--workers", "1", "--grpc-fd", str(held.fileno()), environ=environ, pass_fds=(held.fileno(),)
        )
        with server, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            server.wait_for(lambda line: line.get("event") == "serving_grpc")
            yield Served(server, port, channel)


def requests(served: Served, binding: str, outcome: str) -> float:
    return served.server.metric("sandboxd_requests_total", binding=binding, protocol="grpc", outcome=outcome)


def test_a_deadline_ends_the_guest(served: Served) -> None:
    assert invoke(served.channel, "loop", timeout=0.3).code == "DEADLINE_EXCEEDED"
    # The only worker is free again, long before the binding's own deadline.
    until(lambda: invoke(served.channel, "multi", b"x").code == "OK", "a free worker")


def test_cancelling_ends_the_guest(served: Served) -> None:
    before = requests(served, "loop", "cancelled")
    request = runtime_pb2.InvokeBindingRequest(name="loop", operation="execute").SerializeToString()
    since = len(served.server.lines)
    # Nobody waits in the queue: while the worker of a former test is replaced, the call would be refused.
    until(lambda: served.server.metric("sandboxd_pool_workers", state="idle") == 1, "a free worker")
    future = served.channel.unary_unary(DAPR + "InvokeBinding").future(request)
    until(lambda: served.server.metric("sandboxd_pool_workers", state="busy") == 1, "a running guest")
    # Nobody waits in the queue: a second call is refused, with a time to try again.
    refused = invoke(served.channel, "multi", b"x")
    assert refused.code == "UNAVAILABLE"
    assert [detail["@type"].rpartition(".")[2] for detail in refused.details] == ["ErrorInfo", "RetryInfo"]
    assert refused.details[0]["reason"] == "ERR_NO_WORKER"
    future.cancel()
    until(lambda: requests(served, "loop", "cancelled") > before, "a count of the cancelled call")
    until(lambda: invoke(served.channel, "multi", b"x").code == "OK", "a free worker")
    assert not [line for line in served.server.lines[since:] if line.get("level") == "error"]


def test_the_end_of_stderr_is_a_detail_for_those_who_ask(served: Served) -> None:
    failed = invoke(served.channel, "multi", metadata={"args": "err,3"}, headers=[("sandboxd-debug", "1")])
    assert failed.code == "INTERNAL"
    assert failed.message == "error invoking output binding multi: module closed with exit_code(3)"
    assert failed.details[1] == {"@type": "type.googleapis.com/google.rpc.DebugInfo", "detail": "stderr: to stderr"}


def test_an_error_is_a_status_and_no_message(served: Served) -> None:
    """Dapr's Java SDK takes any message for the answer."""
    request = runtime_pb2.InvokeBindingRequest(name="nope", operation="execute").SerializeToString()
    messages = []
    with pytest.raises(grpc.RpcError) as error:
        messages.extend(served.channel.unary_stream(DAPR + "InvokeBinding")(request, timeout=60))
    assert error.value.code().name == "INTERNAL"
    assert messages == []


def test_a_program_hears_of_the_callers_trace_only(served: Served) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = [("traceparent", f"00-{trace}-b7ad6b7169203331-01"), ("tracestate", "a=b")]
    told = invoke(served.channel, "env", headers=headers).data.decode()
    assert f"TRACEPARENT=00-{trace}-" in told
    assert "TRACESTATE=a=b" in told
    assert "TRACE" not in invoke(served.channel, "env", headers=[("tracestate", "a=b")]).data.decode()


def test_requests_that_cannot_be(served: Served) -> None:
    answer = invoke(served.channel, "multi", metadata={"argv": "no list"})
    assert (answer.code, answer.details[0]["reason"]) == ("INVALID_ARGUMENT", "ERR_MALFORMED_REQUEST")
    many = {str(n): "" for n in range(5000)}
    assert invoke(served.channel, "multi", metadata=many).code == "INVALID_ARGUMENT"
    assert call(served.channel, "GetSecret", b"").message == "secret store is not configured"
    assert call(served.channel, "PublishEvent", b"").code == "UNIMPLEMENTED"
    request = runtime_pb2.SetMetadataRequest(key="k" * 5000, value="v").SerializeToString()
    assert call(served.channel, "SetMetadata", request).code == "RESOURCE_EXHAUSTED"


def test_headers_beyond_the_limit_are_refused(served: Served) -> None:
    answer = invoke(served.channel, "multi", headers=[("x", "a" * 20_000)])
    assert answer.code == "RESOURCE_EXHAUSTED"


def test_attributes_are_those_of_http(served: Served) -> None:
    request = runtime_pb2.SetMetadataRequest(key="who", value="grpc").SerializeToString()
    assert call(served.channel, "SetMetadata", request).code == "OK"
    with served.server.client() as client:
        assert client.get("/v1.0/metadata").json()["extended"]["who"] == "grpc"
        assert client.put("/v1.0/metadata/who", content=b"http").status_code == 204
    found = runtime_pb2.GetMetadataResponse.FromString(call(served.channel, "GetMetadata", b"").body)
    assert found.extended_metadata["who"] == "http"


def test_a_message_that_does_not_come_is_not_waited_for(served: Served) -> None:
    def turned_away() -> float:
        return served.server.metric("sandboxd_callers_turned_away_total", reason="body_timeout")

    before, released = turned_away(), threading.Event()

    def never() -> Iterator[bytes]:
        released.wait(120)
        yield from ()

    with pytest.raises(grpc.RpcError) as error:
        served.channel.stream_unary(DAPR + "InvokeBinding")(never(), timeout=60)
    released.set()
    assert error.value.code().name == "DEADLINE_EXCEEDED"
    assert error.value.details() == "the request's message did not come in time"
    until(lambda: turned_away() == before + 1, "it is counted")


def test_counts_and_logs(served: Served) -> None:
    before = requests(served, "upper", "completed")
    dapr = served.server.metric("dapr_component_output_binding_count_total", component="upper", success="true")
    assert invoke(served.channel, "upper", b"abc").data == b"ABC"
    assert requests(served, "upper", "completed") == before + 1
    after = served.server.metric("dapr_component_output_binding_count_total", component="upper", success="true")
    assert after == dapr + 1
    since = len(served.server.lines)
    failed = invoke(served.channel, "multi", metadata={"args": "exit,9"})
    assert failed.code == "INTERNAL"
    line = served.server.wait_for(lambda line: line.get("message") == "request failed", since=since)
    assert (line["binding"], line["status"], line["outcome"]) == ("multi", "INTERNAL", "exit_nonzero")


def test_health_and_reflection_where_they_are_asked_for(served: Served) -> None:
    health = call(served.channel, "/grpc.health.v1.Health/Check", b"")
    assert (health.code, health.body) == ("OK", b"\x08\x01")  # HealthCheckResponse{status: SERVING}


def test_reflection_tells_what_is_served(served: Served) -> None:
    method = served.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services="*"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="dapr.proto.runtime.v1.Dapr"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="nowhere.proto"),
    ]
    given = iter(method(iter([request.SerializeToString() for request in asked]), timeout=60))
    answers = [reflection_pb2.ServerReflectionResponse.FromString(answer) for answer in given]
    assert [found.name for found in answers[0].list_services_response.service] == [
        "dapr.proto.runtime.v1.Dapr",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    file = FileDescriptorProto.FromString(answers[1].file_descriptor_response.file_descriptor_proto[0])
    assert [method.name for method in file.service[0].method] == ["InvokeBinding", "GetMetadata", "SetMetadata"]
    assert answers[2].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    folder = write_components(tmp_path / "resources", [guest_component("multi")])
    environ = {"SANDBOXD_ENGINE_TLS_CERTIFICATE": str(certificate), "SANDBOXD_ENGINE_TLS_KEY": str(key)}
    with held_port() as held:
        port, option = held.getsockname()[1], ("--grpc-fd", str(held.fileno()))
        server = RunningServer(
            folder, "--workers", "1", *option, environ=environ, pass_fds=(held.fileno(),), wait=False
        )
        with server:
            server.wait_for(lambda line: line.get("event") == "serving_grpc")
            trusted = grpc.ssl_channel_credentials(authority.ca_file.read_bytes())
            with grpc.secure_channel(f"localhost:{port}", trusted, options=UNLIMITED) as channel:
                large = b"x" * 3_000_000
                assert invoke(channel, "multi", large, wait_for_ready=True).data == large
            with socket.create_connection(("127.0.0.1", port), 60) as plain:
                plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                while plain.recv(1000):
                    pass  # at most an alert of TLS
            assert server.terminate() == 0


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    folder = write_components(tmp_path, [guest_component("multi")])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "sandboxd", "serve", "--resources-path", str(folder), "--port", "0"]
        done = subprocess.run(
            [*command, "--grpc-port", str(port)],
            env={**os.environ, "SANDBOXD_LOGGING_FORMAT": "text", "SANDBOXD_CELLS": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 66
    assert f"cannot listen for gRPC on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "--grpc-port" in done.stderr


@pytest.mark.slow
def test_a_process_that_replaces_another_waits_for_the_port(tmp_path: Path) -> None:
    """Both have the HTTP socket; the second serves gRPC as soon as the first has left the port."""
    folder = write_components(tmp_path, [guest_component("multi")])
    # An address of this process's own, where Dapr's port is free.
    pid = os.getpid()
    host = f"127.{1 + (pid >> 16) % 250}.{pid >> 8 & 255}.{1 + pid % 250}"
    with listening_socket() as http:
        options = ("--workers", "1", "--host", host, "--grpc-port", "50001")
        with RunningServer(folder, *options, listener=http) as first:
            first.wait_for(lambda line: line.get("event") == "serving_grpc")
            with RunningServer(folder, *options, listener=http) as second:
                second.wait_for(lambda line: line.get("event") == "grpc_waits")
                assert first.terminate() == 0
                second.wait_for(lambda line: line.get("event") == "serving_grpc")
                with grpc.insecure_channel(f"{host}:50001") as channel:
                    assert invoke(channel, "multi", b"x", wait_for_ready=True).data == b"x"


def over(path: Path) -> httpx.Client:
    """A client over a Unix socket."""
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://sandboxd", timeout=60)


@pytest.mark.slow
def test_cells_share_a_port_and_drain(tmp_path: Path) -> None:
    """Two cells and the supervisor are started, and all calls under way are answered when they are told to stop."""
    folder = write_components(tmp_path / "resources", [guest_component("multi"), guest_component("sleep")])
    http, where = tmp_path / "http.sock", tmp_path / "grpc.sock"
    with held_port() as held:
        port = held.getsockname()[1]
        options = ("--workers", "4", "--cells", "2", "--grpc-fd", str(held.fileno()))
        sockets = ("--unix-socket", str(http), "--grpc-unix-socket", str(where))
        server = RunningServer(
            folder, *options, *sockets, ready="cells_ready", pass_fds=(held.fileno(),), unix_socket=http
        )
        with server:
            server.wait_for(lambda line: line.get("event") == "cells_ready")
            answers: list[Answer] = []
            for number in range(40):
                # Each channel has a connection of its own, which the kernel gives to either cell.
                with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("n", number)]) as channel:
                    answers.append(invoke(channel, "multi", b"x", wait_for_ready=True))
            assert {answer.data for answer in answers} == {b"x"}
            with grpc.insecure_channel(f"unix:{where}") as channel:
                assert invoke(channel, "multi", b"y", wait_for_ready=True).data == b"y"
            with over(http) as client:
                text = client.get("/metrics").text
                counts = [line for line in text.splitlines() if line.startswith("sandboxd_requests_total")]
                assert any('binding="multi"' in line and 'protocol="grpc"' in line for line in counts)
            channels = [grpc.insecure_channel(f"127.0.0.1:{port}", options=[("m", n)]) for n in range(2)]
            request = runtime_pb2.InvokeBindingRequest(name="sleep", operation="execute", metadata={"args": "8000"})
            calls = [c.unary_unary(DAPR + "InvokeBinding").future(request.SerializeToString()) for c in channels]
            until(lambda: all(not made.done() for made in calls), "calls under way")
            with over(http) as client:
                until(lambda: busy(client.get("/metrics").text) == 2, "two busy workers")
            server.process.send_signal(signal.SIGTERM)
            assert all(made.result(timeout=60) is not None for made in calls)
            assert server.process.wait(60) == 0
            assert not http.exists()
            assert not where.exists()
            for channel in channels:
                channel.close()


@pytest.mark.slow
def test_after_the_drain_deadline_callers_are_told(tmp_path: Path) -> None:
    folder = write_components(tmp_path, [guest_component("loop", timeout="30s")])
    with held_port() as held:
        port = held.getsockname()[1]
        options = ("--workers", "1", "--grpc-fd", str(held.fileno()))
        server = RunningServer(folder, *options, environ={"SANDBOXD_DRAIN_TIMEOUT": "200ms"}, pass_fds=(held.fileno(),))
        with server, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            server.wait_for(lambda line: line.get("event") == "serving_grpc")
            with ThreadPoolExecutor(2) as threads:
                calls = [threads.submit(invoke, channel, "loop", b"x") for _ in range(2)]
                until(lambda: server.metric("sandboxd_pool_queue_depth") == 1, "one runs and one waits")
                assert server.terminate() == 0
                answers = {answer.code: answer.message for answer in (made.result(60) for made in calls)}
    assert answers.keys() == {"CANCELLED", "UNAVAILABLE"}
    assert "module closed with context canceled" in answers["CANCELLED"]
    assert "the server is shutting down" in answers["UNAVAILABLE"]


def busy(text: str) -> float:
    """The number of busy workers in a text of the metrics."""
    lines = [line for line in text.splitlines() if line.startswith("sandboxd_pool_workers{") and 'state="busy"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
