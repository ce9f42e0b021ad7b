"""A handler in JavaScript that throws answers 500, and nobody is cut off: its toolchain leaves the body open."""

from pathlib import Path

import httpx2 as httpx
import pytest

from tests.guests.component.build import javascript_component
from tests.origins import Origin, refused_port
from tests.running import RunningServer, component, write_components

pytestmark = pytest.mark.build


def test_a_handler_that_throws_answers_500(tmp_path: Path) -> None:
    """`wasmtime serve` answers so too: StarlingMonkey sends the status, and neither finishes nor drops the body."""
    guest = javascript_component("thrower", "proxy", wasi="0.2.10")
    resources = write_components(
        tmp_path, [component("js", f"file://{guest}", allowedOutboundHosts="http://127.0.0.1:*")]
    )
    with (
        Origin() as origin,
        refused_port() as port,
        RunningServer(resources) as server,
        httpx.Client(base_url=server.base_url, timeout=60) as client,
    ):
        refused = f"http://127.0.0.1:{port}/"
        for url in (refused, "http://denied.test/", refused):
            answer = client.get(f"/v1.0/http/js/?{url}", timeout=60)
            assert (answer.status_code, answer.content) == (500, b""), url
        answer = client.get(f"/v1.0/http/js/?{origin.url('/status/418')}", timeout=60)
        assert (answer.status_code, answer.text) == (418, "status 418")
