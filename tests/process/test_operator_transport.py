"""`egress.transport`: an operator's own transport in real servers, behind the whole wall."""

import os
import textwrap
from pathlib import Path

import pytest

from sandboxd.errors import ExitCode
from tests.guests import path as guest
from tests.host.legacy_guests import c_client
from tests.origins import Origin
from tests.process.test_cli import sandboxd_command
from tests.running import RunningServer, component, write_components

pytestmark = pytest.mark.build

PACKAGE = """
import time
from pathlib import Path

import httpx2 as httpx

TOKEN = Path(__file__).with_name("token").read_text()


class Signing(httpx.AsyncBaseTransport):
    def __init__(self, inner, name):
        self.inner = inner
        self.name = name

    async def handle_async_request(self, request):
        if request.url.path == "/fail":
            raise ValueError("path is\\n" + request.url.path)
        if request.url.path == "/elsewhere":
            request = httpx.Request("GET", request.url.copy_with(host="localhost", path="/headers"))
        if request.url.path == "/mocked":
            return httpx.Response(200, json={"binding": self.name}, headers={"x-mocked": "yes"})
        if request.url.path == "/headers":
            async with httpx.AsyncClient(transport=self.inner) as client:
                fetched = await client.post(request.url.copy_with(path="/echo"), json={"of": self.name})
            request.headers["x-fetched"] = fetched.json()["of"]
        request.headers["authorization"] = "Bearer " + TOKEN
        return await self.inner.handle_async_request(request)


def sign(inner, binding):
    assert binding.allowed_outbound_hosts, binding
    return Signing(inner, binding.name)


def fail(inner, binding):
    raise RuntimeError("no key for " + binding.name)


def leave(inner, binding):
    raise SystemExit(3)


def nothing(inner, binding):
    return None


number = 1
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "acme").mkdir(parents=True)
    (folder / "acme" / "__init__.py").write_text("")
    (folder / "acme" / "egress.py").write_text(textwrap.dedent(PACKAGE))
    (folder / "acme" / "token").write_text("hunter2")
    return folder


def environ(package: Path, named: str) -> dict[str, str]:
    return {"PYTHONPATH": str(package), "SANDBOXD_EGRESS_TRANSPORT": named, "SANDBOXD_POOL_WALL": "required"}


def resources(tmp_path: Path, *names: str) -> Path:
    hosts = {"allowedOutboundHosts": '["http://127.0.0.1:*"]'}
    return write_components(
        tmp_path / "components",
        [component(name, f"file://{c_client()}", **hosts) for name in names]
        + [component("tiny", f"file://{guest('tiny')}")],
    )


def test_a_signing_transport_whose_secret_no_guest_sees(tmp_path: Path, package: Path) -> None:
    files = resources(tmp_path, "one", "two")
    with (
        Origin() as origin,
        RunningServer(files, "--workers", "1", environ=environ(package, "acme.egress:sign")) as server,
    ):
        for name in ("one", "two"):
            reply = server.invoke(name, "x", {"args": origin.url("/status/200")})
            assert "hunter2" not in reply.text
        assert [seen.get("authorization") for seen in origin.seen] == ["Bearer hunter2"] * 2
        fetched = server.invoke("two", "x", {"args": origin.url("/headers")})
        assert "x-fetched: two" in fetched.text.lower()
        assert [seen.target for seen in origin.seen[2:]] == ["/echo", "/headers"]
        mocked = server.invoke("two", "x", {"args": origin.url("/mocked")})
        assert mocked.text.endswith('{"binding":"two"}')
        assert len(origin.seen) == 4


def test_a_transport_that_raises_ends_its_request_only(tmp_path: Path, package: Path) -> None:
    files = resources(tmp_path, "one")
    with (
        Origin() as origin,
        RunningServer(files, "--workers", "1", environ=environ(package, "acme.egress:sign")) as server,
    ):
        for _ in range(5):
            server.invoke("one", "x", {"args": origin.url("/fail")})
        assert server.invoke("tiny", "hello").json() == "HELLO"
        assert server.invoke("one", "x", {"args": origin.url("/status/200")}).status_code == 200
        rule = "http://127.0.0.1:*"
        assert server.metric("sandboxd_outbound_requests_total", rule=rule, outcome="internal-error") == 5
        # Elsewhere is no place that the policy lets this binding go to.
        server.invoke("one", "x", {"args": origin.url("/elsewhere")})
        assert [seen.target for seen in origin.seen] == ["/status/200"]
    raised = [line["message"] for line in server.lines if "egress.transport raised" in line.get("message", "")]
    assert raised[0].startswith("one: egress.transport raised ValueError: path is\\n/fail (")
    assert f"{package}/acme/egress.py:17" in raised[0]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("acme.egress:fail", "RuntimeError: no key for one"),
        ("acme.egress:leave", "SystemExit: 3"),
        ("acme.egress:nothing", "returned a NoneType"),
        ("acme.egress:number", "is of type int, not a function"),
        ("acme.egress:absent", "AttributeError"),
        ("acme.nowhere:sign", "ModuleNotFoundError"),
    ],
)
def test_a_factory_that_cannot_be_used(tmp_path: Path, package: Path, named: str, said: str) -> None:
    files = resources(tmp_path, "one")
    env = {**os.environ, **environ(package, named)}
    for command in ("check", "serve"):
        options = [] if command == "check" else ["--port", "0"]
        done = sandboxd_command(command, "--resources-path", str(files), *options, env=env)
        output = (done.stdout + done.stderr).decode()
        assert done.returncode == (ExitCode.FAILED if command == "check" else ExitCode.CONFIG), output
        assert f"egress.transport: {named}" in output
        assert said in output


def test_the_working_directory_is_no_place_for_a_factory(tmp_path: Path, package: Path) -> None:
    files = resources(tmp_path, "one")
    env = {**os.environ, "SANDBOXD_EGRESS_TRANSPORT": "acme.egress:sign"}
    done = sandboxd_command("serve", "--resources-path", str(files), "--port", "0", env=env, cwd=package)
    assert done.returncode == ExitCode.CONFIG
    assert b"absolute path in PYTHONPATH" in done.stderr
