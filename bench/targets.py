"""Servers to load: sandboxd, the no-op yardstick, a peer that runs already. Each a process tree, on loopback."""

import contextlib
import importlib.util
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import python_module
from tests.running import RunningServer, component, listening_socket, write_components

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that answers binding requests at `url`. `front` is its first process, None for a foreign one."""

    name: str
    url: str
    front: int | None = None

    def processes(self) -> list[tuple[int, str]]:
        """(pid, role) of the process tree; roles are front, zygote and workers."""
        if self.front is None:
            return []
        roles = ("front", "zygote", "workers")
        found, level, depth = [(self.front, "front")], [self.front], 0
        while level:
            depth += 1
            level = [child for pid in level for child in children(pid)]
            found += [(pid, roles[min(depth, 2)]) for pid in level]
        return found

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time so far, by role; that of workers which have ended included."""
        out = {"front": 0.0, "zygote": 0.0, "workers": 0.0}
        for pid, role in self.processes():
            out[role] += cpu_seconds(pid)
            if role == "zygote":
                out["workers"] += _reaped_seconds(pid)
        return out


def children(pid: int) -> list[int]:
    """Direct children; none if it is gone."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def cpu_seconds(pid: int) -> float:
    """User and system time of one process's threads; 0 if it is gone."""
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _reaped_seconds(pid: int) -> float:
    """User and system time of the children a process has reaped."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) * _TICK_S
    return 0.0


@contextlib.contextmanager
def sandboxd(
    guests: Mapping[str, Path],
    *options: str,
    metadata: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Target]:
    """A sandboxd that serves these guests, and is ready. Its target's URL is that of the first one.

    Parameters:
        guests: binding name -> module.
        options: of `sandboxd serve`.
        metadata: of every component.
        environ: settings as variables.
        pass_fds: descriptors that it inherits besides its socket.
    """
    with tempfile.TemporaryDirectory() as folder:
        documents = [component(name, f"file://{file}", **(metadata or {})) for name, file in guests.items()]
        resources = write_components(Path(folder), documents)
        settings = {"SANDBOXD_RELOAD_WATCH": "false", "SANDBOXD_LISTEN_GRPC_PORT": "0", **(environ or {})}
        with RunningServer(resources, *options, environ=settings, pass_fds=pass_fds) as server:
            url = f"{server.base_url}/v1.0/bindings/{next(iter(guests))}"
            yield Target(name="sandboxd", url=url, front=server.process.pid)


@contextlib.contextmanager
def noop(engine: str) -> Iterator[Target]:
    """The no-op endpoint on this engine."""
    listener = listening_socket()
    port = listener.getsockname()[1]
    process = subprocess.Popen(
        python_module("bench.noop", "--fd", str(listener.fileno()), "--engine", engine),
        pass_fds=[listener.fileno()],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    listener.close()
    assert process.stderr is not None
    try:
        if b"ready" not in (line := process.stderr.readline()):
            raise RuntimeError(f"the no-op server did not start: {line!r}")
        yield Target(name="noop", url=f"http://127.0.0.1:{port}/v1.0/bindings/noop", front=process.pid)
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()


def wrapped(data: str, **metadata: str) -> bytes:
    """A binding request as Dapr's callers write it."""
    envelope: dict[str, object] = {"operation": "execute", "data": data}
    if metadata:
        envelope["metadata"] = metadata
    return json.dumps(envelope).encode()


def engines() -> list[str]:
    """The HTTP servers that are installed."""
    return [name for name in ("uvicorn", "hypercorn") if importlib.util.find_spec(name)]
