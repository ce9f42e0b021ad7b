"""How long does an interpreter take for a request, started cold and started warm?

Each guest is bound twice in one server, cold and with `warmStart`, and both are measured in turn on one connection.
Then CPython on eight connections, and the private memory of a child that waits. Where a daprd is found, it runs CPython
and Ruby as well. `bench/warm_chaos.py` asks what is left after many runs.

    python -m bench.warm [--quick] [--rounds N] [--seconds S] [--json FILE]
"""

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import census, peers
from bench.load import Run, closed_loop
from bench.measure import Bar, Record, alternate, end, options, ratio
from bench.targets import Target
from tests import guests
from tests.guests.component.build import python_component
from tests.running import RunningServer, component, write_components

MIB = 1 << 20
CONNECTIONS = 8
SCRIPT = "import sys; print(sys.stdin.read())"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A guest, and the request that it is measured with."""

    name: str
    file: Path
    argv: tuple[str, ...] = ()
    data: str = "salaboy"
    stdin: str = "json"
    bar_ms: float = 0.0
    """The most that a warm run may take."""
    bar_ratio: float = 0.0
    """The most that a warm run may take, of a cold one."""
    instances: int = 0
    """`warmInstances`: with 0 a guest that starts quickly is left cold."""

    def body(self) -> bytes:
        """Return the request."""
        metadata = {"argv": json.dumps(self.argv)} if self.argv else {}
        return json.dumps({"operation": "execute", "metadata": metadata, "data": self.data}).encode()


def asked() -> list[Asked]:
    """Return all guests."""
    python = guests.cpython312()
    # They were started when they were built. `warmStart` must not make them slower; a template forced on them does.
    quick: dict[str, dict[str, Any]] = {
        "PHP 8.2": {"file": guests.php(), "argv": ("-q",), "data": "<?php echo 1 + 1;", "stdin": "text"},
        "componentize-py, a command of 0.2": {"file": python_component("client", "client"), "argv": ("echo",)},
    }
    leave = "import os, sys; print(sys.stdin.read()); sys.stdout.flush(); os._exit(0)"
    return [
        Asked(name="CPython 3.12", file=python, argv=("-I", "-c", SCRIPT), bar_ms=12),
        Asked(name="CPython 3.12, os._exit", file=python, argv=("-I", "-c", leave), bar_ms=4),
        Asked(name="Ruby 3.2", file=guests.ruby(), argv=("-ne", 'print "Hello "; print'), bar_ms=8),
        *(
            Asked(name=f"{name}{', forced' if instances else ''}", instances=instances, bar_ratio=bar, **rest)
            for name, rest in quick.items()
            for instances, bar in ((0, 1.1), (2, 0.0))
        ),
    ]


def binding(number: int, *, warm: bool) -> str:
    """Return the name of a guest's binding."""
    return f"g{number}-{'warm' if warm else 'cold'}"


class Server:
    """sandboxd with every guest twice.

    Parameters:
        wanted: the guests.
        folder: for its components.
    """

    def __init__(self, wanted: list[Asked], folder: Path) -> None:
        documents = [
            component(
                binding(n, warm=warm),
                f"file://{one.file}",
                warmStart=json.dumps(warm),
                warmInstances=str(one.instances),
                stdin=one.stdin,
            )
            for n, one in enumerate(wanted)
            for warm in (False, True)
        ]
        self.running = RunningServer(write_components(folder, documents), "--workers", "2")
        self.front = self.running.process.pid

    def target(self, number: int, *, warm: bool) -> Target:
        """Return where a guest is called."""
        name = binding(number, warm=warm)
        return Target(name=name, url=f"{self.running.base_url}/v1.0/bindings/{name}", front=self.front)

    def compare(
        self, number: int, one: Asked, *, connections: int, rounds: int, seconds: float
    ) -> dict[str, list[Run]]:
        """Measure a guest cold and warm in turn."""
        sides = {
            side: partial(
                closed_loop,
                self.target(number, warm=side == "warm"),
                one.body(),
                connections=connections,
                seconds=seconds,
            )
            for side in ("cold", "warm")
        }
        return alternate(sides, rounds)

    def warm_up(self, number: int, one: Asked) -> None:
        """Ask until a template stands, or is given up because the guest starts quickly."""
        until = time.monotonic() + 60
        name = binding(number, warm=True)
        while not (
            self.running.metric("sandboxd_warm_invocations_total", binding=name)
            or self.running.metric("sandboxd_warm_misses_total", binding=name, reason="quick")
        ):
            assert time.monotonic() < until, f"{one.name} does not start warm"
            closed_loop(self.target(number, warm=True), one.body(), connections=1, seconds=0.5)


def latencies(record: Record, server: Server, wanted: list[Asked], rounds: int, seconds: float) -> None:
    """One connection: cold and warm in turn."""
    for number, one in enumerate(wanted):
        server.warm_up(number, one)
        found = server.compare(number, one, connections=1, rounds=rounds, seconds=seconds)
        cold, warm = ([run.p50_us / 1000 for run in found[side]] for side in ("cold", "warm"))
        share = ratio(warm, cold)
        row = record.add(
            what=one.name,
            **{"cold p50 ms": round(statistics.median(cold), 2), "warm p50 ms": round(statistics.median(warm), 2)},
            of_cold=share,
            **{"warm p99 ms": round(statistics.median(run.p99_us for run in found["warm"]) / 1000, 2)},
            failed=sum(run.failed for runs in found.values() for run in runs),
        )
        if one.bar_ms:
            record.bars.append(Bar(what=f"{one.name}, warm p50", want=one.bar_ms, got=row["warm p50 ms"], unit="ms"))
        if one.bar_ratio:
            record.bars.append(Bar(what=f"{one.name}, warm of cold", want=one.bar_ratio, got=share))


def throughput(record: Record, server: Server, one: Asked, rounds: int, seconds: float) -> None:
    """Eight connections, CPython."""
    found = server.compare(0, one, connections=CONNECTIONS, rounds=rounds, seconds=seconds)
    rps = {side: statistics.median(run.rps for run in runs) for side, runs in found.items()}
    record.notes.append(
        f"{one.name}, {CONNECTIONS} connections: {rps['warm']:.0f}/s warm, {rps['cold']:.0f}/s cold; a request costs "
        f"{statistics.median(run.worker_cpu_us for run in found['warm']) / 1000:.1f} ms of processor time below the "
        f"zygote, warm"
    )
    record.bars.append(
        Bar(what=f"{one.name}, {CONNECTIONS} connections", want=140, got=round(rps["warm"]), unit="/s", at_least=True)
    )


def private_kib(pid: int) -> int:
    """Return the private memory of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def memory(record: Record, server: Server) -> None:
    """The children that wait, when no request is under way."""
    settled(server)
    # Templates lead process groups, which their children are in; workers are in the zygote's.
    (zygote,) = census.zygotes(server.front)
    waiting = [pid for pid in census.workers(server.front) if os.getpgid(pid) not in (pid, zygote)]
    most = max(private_kib(pid) for pid in waiting) / 1024
    record.notes.append(f"private memory of {len(waiting)} children that wait: at most {most:.2f} MiB")
    record.bars.append(Bar(what="private memory of a child that waits", want=4, got=round(most, 2), unit="MiB"))


def settled(server: Server) -> census.Census:
    """Return the census once it has not changed for half a second."""
    until = time.monotonic() + 20
    found = census.take(server.front)
    while time.monotonic() < until:
        time.sleep(0.5)
        now = census.take(server.front)
        if (now.workers, now.front_fds, now.zombies) == (found.workers, found.front_fds, 0):
            return now
        found = now
    return found


def daprd(record: Record, wanted: list[Asked], seconds: float) -> None:
    """daprd, where there is one."""
    for one in (wanted[0], wanted[2]):
        with peers.present({"guest": one.file}) as found:
            for name, target in found.items():
                run = closed_loop(target, one.body(), connections=1, seconds=seconds)
                record.notes.append(f"{name}, {one.name}: p50 {run.p50_us / 1000:.1f} ms")


def main() -> int:
    """Measure everything."""
    # Not shorter: a cold run takes long, and a round without an answer has no median.
    given = options(__doc__, rounds=3, seconds=6)
    record = Record(
        question="warm",
        title="Requests to interpreters, cold and started warm",
        columns=("what", "cold p50 ms", "warm p50 ms", "of_cold", "warm p99 ms", "failed"),
    )
    wanted = asked()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(wanted, Path(folder))
        with server.running:
            latencies(record, server, wanted, given.rounds, given.seconds)
            throughput(record, server, wanted[0], given.rounds, given.seconds)
            memory(record, server)
    daprd(record, wanted, given.seconds)
    return end(record, given)


if __name__ == "__main__":
    sys.exit(main())
