"""A daprd for tests: found or built, started on Unix sockets, called over HTTP and gRPC.

It is looked for in the variable DAPRD, in the cache (`make daprd` builds it there from Go modules, which takes about
three minutes), and on PATH. Tests that find none are skipped, in CI too: it has no time for the build.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx2 as httpx
import pytest

from tests.grpc_calls import UNLIMITED
from tests.guests.cache import CACHE, ToolMissingError, digest, made
from tests.logging_process import LoggingProcess
from tests.waiting import until

VERSION = "1.18.2"
"""The version of Dapr that sandboxd follows, and whose answers are in tests/golden."""
VARIABLE = "DAPRD"
BUILD_S = 900
MAIN = Path(__file__).parent / "main.go"
_MODULE = "module daprd\n\ngo 1.26\n"


def cached() -> Path:
    """Where `make daprd` puts it."""
    return CACHE / "daprd" / f"daprd-{VERSION}-{digest(MAIN)}"


def found() -> Path | None:
    """Return the program; None if there is none."""
    named = os.environ.get(VARIABLE) or (str(cached()) if cached().exists() else shutil.which("daprd"))
    return Path(named) if named else None


def needed() -> Path:
    """Return the program, or skip the test."""
    program = found()
    if program is None:
        pytest.skip(f"there is no daprd: run `make daprd`, or name one in {VARIABLE}")
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout.strip()
    # One that was built from modules calls itself edge.
    if shown != "edge" and not shown.startswith(VERSION.rpartition(".")[0]):
        pytest.skip(f"{program} is daprd {shown}; sandboxd follows {VERSION}")
    return program


def build() -> Path:
    """Build it into the cache.

    Raises:
        ToolMissingError: Go is missing, or its modules cannot be had.
    """
    go = shutil.which("go")
    if go is None:
        raise ToolMissingError("go", "install Go 1.26 or later")

    def make(target: Path) -> None:
        source = target.parent / "source"
        source.mkdir()
        shutil.copy(MAIN, source)
        (source / "go.mod").write_text(_MODULE)
        for command in (
            ["get", f"github.com/dapr/dapr@v{VERSION}"],
            ["mod", "tidy"],
            ["build", "-tags", "stablecomponents", "-o", str(target), "."],
        ):
            done = subprocess.run([go, *command], cwd=source, capture_output=True, text=True, timeout=BUILD_S)
            if done.returncode != 0:
                raise ToolMissingError("daprd", f"go {' '.join(command)}: {done.stderr[-800:]}")

    return made(cached(), make)


class Daprd(LoggingProcess):
    """A running daprd.

    Parameters:
        program: from `needed`.
        resources: the folder of component files.
        sockets: the folder of pluggable components; None gives it an empty one.
        options: further command-line options.
        environ: variables on top of the test's own.
        wait: block until it serves.
    """

    def __init__(
        self,
        program: Path,
        resources: Path,
        *options: str,
        sockets: Path | None = None,
        environ: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        # The path of a Unix socket is short, and pytest's folders have long names.
        self._folder = tempfile.TemporaryDirectory(prefix="daprd-")
        folder = Path(self._folder.name)
        (folder / "plugins").mkdir()
        self._sockets = folder / "api"
        self._sockets.mkdir()
        process = subprocess.Popen(
            [
                str(program),
                *("--app-id", "wasm", "--unix-domain-socket", str(self._sockets), "--resources-path", str(resources)),
                *("--dapr-internal-grpc-port", "0", "--enable-metrics=false", "--log-as-json"),
                *("--placement-host-address", "", "--scheduler-host-address", ""),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "DAPR_COMPONENTS_SOCKETS_FOLDER": str(sockets or folder / "plugins"),
                **(environ or {}),
            },
        )
        super().__init__(process, stream="stdout", raw="msg")
        if wait:
            try:
                self.wait()
            except BaseException:
                self.stop()
                raise

    def wait(self) -> None:
        """Wait until it serves."""
        self.wait_for(lambda line: str(line.get("msg", "")).startswith("dapr initialized. Status: Running"))
        until(self._healthy, "daprd serves")

    def _healthy(self) -> bool:
        try:
            with self.client() as client:
                return client.get("/v1.0/healthz/outbound").status_code == 204
        except httpx.TransportError:
            return False

    @contextlib.contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A client of its HTTP API."""
        transport = httpx.HTTPTransport(uds=str(self._sockets / "dapr-wasm-http.socket"), verify=False)
        with httpx.Client(transport=transport, base_url="http://daprd", trust_env=False, timeout=60) as client:
            yield client

    @contextlib.contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        """A channel to its gRPC API."""
        # daprd refuses the name that grpcio makes of a socket's path.
        options = [*UNLIMITED, ("grpc.default_authority", "localhost")]
        target = f"unix:{self._sockets / 'dapr-wasm-grpc.socket'}"
        with grpc.insecure_channel(target, options=options) as channel:
            yield channel

    def invoke(
        self,
        binding: str,
        data: Any = None,
        metadata: Mapping[str, str] | None = None,
        headers: Sequence[tuple[str, str]] = (),
        operation: str = "execute",
    ) -> httpx.Response:
        """One binding request over HTTP."""
        body = {"operation": operation, "data": data, "metadata": dict(metadata or {})}
        with self.client() as client:
            return client.post(f"/v1.0/bindings/{binding}", json=body, headers=list(headers))

    def stop(self) -> None:
        """End it, and take its folder away."""
        super().stop()
        self._folder.cleanup()
