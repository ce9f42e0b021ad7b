"""A real sandboxd process for tests: started on a passed socket, waited for by its own log, always ended."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.logging_process import LoggingProcess
from tests.waiting import BOUND_S

PATIENT = {"PYTHONPATH": str(Path(__file__).parent / "patient")}
"""Variables of a server that takes neither worker nor caller for lost because a busy machine does not let them run."""
START_TIMEOUT_S = 180.0
"""Generous: a cold machine compiles guests first."""


def listening_socket() -> socket.socket:
    """A listening socket on a free loopback port: connections made before the server is up wait."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sock.set_inheritable(True)
    return sock


def port_to_name() -> int:
    """A free loopback port for a program that can only be told a number.

    It is below those that the kernel gives to whoever asks for any (ip(7), ip_local_port_range). So nobody gets it by
    chance before the program has bound it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(2000, lowest)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class RunningServer(LoggingProcess):
    """`sandboxd serve` as a child process.

    Parameters:
        resources: folder of component files; None names none.
        options: further command-line options.
        environ: variables on top of the test's own.
        cwd: where file:// URLs start.
        wait: block until the log says `ready`.
        ready: the event of the log that says so.
        bind: the server binds a port of its own.
        interpreter: options of the Python interpreter.
        pass_fds: descriptors that it inherits besides.
        unix_socket: the server listens there, by its options, and on no port.
        command: of the program.
    """

    def __init__(
        self,
        resources: Path | None,
        *options: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        wait: bool = True,
        listener: socket.socket | None = None,
        ready: str = "ready",
        bind: bool = False,
        interpreter: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        unix_socket: Path | None = None,
        command: str = "serve",
    ) -> None:
        self._own_listener = listener is None
        self.listener = listener or listening_socket()
        self.port: int = self.listener.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}"
        env = {
            **os.environ,
            "SANDBOXD_LOGGING_FORMAT": "json",
            "PYTHONUNBUFFERED": "1",
            "SANDBOXD_CELLS": "1",
            # Its default address is one for all servers of the machine.
            "SANDBOXD_ADMIN_LISTEN": "off",
            **(environ or {}),
        }
        process = subprocess.Popen(
            [
                sys.executable,
                *interpreter,
                "-m",
                "sandboxd",
                command,
                *([] if resources is None else ["--resources-path", str(resources)]),
                *([] if unix_socket else ["--port", "0"] if bind else ["--fd", str(self.listener.fileno())]),
                *options,
            ],
            pass_fds=[self.listener.fileno(), *pass_fds],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
        )
        if self._own_listener:
            # Only the server listens now: when it is gone, connections are refused.
            self.listener.close()
        super().__init__(process, stream="stderr", raw="raw")
        if wait or bind:
            try:
                if bind:
                    address = self.wait_for(lambda line: "address" in line, timeout_s=START_TIMEOUT_S)["address"]
                    self.port = int(address.rpartition(":")[2])
                    self.base_url = f"http://127.0.0.1:{self.port}"
                if wait:
                    self.wait_for(lambda line: line.get("event") == ready, timeout_s=START_TIMEOUT_S)
            except BaseException:
                self.stop()
                raise

    @contextlib.contextmanager
    def client(self, **options: Any) -> Iterator[httpx.Client]:
        """A client of this server. Over HTTP alone: to read the CA certificates takes longer than most requests."""
        with httpx.Client(base_url=self.base_url, trust_env=False, verify=False, timeout=120, **options) as client:
            yield client

    def invoke(self, binding: str, data: Any = None, metadata: Mapping[str, str] | None = None) -> httpx.Response:
        """One binding request as Dapr's documentation has it."""
        body: dict[str, Any] = {"operation": "execute"}
        if data is not None:
            body["data"] = data
        if metadata is not None:
            body["metadata"] = dict(metadata)
        with self.client() as client:
            return client.post(f"/v1.0/bindings/{binding}", content=json.dumps(body).encode())

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics; 0 if it is not there."""
        from prometheus_client.parser import text_string_to_metric_families

        with self.client() as client:
            text = client.get("/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and all(sample.labels.get(k) == v for k, v in labels.items()):
                    return float(sample.value)
        return 0.0

    def processes(self) -> list[int]:
        """Process ids of the server and everything below it."""
        out, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            out.append(pid)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                todo += [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return out

    def terminate(self, timeout_s: float = BOUND_S) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def component(name: str, url: str, **metadata: str) -> str:
    """A Dapr component document."""
    lines = [
        "apiVersion: dapr.io/v1alpha1",
        "kind: Component",
        "metadata:",
        f"  name: {name}",
        "spec:",
        "  type: bindings.wasm",
        "  version: v1",
        "  metadata:",
    ]
    for key, value in {"url": url, **metadata}.items():
        lines += [f"  - name: {key}", f"    value: {json.dumps(value)}"]
    return "\n".join(lines) + "\n"


def write_components(folder: Path, documents: Sequence[str]) -> Path:
    """A resources folder with these documents."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "components.yaml").write_text("---\n".join(documents))
    return folder
