"""h2spec against the gRPC port: 145 cases of RFC 9113's predecessor and of RFC 7541, from another implementation."""

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import guest_component
from tests.grpc_calls import held_port
from tests.guests import ToolMissingError, skip_or_fail
from tests.guests.cache import CACHE, digest, made
from tests.running import RunningServer, write_components

pytestmark = [pytest.mark.slow, pytest.mark.build]

H2SPEC = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
"""Its requests are GET, which is no call: each gets a head with an error, which ends its stream at once."""
OTHERWISE = {
    ("2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream"): "it waits for DATA, and an error has none",
    ("2", "Sends a PRIORITY frame on half-closed (remote) stream"): "likewise",
    (
        "5.1.2",
        "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
    ): "its streams are refused one by one, and are never open together",
}


def h2spec() -> Path:
    """Return the program, which is built once."""
    go = shutil.which("go")
    if go is None:
        raise ToolMissingError("go", "install Go 1.24 or later")

    def build(target: Path) -> None:
        environ = {**os.environ, "GOBIN": str(target.parent)}
        command = [go, "install", H2SPEC]
        try:
            done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            raise ToolMissingError("h2spec", "go install did not end within 300 s") from None
        if done.returncode != 0:
            raise ToolMissingError("h2spec", done.stderr[-800:])

    return made(CACHE / "h2spec" / digest(H2SPEC) / "h2spec", build)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = write_components(tmp_path_factory.mktemp("resources"), [guest_component("multi")])
    with held_port() as held:
        option = ("--grpc-fd", str(held.fileno()))
        with RunningServer(folder, "--workers", "1", *option, pass_fds=(held.fileno(),)) as server:
            server.wait_for(lambda line: line.get("event") == "serving_grpc")
            yield held.getsockname()[1]


def test_h2spec(port: int, tmp_path: Path) -> None:
    try:
        program = h2spec()
    except ToolMissingError as missing:
        skip_or_fail(missing)
    report = tmp_path / "report.xml"
    command = [program, "-h", "127.0.0.1", "-p", str(port), "-o", "5", "--strict", "-j", report]
    subprocess.run(command, capture_output=True, timeout=300)
    failed, passed = set(), 0
    for case in ET.parse(report).getroot().iter("testcase"):
        found = (case.get("package", "").rpartition("/")[2], case.get("classname", ""))
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(found)
        elif case.find("skipped") is None:
            passed += 1
    assert failed == OTHERWISE.keys()
    assert passed >= 138
