"""Guests of every toolchain behind a real server: interpreters from packages, compiled languages from this project."""

import json
from collections.abc import Iterator

import pytest

from tests import guests
from tests.running import RunningServer, component, write_components

pytestmark = pytest.mark.build

DOCUMENTED_COMPONENT = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: wasm
spec:
  type: bindings.wasm
  version: v1
  metadata:
  - name: url
    value: "file://{ruby}"
"""

DOCUMENTED_REQUEST = """
{
  "operation": "execute",
  "metadata": {
    "args": "-ne,print \\"Hello \\"; print"
  },
  "data": "salaboy"
}"""


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("languages")
    documents = [
        DOCUMENTED_COMPONENT.format(ruby=guests.ruby()),
        component("php", f"file://{guests.php()}"),
        component("python311", f"file://{guests.python311()}"),
        component("python312", f"file://{guests.cpython312()}"),
        component("go", f"file://{guests.go_guest('upper')}"),
        *[component(name, f"file://{guests.path(name)}") for name in ("count", "sort", "tally", "upper")],
    ]
    with RunningServer(write_components(folder, documents), "--workers", "2") as server:
        yield server


def test_the_example_of_daprs_documentation_to_the_letter(languages: RunningServer) -> None:
    with languages.client() as client:
        reply = client.post("/v1.0/bindings/wasm", content=DOCUMENTED_REQUEST)
    assert reply.status_code == 200
    assert reply.content == b'Hello "salaboy"'


def test_php_runs_the_script_that_is_its_stdin(languages: RunningServer) -> None:
    reply = languages.invoke("php", '<?php echo strtoupper("hi") ?>', {"stdin": "text"})
    assert reply.status_code == 200
    assert reply.content.endswith(b"HI"), reply.content


def test_a_ruby_exception_is_an_exit_code(languages: RunningServer) -> None:
    reply = languages.invoke("wasm", metadata={"argv": json.dumps(["-e", "raise 'no'"])})
    assert reply.status_code == 500
    assert reply.json()["message"] == "error invoking output binding wasm: module closed with exit_code(1)"


@pytest.mark.parametrize("binding", ["python311", "python312"])
def test_cpython_reads_stdin_arguments_and_environment(languages: RunningServer, binding: str) -> None:
    code = "import sys, os, json; print(json.load(sys.stdin)['n'] * 2, sys.argv[1:], os.environ['NAME'])"
    metadata = {"argv": json.dumps(["-I", "-c", code, "a,b"]), "env.NAME": "value"}
    reply = languages.invoke(binding, {"n": 21}, metadata)
    assert (reply.status_code, reply.text) == (200, "42 ['a,b'] value\n")


def test_cpython_tracebacks_reach_the_error_detail_and_its_exit_code_the_message(languages: RunningServer) -> None:
    reply = languages.invoke("python312", metadata={"args": "-I,-c,1/0"})
    assert reply.status_code == 500
    assert reply.json()["message"] == "error invoking output binding python312: module closed with exit_code(1)"
    assert "ZeroDivisionError" in reply.text


def test_php_transforms_its_input(languages: RunningServer) -> None:
    script = 'auto_prepend_file="data:text/plain,<?php ob_start(fn($t) => strrev($t));"'
    argv = ["-q", "-d", "display_errors=0", "-d", "allow_url_include=1", "-d", script]
    reply = languages.invoke("php", "hello", {"argv": json.dumps(argv)})
    assert (reply.status_code, reply.content) == (200, b'"olleh"')


def test_go(languages: RunningServer) -> None:
    assert languages.invoke("go", "hello").content == b'"HELLO"'


def test_zig(languages: RunningServer) -> None:
    reply = languages.invoke("count", "two words")
    assert reply.json() == {"lines": 0, "words": 2, "bytes": 11}


def test_rust(languages: RunningServer) -> None:
    assert languages.invoke("tally", [1, 1]).content == b"1 [1,1]\n"
    assert languages.invoke("tally", "x", {"args": "y"}).json()["message"].endswith("exit_code(1)")


def test_assemblyscript(languages: RunningServer) -> None:
    assert languages.invoke("sort", "b\na").content == b'"b\\na"\n'


def test_c(languages: RunningServer) -> None:
    assert languages.invoke("upper", "hello").content == b'"HELLO"'
