"""The published wasi-http examples run to their end: every request they make arrives whole, and is answered.

They name postman-echo.com, so their requests go through a proxy that leads to an origin of the test's.
"""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import hostfuncs
from hostfuncs.outbound import Outbound, Policy, Settings
from sandboxd.limits import OutboundSettings
from sandboxd.wire.messages import HttpRequest
from tests.certificates import Authority
from tests.guests.cache import ToolMissingError
from tests.host.components import Components
from tests.host.legacy_runner import Runner
from tests.host.published_examples import C_SERVER, DOTNET, GO, TYPESCRIPT, C, Example, built
from tests.host.test_outbound_proxy import Tunnel
from tests.host.wasmtime_cli import wasmtime
from tests.origins import Origin

pytestmark = [pytest.mark.build, pytest.mark.slow]  # compilers of three languages
HOST = "postman-echo.com"


class Proxy(Tunnel):
    """Leads tunnels to one origin, and what comes without one to another."""

    def __init__(self, port: int, plain: Origin) -> None:
        super().__init__(port)
        self._plain = plain

    def serve(self, sock: socket.socket) -> None:
        """See Tunnel."""
        if sock.recv(7, socket.MSG_PEEK) == b"CONNECT":
            super().serve(sock)
        else:
            self._plain.serve(sock)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def network(authority: Authority) -> Iterator[tuple[Origin, Origin, Proxy]]:
    documents = {path: f'{{"url": "{path}"}}'.encode() for path in ("/get", "/post", "/put")}
    with Origin(authority.server_context(HOST)) as secure, Origin() as plain, Proxy(secure.port, plain) as proxy:
        secure.documents = documents
        plain.documents = {f"http://{HOST}{path}": body for path, body in documents.items()}
        secure.release()
        plain.release()
        yield secure, plain, proxy


def guest_of(example: Example) -> Path:
    try:
        return built(example)
    except ToolMissingError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("example", [GO, C, TYPESCRIPT], ids=lambda example: example.name)
def test_every_request_of_an_example_is_answered(
    example: Example,
    network: tuple[Origin, Origin, Proxy],
    authority: Authority,
    components: Components,
) -> None:
    secure, plain, proxy = network
    guest = guest_of(example)
    proxy_url, ca_files = f"http://127.0.0.1:{proxy.port}", (str(authority.ca_file),)
    if example.core:
        with contextlib.closing(Outbound(Settings(proxy=proxy_url, ca_files=ca_files))) as outbound:
            ran = Runner(guest, outbound, Policy.parse(None)).run()
        assert (ran.ended, ran.trap, ran.failure) == (None, "", None)
        output = ran.stdout
    else:
        with components.load(guest, outbound=OutboundSettings(proxy=proxy_url, ca_files=ca_files)) as loaded:
            result = loaded.run()
        assert result.outcome == "completed", (result.detail, result.stderr)
        output = result.stdout
    seen = [(s.method, "https", s.target, s.body) for s in secure.seen]
    seen += [(s.method, "http", s.target.removeprefix(f"http://{HOST}"), s.body) for s in plain.seen]
    assert tuple(seen) == example.asks
    if example.prints is None:
        assert output == b"Status code is: 200\n"
        return
    for _, _, target, _ in example.asks:
        assert example.prints.format(path=target.partition("?")[0]).encode() in output


def test_the_server_in_c_is_served_and_is_a_command_too(components: Components) -> None:
    with components.load(guest_of(C_SERVER)) as loaded:
        answered = loaded.run(http=HttpRequest(method="GET", scheme="http", authority="api.test", path="/a?b=c"))
        assert answered.outcome == "completed", answered.detail
        assert answered.http is not None
        assert (answered.http.status, answered.stdout) == (
            200,
            b"Hello world!\nPath is /a?b=c\nAuthority is api.test\n",
        )
        assert loaded.run().outcome == "completed"


def test_a_program_by_dotnet_ends_as_in_wasmtime() -> None:
    """Mono's interpreter with its assemblies inside: 2.7 MB."""
    guest = guest_of(DOTNET)
    done = subprocess.run([wasmtime(), "run", str(guest)], capture_output=True, timeout=120, check=True)
    ran = hostfuncs.run(guest)
    assert (ran.outcome.value, ran.stdout) == ("completed", done.stdout)
    assert done.stdout == b"Hello, Wasi Console!\n"
