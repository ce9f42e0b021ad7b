"""The whole path once: client, front, pool, worker, guest and back."""

import pytest

from tests.running import RunningServer


def test_echo(server: RunningServer) -> None:
    reply = server.invoke("echo", "salaboy")
    assert (reply.status_code, reply.content) == (200, b'"salaboy"')


def test_arguments_and_exit_code(server: RunningServer) -> None:
    reply = server.invoke("exit", metadata={"args": "3"})
    assert reply.status_code == 500
    assert reply.json()["message"] == "error invoking output binding exit: module closed with exit_code(3)"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes(server: RunningServer, path: str) -> None:
    with server.client() as client:
        assert client.get(path).status_code == 200
