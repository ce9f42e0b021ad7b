"""The files for nginx and HAProxy: two servers behind each restart one after the other, and no request is lost."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.deploy.files import ROOT
from tests.guests import path
from tests.process.test_reload import Load
from tests.running import RunningServer, component, port_to_name, write_components
from tests.waiting import until

pytestmark = pytest.mark.slow
"""A restart waits for drain.delay: some twenty seconds for each proxy, with its load."""


def tool(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's package {name})")
    return found


def nginx(text: str, folder: Path) -> list[str]:
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi", "client_body")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;"
        f"events {{}} http {{ access_log off; {temporary}\n{text}\n}}"
    )
    return [tool("nginx"), "-p", str(folder), "-c", "nginx.conf"]


def haproxy(text: str, folder: Path) -> list[str]:
    (folder / "haproxy.cfg").write_text(text)
    return [tool("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


PROXIES = {"nginx": ("nginx/sandboxd.conf", nginx), "haproxy": ("haproxy/haproxy.cfg", haproxy)}


def has_answered(server: RunningServer) -> bool:
    try:
        text = httpx.get(f"{server.base_url}/metrics", trust_env=False, timeout=60).text
    except httpx.ConnectError:
        return False
    return 'sandboxd_requests_total{binding="echo",outcome="completed",' in text


@contextmanager
def proxied(name: str, folder: Path, servers: tuple[int, int]) -> Iterator[str]:
    """A proxy with the file of deploy/, but for its ports."""
    file, command = PROXIES[name]
    port = port_to_name()
    text = (ROOT / "deploy" / file).read_text()
    for former, own in (("3500", servers[0]), ("3501", servers[1]), ("8080", port)):
        assert f"127.0.0.1:{former}" in text
        text = text.replace(f"127.0.0.1:{former}", f"127.0.0.1:{own}")
    folder.mkdir()
    process = subprocess.Popen(command(text, folder), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), trust_env=False, timeout=60) as client:
            until(lambda: client.get(f"{url}/v1.0/healthz").status_code < 500, f"{name} finds the servers")
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("name", PROXIES)
def test_restarts_behind_a_proxy_lose_nothing(name: str, tmp_path: Path) -> None:
    tool(name)
    resources = write_components(tmp_path / "resources", [component("echo", f"file://{path('echo')}")])
    ports = port_to_name(), port_to_name()

    def start(port: int) -> RunningServer:
        environ = {"SANDBOXD_DRAIN_DELAY": "2s"}
        return RunningServer(resources, "--workers", "1", "--port", str(port), environ=environ, bind=True)

    servers = [start(port) for port in ports]
    try:
        with proxied(name, tmp_path / name, ports) as url, Load(url) as load:
            for number, port in enumerate(ports):
                assert servers[number].terminate() == 0
                servers[number].stop()
                load.more(20)
                servers[number] = start(port)
                # The other one may go once the proxy has found this one again.
                until(lambda server=servers[number]: has_answered(server), "the proxy asks the server")
        assert load.wrong == []
    finally:
        for server in servers:
            server.stop()
