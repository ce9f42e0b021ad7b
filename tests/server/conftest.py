"""Fixtures of the tests of servers."""

from collections.abc import Iterator

import httpx2 as httpx
import pytest

from tests.conftest import ENGINES, guest_component
from tests.guests.component.build import python_component
from tests.running import RunningServer, component, write_components


@pytest.fixture(scope="module", params=ENGINES)
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Bindings of one proxy guest: `web`; `brief` with a short timeout; `small` with a low limit for bodies."""
    guest = f"file://{python_component('proxy', 'proxy')}"
    hosts = {"allowedOutboundHosts": '["http://127.0.0.0/8:*"]'}
    documents = [
        component("web", guest, timeout="10m", **hosts),
        component("brief", guest, timeout="5s"),
        component("small", guest, httpBodyLimit="1Mi"),
        guest_component("echo"),
    ]
    resources = write_components(tmp_path_factory.mktemp("resources"), documents)
    # Callers of these tests may pause for as long as a busy machine makes them.
    environ = {"SANDBOXD_LISTEN_SEND_TIMEOUT": "10m", "SANDBOXD_LISTEN_BODY_TIMEOUT": "10m"}
    with RunningServer(resources, "--engine", request.param, "--workers", "2", environ=environ) as running:
        yield running


@pytest.fixture
def client(web: RunningServer) -> Iterator[httpx.Client]:
    """A client of `web`."""
    with web.client() as client:
        yield client
