"""Load on a server, by a process of its own: wrk for closed loops where it is installed, else a generator of ours.

Ours over HTTP/1.1 is bench/generator.c; bench/generator.py is it over HTTP/2, and where no C can be compiled.
"""

import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import native
from bench.measure import python_module
from bench.targets import Target

WRK = shutil.which("wrk")
LUA = Path(__file__).parent / "wrk.lua"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The result of one run. Latencies in microseconds; CPU in microseconds per request, by role."""

    rps: float
    failed: int
    requests: int
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    front_cpu_us: float = 0.0
    worker_cpu_us: float = 0.0
    generator_limited: bool = False
    """The generator could not keep up: the figures are its own, not the server's."""
    late_p99_us: float = 0.0
    """Open loop: how late requests left, against the plan."""


def closed_loop(
    target: Target,
    body: bytes,
    *,
    connections: int,
    seconds: float,
    http2: bool = False,
    streams: int = 1,
    threads: int = 0,
) -> Run:
    """As many requests as the server answers on this many connections, each with one request (or `streams` with
    HTTP/2) in flight. wrk runs so many threads; 0 stands for one, and for two from 64 connections on."""
    if WRK and not http2:
        return _with_wrk(target, body, connections, seconds, threads)
    if http2:
        command = [*_python_generator(), "--http2", "--streams", str(streams)]
        return _with_generator(command, target, body, connections, seconds)
    return _with_generator(generator(), target, body, connections, seconds)


def saturate(target: Target, body: bytes, *, connections: int, seconds: float) -> Run:
    """A closed loop by the generator that open loops use, so that both are its figures."""
    return _with_generator(generator(), target, body, connections, seconds)


def open_loop(target: Target, body: bytes, *, connections: int, seconds: float, rate: float) -> Run:
    """Requests at Poisson-distributed instants, whether earlier ones were answered or not. Latency counts from the
    planned instant: waiting is not hidden."""
    return _with_generator([*generator(), "--rate", str(rate)], target, body, connections, seconds)


@functools.cache
def generator() -> tuple[str, ...]:
    """The command of our generator of HTTP/1.1: the native one, or, with a line on stderr that says why, Python's."""
    try:
        return (str(native.generator()),)
    except native.UnavailableError as error:
        print(f"bench/generator.py takes the place of bench/generator.c: {error}", file=sys.stderr, flush=True)
        return _python_generator()


def generator_name() -> str:
    """Return the name of the HTTP/1.1 load generator in use, for a record's notes."""
    return "bench/generator.py" if generator() == _python_generator() else "bench/generator.c"


def _python_generator() -> tuple[str, ...]:
    return tuple(python_module("bench.generator"))


def _with_wrk(target: Target, body: bytes, connections: int, seconds: float, threads: int) -> Run:
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        threads = threads or (1 if connections < 64 else 2)
        command = [WRK or "wrk", "-t", str(threads), "-c", str(connections), "-d", f"{max(1, round(seconds))}s"]
        command += ["--timeout", "30s", "-s", str(LUA), target.url, "--", file.name]
        output, cpu = _timed(target, command, seconds)
    line = next((line for line in output.splitlines() if line.startswith("JSON ")), None)
    if line is None:
        raise RuntimeError(f"wrk said: {output}")
    found = json.loads(line[5:])
    return _run(found, cpu, found["requests"] / found["seconds"])


def _with_generator(generator: Sequence[str], target: Target, body: bytes, connections: int, seconds: float) -> Run:
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        command = [*generator, "--url", target.url, "--connections", str(connections)]
        command += ["--seconds", str(seconds), "--body", file.name]
        output, cpu = _timed(target, command, seconds)
    found = json.loads(output)
    return _run(found, cpu, found["requests"] / found["seconds"])


def _timed(target: Target, command: list[str], seconds: float) -> tuple[str, dict[str, float]]:
    before = target.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}: {done.stdout}{done.stderr}")
    after = target.cpu_seconds()
    return done.stdout, {role: after[role] - before.get(role, 0.0) for role in after}


def _run(found: dict[str, Any], cpu: dict[str, float], rps: float) -> Run:
    each = 1e6 / max(1, found["requests"])
    return Run(
        rps=round(rps, 1),
        failed=found["failed"],
        requests=found["requests"],
        p50_us=found["p50_us"],
        p90_us=found["p90_us"],
        p99_us=found["p99_us"],
        p999_us=found["p999_us"],
        front_cpu_us=round(cpu.get("front", 0.0) * each, 1),
        worker_cpu_us=round(cpu.get("workers", 0.0) * each, 1),
        generator_limited=found.get("limited", False),
        late_p99_us=found.get("late_p99_us", 0.0),
    )


def warm(target: Target, body: bytes, *, connections: int = 16) -> None:
    """Let caches fill and averages settle."""
    closed_loop(target, body, connections=connections, seconds=1)
    time.sleep(0.2)
