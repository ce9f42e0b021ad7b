"""Other servers of the same requests, measured side by side where they are at hand.

- `PEER_URL`: the full URL of a binding of a server that runs already, e.g. http://127.0.0.1:3600/v1.0/bindings/tiny;
  `PEER_NAME` names it in tables.
- a `daprd` on PATH: started here with a `bindings.wasm` component for the same guest.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from bench.targets import Target
from tests.running import component, write_components

START_S = 60.0


@contextlib.contextmanager
def present(guest: Path) -> Iterator[dict[str, Target]]:
    """Name -> target of every peer there is; daprd is started, and ended afterwards.

    Parameters:
        guest: the module its binding runs.
    """
    found: dict[str, Target] = {}
    url = os.environ.get("PEER_URL")
    if url:
        name = os.environ.get("PEER_NAME", "peer")
        found[name] = Target(name=name, url=url)
    daprd = shutil.which("daprd")
    if daprd is None:
        yield found
        return
    with _daprd(daprd, guest) as target:
        yield found | {"daprd": target}


@contextlib.contextmanager
def _daprd(program: str, guest: Path) -> Iterator[Target]:
    # daprd takes no listening socket, so its ports are free ones of a moment ago.
    ports = {}
    for name in ("dapr-http-port", "dapr-grpc-port", "dapr-internal-grpc-port", "metrics-port"):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            ports[name] = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        resources = write_components(Path(folder) / "components", [component("tiny", f"file://{guest}")])
        command = [program, "--app-id", "bench", "--resources-path", str(resources), "--log-level", "error"]
        for name, port in ports.items():
            command += [f"--{name}", str(port)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        base = f"http://127.0.0.1:{ports['dapr-http-port']}"
        try:
            _wait_healthy(f"{base}/v1.0/healthz", process)
            yield Target(name="daprd", url=f"{base}/v1.0/bindings/tiny", front=process.pid)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


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
