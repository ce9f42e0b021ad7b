"""Guests do not reach the server that runs them, its bindings, metadata and metrics, unless the operator says so."""

from pathlib import Path

import pytest

from tests.host.legacy_guests import c_client
from tests.process.cells import Cells
from tests.running import RunningServer, component, listening_socket, write_components
from tests.server.admin import AdminServer


@pytest.mark.build
@pytest.mark.parametrize("kind", [RunningServer, Cells], ids=["one", "cells"])
def test_the_own_port_takes_a_pattern_that_names_address_and_port(tmp_path: Path, kind: type[RunningServer]) -> None:
    url = f"file://{c_client()}"
    listener = listening_socket()
    port = listener.getsockname()[1]
    resources = write_components(
        tmp_path / "resources",
        [
            component(
                "closed", url, allowedOutboundHosts="http://localhost:*, http://127.0.0.1:*, http://127.0.0.0/8:*"
            ),
            component("open", url, allowedOutboundHosts=f"http://localhost:*, http://127.0.0.1:{port}"),
        ],
    )
    # It is the test's, and inherited: that the server must know the port although it stands in no setting.
    with listener, kind(resources, "--workers", "2", listener=listener, bind=False) as server:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
            for path in ("livez", "metrics", "v1.0/metadata"):
                refused = server.invoke("closed", metadata={"args": f"http://{host}:{port}/{path}"})
                assert "exit_code(3)" in refused.json()["message"], (host, path)
        assert server.metric("sandboxd_outbound_denied_total", binding="closed", reason="address") == 9
        reached = server.invoke("open", metadata={"args": f"http://127.0.0.1:{port}/livez"})
        assert reached.status_code == 200, reached.text
        assert reached.text.startswith("200")
        assert reached.text.endswith("ok")


@pytest.mark.build
def test_the_port_of_the_status_page_is_its_own_too(tmp_path: Path) -> None:
    url = f"file://{c_client()}"
    allowed = "http://localhost:*, http://127.0.0.1:*, http://127.0.0.0/8:*"
    resources = write_components(tmp_path / "resources", [component("closed", url, allowedOutboundHosts=allowed)])
    with AdminServer(resources, "--workers", "2") as server:
        refused = server.invoke("closed", metadata={"args": f"{server.admin_url}/v1.0/sandboxd/status"})
        assert "exit_code(3)" in refused.json()["message"]
        shown = server.status(binding="closed")
        assert (shown["denied"], shown["deniedHosts"]) == (1, {server.admin_url: 1})
