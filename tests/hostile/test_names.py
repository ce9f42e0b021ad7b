"""Names with control characters, line ends and characters that turn text around: none leaves by any edge as it came.

The edges: the command line's stdout and stderr, log lines as text and as JSON, answers, and /metrics.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime

from tests.guests import path
from tests.running import RunningServer, component, write_components

NAMES = {
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "bell": "\x07\x07",
    "newline": "x\nsandboxd: all is well",
    "return": "x\rsandboxd: all is well",
    "tab-feed": "\t\v\f",
    "right-to-left": "\u202egnp.exe\u2066",
    "c1": "\x9b2J\x9d0;owned\x9c",
    "nul": "a\0b",
    "del": "\x7f",
    "separator": "a\u2028b\u2029c",
    "four-byte": "\U0001f600\U000e0041",
    "not-a-character": "\ufffe\ufdd0",
    "long": "\x1b" * 20_000,
}
FEW = {
    "many": "".join(name for label, name in NAMES.items() if label not in ("nul", "long")),
    "nul": NAMES["nul"],
    "long": NAMES["long"],
}
"""The same characters in fewer names, for commands: each starts an interpreter. A NUL alone ends a string of C."""
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What an output of ours may never hold. Its own line ends are not among them: those are counted."""


def string(name: str) -> str:
    """A string of the WebAssembly text format."""
    return '"' + "".join(f"\\{byte:02x}" for byte in name.encode()) + '"'


def importing(name: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f"(module (import {string(name)} {string(name)} (func)))"))


def known_namespace(name: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f'(module (import "wasi_snapshot_preview1" {string(name)} (func)))'))


def trapping(name: str) -> bytes:
    """Functions have names, which the engine tells; the export's name is hostile too."""
    return bytes(
        wasmtime.wat2wasm(
            f"(module (tag $t) (func (@name {string(name)}) (export {string(name)}) (throw $t))"
            f' (func (export "_start") (call 0)))'
        )
    )


def safe(text: str, longest: int = 5_000) -> None:
    assert UNSAFE.search(text) is None, UNSAFE.findall(text)[:5]
    forged = [line for line in text.split("\n") if line.startswith("sandboxd: all is well")]
    assert not forged, text
    assert max(map(len, text.split("\n"))) < longest


def run(*arguments: str, cwd: Path, **environ: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "sandboxd", *arguments],
        cwd=cwd,
        env={**os.environ, "SANDBOXD_CACHE_FOLDER": str(cwd / "cache"), **environ},
        capture_output=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def all_safe(done: "subprocess.CompletedProcess[bytes]") -> str:
    text = (done.stdout + done.stderr).decode()
    # Our own tabs begin the lines of a stack trace, as Dapr writes it.
    safe(re.sub(r"(?m)^\t{1,2}(?=\S)", "", text))
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("kind", [importing, known_namespace, trapping], ids=lambda kind: kind.__name__)
def test_run_tells_names_of_the_guest_escaped(tmp_path: Path, kind: object) -> None:
    for label, name in FEW.items():
        file = tmp_path / f"{label}.wasm"
        file.write_bytes(kind(name))  # type: ignore[operator]
        done = run("run", str(file), cwd=tmp_path)
        assert done.returncode != 0
        all_safe(done)


def test_paths_arguments_and_variables(tmp_path: Path) -> None:
    name = "".join(NAMES[kind] for kind in ("escape", "newline", "right-to-left", "c1", "del", "separator"))
    folder = tmp_path / name.replace("/", "_")
    folder.mkdir()
    missing = folder / "missing.wasm"
    all_safe(run("run", str(missing), cwd=tmp_path))
    all_safe(run("run", "--env", name, str(path("tiny")), cwd=tmp_path))
    all_safe(run("run", "--timeout", name, str(path("tiny")), cwd=tmp_path))
    all_safe(run("check", "--resources-path", str(missing), cwd=tmp_path))
    all_safe(run("serve", "--config", str(folder / "none.yaml"), cwd=tmp_path))
    all_safe(run("serve", "--print-config", cwd=tmp_path, SANDBOXD_POOL_WORKERS=name))
    all_safe(run("serve", "--print-config", cwd=tmp_path, SANDBOXD_APP_ID=name))
    all_safe(run("serve", "--print-config", "--workers", name, cwd=tmp_path))
    for cells in ("1", "2"):
        all_safe(run("serve", "--host", name, "--cells", cells, cwd=tmp_path))
    present = folder / "tiny.wasm"
    present.write_bytes(path("tiny").read_bytes())
    resources = write_components(folder / "resources", [component("tiny", f"file://{present}")])
    compiled = run("compile", "--resources-path", str(resources), cwd=tmp_path)
    all_safe(compiled)
    all_safe(run("check", "--resources-path", str(resources), cwd=tmp_path))


def test_components_and_settings(tmp_path: Path) -> None:
    documents = []
    for name in NAMES.values():
        quoted = json.dumps(name)
        named = component("x", f"file://{path('tiny')}").replace("name: x", f"name: {quoted}")
        documents += [named, component("u", "file:///tmp/x").replace('"file:///tmp/x"', quoted)]
        documents += [
            component("h", f"file://{path('tiny')}", allowedOutboundHosts=name, sha256=name, contentType=name)
        ]
    for number, document in enumerate(documents):
        (tmp_path / f"{number}.yaml").write_text(document.replace("spec:\n", "spec:\n  ignoreErrors: true\n"))
    for command in ("check", "compile"):
        all_safe(run(command, "--resources-path", str(tmp_path), cwd=tmp_path))
    config = tmp_path / "sandboxd.yaml"
    for name in FEW.values():
        config.write_text(
            f"pool: {{{json.dumps(name)}: 1, user: {json.dumps(name)}}}\negress: {{proxy: {json.dumps(name)}}}\n"
        )
        all_safe(run("check", "--config", str(config), cwd=tmp_path))
        all_safe(run("serve", "--config", str(config), cwd=tmp_path))


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    documents = []
    for label, name in NAMES.items():
        for kind in (importing, known_namespace, trapping):
            binding = f"{kind.__name__}-{label}"
            (folder / f"{binding}.wasm").write_bytes(kind(name))
            document = component(binding, f"file://{folder / binding}.wasm")
            documents.append(document.replace("spec:\n", "spec:\n  ignoreErrors: true\n"))
    return write_components(folder / "resources", documents)


@pytest.fixture(scope="module", params=["json", "text"])
def server(request: pytest.FixtureRequest, resources: Path) -> Iterator[tuple[str, RunningServer]]:
    environ = {"SANDBOXD_LOGGING_FORMAT": request.param, "SANDBOXD_LOGGING_LEVEL": "debug"}
    with RunningServer(resources, "--workers", "1", environ=environ, bind=False, wait=False) as running:
        wanted = (lambda line: line.get("event") == "ready") if request.param == "json" else None
        running.wait_for(wanted or (lambda line: "event=ready" in line.get("raw", "")), timeout_s=120)
        yield request.param, running


def test_answers_logs_and_metrics(server: tuple[str, RunningServer]) -> None:
    form, running = server
    with running.client() as client:
        for label in NAMES:
            for kind in (importing, known_namespace, trapping):
                answer = client.post(f"/v1.0/bindings/{kind.__name__}-{label}", content=b'{"operation":"execute"}')
                assert answer.status_code == 500
                # JSON has escapes of its own: what it holds is the name, what it is written with is not.
                assert re.search(rb"[\x00-\x1f]", answer.content) is None
                json.loads(answer.content)
                assert len(answer.content) < 48_000
        safe(client.get("/readyz").text)
        assert UNSAFE.search(client.get("/metrics").text) is None
    for line in list(running.lines):
        if form == "text" and "raw" in line:
            safe(line["raw"], 48_000)
