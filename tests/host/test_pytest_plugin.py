"""The pytest plugin as authors of guests use it."""

import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from hostfuncs import HttpRequest, Limits, Outcome, Policy
from hostfuncs.pytest_plugin import RunWasm, SeenRequest, WasmOrigin
from tests.guests import path as guest

ROOT = Path(__file__).parents[2]

SUITE = f"""
import sys
from pathlib import Path

def test_without_a_guest():
    assert "wasmtime" not in sys.modules
    assert "httpcore2" not in sys.modules

def test_a_guest(run_wasm):
    assert run_wasm({str(guest("upper"))!r}, stdin=b"hello").stdout == b"HELLO"

def test_beside_the_test(run_wasm):
    Path(__file__).with_name("upper.wasm").write_bytes(Path({str(guest("upper"))!r}).read_bytes())
    assert run_wasm("upper.wasm", stdin=b"hello").stdout == b"HELLO"
"""


def test_a_suite_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "hostfuncs.pytest_plugin",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_arguments_environment_and_limits(run_wasm: RunWasm) -> None:
    assert run_wasm(guest("args"), args=["a"]).stdout == b"guest\na\n"
    assert run_wasm(guest("env"), env={"A": "b"}).stdout == b"A=b\n"
    assert run_wasm(guest("loop"), timeout=0.05).outcome is Outcome.DEADLINE_EXCEEDED
    assert run_wasm(guest("cat"), stdin=b"ab", limits=Limits(stdout_bytes=1)).limit == "stdout_bytes"
    with pytest.raises(ValueError, match="request"):
        run_wasm(guest("cat"), request=HttpRequest())


@pytest.mark.build
def test_an_origin_of_the_tests_own(run_wasm: RunWasm, wasm_origin: WasmOrigin) -> None:
    from tests.host.legacy_guests import c_client

    def shout(request: SeenRequest) -> tuple[int, bytes]:
        return 201, request.body.upper()

    wasm_origin.answer("/hello", b"hello", headers=[("x-name", "value")])
    wasm_origin.answer("/shout", shout)
    assert b"hello" in run_wasm(c_client(), args=[wasm_origin.url("/hello?x=1")]).stdout
    result = run_wasm(c_client(), args=[wasm_origin.url("/nowhere")])
    assert [(seen.method, seen.target) for seen in wasm_origin.seen] == [("GET", "/hello?x=1"), ("GET", "/nowhere")]
    assert [record.outcome for record in result.outbound] == ["ok"]
    refused = run_wasm(c_client(), args=[wasm_origin.url("/hello")], policy=Policy.parse([]))
    assert [record.denied for record in refused.outbound] == ["host"]
    assert len(wasm_origin.seen) == 2


@pytest.mark.build
def test_origins_that_a_handler_mocks(run_wasm: RunWasm) -> None:
    from tests.host.legacy_guests import c_client

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=f"{request.method} {request.url}")

    result = run_wasm(c_client(), args=["http://users.test/1?x=2"], transport=httpx.MockTransport(handler))
    assert b"GET http://users.test/1?x=2" in result.stdout
    assert [record.outcome for record in result.outbound] == ["ok"]


def test_an_origin_answers_what_it_was_told(wasm_origin: WasmOrigin) -> None:
    import http.client

    wasm_origin.answer("/shout", lambda request: (201, request.body.upper()))
    wasm_origin.answer("/plain", b"text", status=418, headers=[("x-a", "1"), ("x-a", "2")])
    connection = http.client.HTTPConnection(wasm_origin.authority, timeout=60)
    connection.request("POST", "/shout", body=iter([b"ab", b"c"]), encode_chunked=True)
    reply = connection.getresponse()
    assert (reply.status, reply.read()) == (201, b"ABC")
    connection.request("GET", "/plain")
    reply = connection.getresponse()
    assert (reply.status, reply.headers.get_all("x-a"), reply.read()) == (418, ["1", "2"], b"text")
    connection.request("HEAD", "/none")
    assert connection.getresponse().status == 404
    connection.close()
