"""Other servers of the same requests, measured side by side where they are at hand.

- `PEER_URL`: the full URL of a binding of a server that runs already, e.g. http://127.0.0.1:3600/v1.0/bindings/tiny;
  `PEER_NAME` names it in tables.
- a daprd, where tests/dapr/daprd finds one (`make daprd`): started here with `bindings.wasm` components of the same
  guests.
"""

import contextlib
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.targets import Target
from tests.dapr import daprd as builds
from tests.running import component, write_components

START_S = 120.0
"""daprd compiles its guests before it is healthy: an interpreter takes it some ten seconds."""


@contextlib.contextmanager
def present(guests: Mapping[str, Path]) -> Iterator[dict[str, Target]]:
    """Name -> target of every peer there is; daprd is started, and ended afterwards.

    Parameters:
        guests: binding name -> module; targets' URLs are those of the first one.
    """
    found: dict[str, Target] = {}
    url = os.environ.get("PEER_URL")
    if url:
        name = os.environ.get("PEER_NAME", "peer")
        found[name] = Target(name=name, url=url)
    if builds.found() is None:
        yield found
        return
    with daprd(guests) as peer:
        yield found | {"daprd": peer.target()}


@dataclass(frozen=True, kw_only=True)
class Daprd:
    """A daprd that serves."""

    process: "subprocess.Popen[bytes]"
    base_url: str
    grpc: str
    """HOST:PORT of its gRPC API."""
    first: str
    """The name of its first binding."""

    def target(self, binding: str = "") -> Target:
        """Return where a binding is called; the first one without a name."""
        url = f"{self.base_url}/v1.0/bindings/{binding or self.first}"
        return Target(name="daprd", url=url, front=self.process.pid)


@contextlib.contextmanager
def daprd(guests: Mapping[str, Path]) -> Iterator[Daprd]:
    """A daprd with a binding for each guest, healthy; ended afterwards.

    Parameters:
        guests: binding name -> module.

    Raises:
        RuntimeError: there is none, or it does not become healthy.
    """
    program = builds.found()
    if program is None:
        raise RuntimeError("there is no daprd: run `make daprd`, or name one in DAPRD")
    # daprd takes no listening socket, so its ports are free ones of a moment ago.
    ports = {}
    for name in ("dapr-http-port", "dapr-grpc-port", "dapr-internal-grpc-port", "metrics-port", "profile-port"):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            ports[name] = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        documents = [_patient(component(name, f"file://{file}")) for name, file in guests.items()]
        resources = write_components(Path(folder) / "components", documents)
        command = [str(program), "--app-id", "bench", "--resources-path", str(resources), "--log-level", "fatal"]
        command += ["--placement-host-address", "", "--scheduler-host-address", ""]
        for name, port in ports.items():
            command += [f"--{name}", str(port)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        base = f"http://127.0.0.1:{ports['dapr-http-port']}"
        try:
            _wait_healthy(f"{base}/v1.0/healthz/outbound", process)
            yield Daprd(
                process=process,
                base_url=base,
                grpc=f"127.0.0.1:{ports['dapr-grpc-port']}",
                first=next(iter(guests)),
            )
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _patient(document: str) -> str:
    """A component that daprd may take longer than 5 s to compile."""
    return document.replace("spec:\n", "spec:\n  initTimeout: 90s\n", 1)


def _wait_healthy(url: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (OSError, urllib.error.URLError) as error:
            if process.poll() is not None:
                raise RuntimeError(f"daprd exited with {process.returncode}") from error
            if time.monotonic() > until:
                raise RuntimeError(f"daprd is not healthy after {START_S:.0f} s") from error
            time.sleep(0.1)
