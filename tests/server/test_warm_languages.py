"""Interpreters and compiled languages started warm: the answer is that of a cold run."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests import guests
from tests.guests.component.build import python_component
from tests.origins import Origin
from tests.running import RunningServer, write_components
from tests.server.warm import INPUTS, LARGE_BODIES, ask, pair, same, warm_up

pytestmark = pytest.mark.build


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("languages")
    documents = [
        *pair("ruby", guests.ruby(), instances=0),
        *pair("python", guests.cpython312(), instances=0),
        *pair("php", guests.php()),
        *pair("go", guests.go_guest("upper")),
        *pair("calls", python_component("client", "client"), allowedOutboundHosts='["http://127.0.0.0/8:*"]'),
        *pair("componentize-py", python_component("client", "client"), traceparent="false"),
    ]
    with RunningServer(write_components(folder, documents), "--workers", "2", environ=LARGE_BODIES) as running:
        yield running


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("ruby", ("-e", "$stdin.binmode; $stdout.binmode; d = $stdin.read; print d.bytesize, ':', d.reverse")),
        ("python", ("-I", "-c", "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d[::-1])")),
        ("php", ("-q",)),
        ("go", ()),
        ("componentize-py", ("echo",)),
    ],
)
def test_warm_equals_cold(languages: RunningServer, name: str, argv: tuple[str, ...]) -> None:
    warm_up(languages, f"{name}-warm", argv)
    for what, stdin in INPUTS.items():
        if name == "componentize-py" and what in ("binary", "4 MiB"):
            stdin = b"text"
        assert same(languages, name, stdin, argv)[0] == 200, what


def test_callers_with_different_arguments_get_their_own(languages: RunningServer) -> None:
    code = "import sys; print(sys.argv[1], sys.stdin.read())"
    answers: dict[str, list[Any]] = {"one": [], "two": []}

    def call(argument: str) -> None:
        for number in range(8):
            answers[argument].append(ask(languages, "python-warm", b"%d" % number, ("-I", "-c", code, argument)))

    callers = [threading.Thread(target=call, args=(argument,)) for argument in answers]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    for argument, got in answers.items():
        assert got == [(200, f"{argument} {number}\n".encode()) for number in range(8)]


def test_exit_codes_and_tracebacks_of_python(languages: RunningServer) -> None:
    code = "import sys; n = int(sys.stdin.read() or 0); 1 / n; sys.exit(n)"
    argv = ("-I", "-c", code)
    warm_up(languages, "python-warm", argv)
    for stdin in (b"0", b"5"):
        status, body = same(languages, "python", stdin, argv)
        assert status == 500
        assert b"exit_code(5)" in body if stdin == b"5" else b"ZeroDivisionError" in body


def test_requests_go_out_under_the_policy_of_the_binding(languages: RunningServer) -> None:
    with Origin() as origin:
        wanted = [{"authority": f"127.0.0.1:{origin.port}", "path": "/echo"}, {"authority": "192.0.2.1", "path": "/"}]
        stdin = json.dumps(wanted).encode()
        warm_up(languages, "calls-warm", ("requests",))
        status, body = same(languages, "calls", stdin, ("requests",))
        assert status == 200
        served, denied = json.loads(body)
        assert served["status"] == 200
        assert denied["refused"][0] == "HttpRequestDenied"
