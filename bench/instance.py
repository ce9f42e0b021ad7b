"""A server to measure: started on a passed socket with its log in a file, always ended."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import wasmtime

from bench.measure import ROOT, Bar, Record
from tests.guests import path as guest_file
from tests.running import component, write_components

READY_WITHIN_S = 60.0
PATIENCE_S = 30.0
"""The time within which a line has to be logged."""


def binding(name: str, guest: str, **metadata: str) -> str:
    """A component for a committed guest."""
    return component(name, f"file://{guest_file(guest)}", **metadata)


def computing(name: str, folder: Path, turns: int, **metadata: str) -> str:
    """A component for a guest that computes for a fixed number of turns (1 million take about a millisecond).

    Parameters:
        folder: where the guest is written.
    """
    file = folder / f"{name}-{turns}.wasm"
    file.write_bytes(wasmtime.wat2wasm(COMPUTING % turns))
    return component(name, f"file://{file}", **metadata)


COMPUTING = """
(module (memory (export "memory") 1)
  (func (export "_start") (local $left i32) (local $x i64)
    (local.set $left (i32.const %d))
    (loop $again
      (local.set $x (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i64.store (i32.const 8) (local.get $x))))
"""


class Served:
    """`sandboxd serve` as a child process, ready.

    Parameters:
        documents: its components.
        workers: processes.
        settings: further `SANDBOXD_*` variables, without the prefix, as in POOL_QUEUE_LIMIT="64".
        listener: a socket to serve on instead of one of its own; it stays the caller's.
        folder: of components, cache and log; a temporary one by default.

    Raises:
        RuntimeError: it did not become ready; the text has the end of its log.
    """

    def __init__(
        self,
        documents: Sequence[str],
        *,
        workers: int,
        settings: Mapping[str, str] | None = None,
        listener: socket.socket | None = None,
        folder: Path | None = None,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="sandboxd-bench-") if folder is None else None
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.resources = write_components(self.folder / "resources", documents)
        self._own_socket = listener is None
        sock = listener or socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = sock.getsockname()[1]
        self.began = time.monotonic()
        environ = {
            **os.environ,
            "SANDBOXD_LOGGING_FORMAT": "json",
            "SANDBOXD_CACHE_FOLDER": str(self.folder / "cache"),
            "PYTHONUNBUFFERED": "1",
            **{f"SANDBOXD_{name}": value for name, value in (settings or {}).items()},
        }
        command = [sys.executable, "-m", "sandboxd", "serve", "--resources-path", str(self.resources)]
        command += ["--fd", str(sock.fileno()), "--workers", str(workers)]
        self._log_path = self.folder / f"log-{time.monotonic_ns()}"
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, pass_fds=[sock.fileno()], stdin=subprocess.DEVNULL, stderr=log, env=environ, cwd=ROOT
            )
        if self._own_socket:
            sock.close()
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the front."""
        return self.process.pid

    def log(self) -> list[dict[str, Any]]:
        """Return what it has logged so far."""
        lines = []
        for raw in self._log_path.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(raw))
            except ValueError:
                lines.append({"message": raw})
        return lines

    def metrics(self) -> dict[str, float]:
        """All samples of /metrics, as `name{label="value",...}` -> value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as reply:
            text = reply.read().decode()
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def stop(self) -> int:
        """End it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        if self._temporary is not None:
            self._temporary.cleanup()
        return self.process.returncode

    def _is_ready(self) -> bool:
        if not self._own_socket:
            # Another server may be answering on the same socket: its own log tells.
            return b'"event": "ready"' in self._log_path.read_bytes()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _wait_ready(self) -> None:
        end = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < end and self.process.poll() is None:
            if self._is_ready():
                return
            time.sleep(0.02)
        with contextlib.suppress(OSError):
            tail = self._log_path.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the server did not become ready:\n{tail}")


async def logged(server: Served, event: str, count: int) -> None:
    """Wait until the server has logged an event so many times.

    Raises:
        TimeoutError: it did not.
    """
    end = time.monotonic() + PATIENCE_S
    while sum(1 for line in server.log() if line.get("event") == event) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"{event} was not logged {count} times")
        await asyncio.sleep(0.01)


def labelled(samples: Mapping[str, float], name: str, label: str) -> dict[str, int]:
    """Samples of one metric summed by the value of one label."""
    sums: dict[str, int] = {}
    for sample, value in samples.items():
        if sample.startswith(name + "{") and f'{label}="' in sample:
            key = sample.split(f'{label}="', 1)[1].split('"', 1)[0]
            sums[key] = sums.get(key, 0) + int(value)
    return {key: value for key, value in sums.items() if value}


def total(samples: Mapping[str, float], name: str) -> int:
    """Samples of one metric summed over all labels."""
    return int(sum(value for sample, value in samples.items() if sample.partition("{")[0] == name))


def arguments(doc: str | None, *, seconds: float, quick_seconds: float) -> argparse.ArgumentParser:
    """A command line with `--seconds`, `--quick` and `--json`, to which a benchmark adds its own options."""

    class Quick(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
            namespace.seconds = quick_seconds
            namespace.quick = True

    parser = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    parser.add_argument("--seconds", type=float, default=seconds, help="of load")
    parser.add_argument("--quick", action=Quick, nargs=0, default=False, help=f"{quick_seconds:g} s, for a look")
    parser.add_argument("--json", type=Path, help="where the record goes; default bench/results/")
    return parser


def must(record: Record, what: str, got: float, want: float = 0) -> None:
    """A promise, not a wish: a count that may not be above `want`, however busy the machine is."""
    record.bars.append(Bar(what=what, want=want, got=got))


def three(values: Mapping[str, float]) -> str:
    """Milliseconds of `spread`, for a table."""
    return " / ".join(f"{value:.1f}" for value in values.values()) + " ms"


def finish(record: Record, json_path: Path | None) -> int:
    """Leave the record; the exit status is 1 if a promise (see `must`) was broken. Bars with units are wishes."""
    record.write(json_path)
    return 1 if any(not bar.met for bar in record.bars if not bar.unit and not bar.at_least) else 0
