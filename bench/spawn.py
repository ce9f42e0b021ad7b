"""How fast does a worker start, how much memory is its own, and how fast does the whole server start?

Workers: a zygote of its own with three modules (one of which makes requests, so that outbound is imported); from the
Spawn frame to READY, the message's way included. Memory: Private_Clean + Private_Dirty of smaps_rollup, of workers that
wait for their first invocation, and of workers that have run guests. Server: from exec to the log's `ready`, with the
26 MB CPython module, first with an empty cache, then with a filled one.

    python -m bench.spawn [--quick] [--rounds N] [--seconds S] [--json FILE]
"""

import asyncio
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Bar, Record, end, options, quantile
from sandboxd.config.model import Cache, Config
from sandboxd.modules.prepare import PreparedGuest, Preparer
from sandboxd.server import translate
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.zygote.client import ZygoteClient
from tests.guests import cpython312
from tests.guests import path as guest
from tests.host.legacy_guests import c_client
from tests.running import RunningServer, component, write_components

START_BAR_MS = 5.0
MEMORY_BAR_MIB = 3.0
WARM_BAR_MS = 800.0
MIB = 1024 * 1024


@dataclass
class Spawned:
    """One worker, as the benchmark holds it."""

    serial: int
    pid: int
    channel: socket.socket
    asked_ns: int
    ready_ns: int = 0


class Spawner:
    """Asks for workers one at a time: `ZygoteEvents`."""

    def __init__(self) -> None:
        self.client = ZygoteClient(self)
        self.spawned: asyncio.Queue[tuple[int, socket.socket]] = asyncio.Queue()

    def on_spawned(
        self,
        serial: int,
        pid: int,
        channel: socket.socket,
        page_fd: int,
        pidfd: int,
        broker: socket.socket | None = None,
    ) -> None:
        """ZygoteEvents."""
        if broker is not None:
            broker.close()
        socket.close(page_fd)
        socket.close(pidfd)
        self.spawned.put_nowait((pid, channel))

    def on_spawn_failed(self, serial: int, detail: str) -> None:
        """ZygoteEvents."""
        raise RuntimeError(f"worker {serial} could not be forked: {detail}")

    def on_spawned_without_descriptors(self, serial: int, pid: int) -> None:
        """ZygoteEvents."""
        raise RuntimeError(f"no descriptors are left for worker {serial}")

    def on_exited(self, serial: int, status: int) -> None:
        """ZygoteEvents."""

    def on_zygote_lost(self, client: ZygoteClient) -> None:
        """ZygoteEvents."""
        raise RuntimeError("the zygote died")

    async def start(self, serial: int) -> Spawned:
        """One worker, READY."""
        asked = time.monotonic_ns()
        self.client.spawn(serial)
        pid, channel = await self.spawned.get()
        channel.setblocking(False)
        worker = Spawned(serial, pid, channel, asked)
        (ready,) = codec.Decoder(codec.FromWorker).feed(await asyncio.get_running_loop().sock_recv(channel, 4096))
        worker.ready_ns = time.monotonic_ns()
        assert type(ready) is m.Ready, ready
        return worker


async def invoke(worker: Spawned, index: int) -> None:
    """Run a guest once there."""
    loop = asyncio.get_running_loop()
    frame = m.Invoke(id=1, guest=index, call=m.Call(deadline_ns=time.monotonic_ns() + 10 * 10**9, stdin=b"x"))
    await loop.sock_sendall(worker.channel, codec.encode(frame))
    await loop.sock_recv(worker.channel, 1 << 16)


def private_bytes(pid: int) -> int:
    """Memory that only this process holds."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


async def load_message(folder: Path, guests: dict[str, Path]) -> m.Load:
    """These guests, compiled into a store in `folder`."""
    documents = [component(name, f"file://{path}") for name, path in guests.items()]
    resources = write_components(folder / "components", documents)
    config = Config(resources_paths=(str(resources),), cache=Cache(folder=folder / "cache"))
    async with Preparer(translate.module_settings(config)) as preparer:
        results = await preparer.prepare_all(translate.read_components(config, {}).bindings)
    prepared = [result for result in results if isinstance(result, PreparedGuest)]
    assert len(prepared) == len(guests), results
    return translate.load_message(config, prepared)


async def workers(folder: Path, count: int) -> tuple[list[float], list[float], list[float]]:
    """Start times in milliseconds, and private memory in MiB before and after the first runs, of `count` workers."""
    load = await load_message(folder, {"tiny": guest("tiny"), "sort": guest("sort"), "client": c_client()})
    spawner = Spawner()
    loaded = await spawner.client.start(load, 120)
    assert not loaded.failed, loaded
    try:
        living = [await spawner.start(serial) for serial in range(1, count + 1)]
        await asyncio.sleep(0.5)
        fresh = [private_bytes(worker.pid) / MIB for worker in living]
        for worker in living:
            for index in range(2):
                await invoke(worker, index)
        await asyncio.sleep(0.5)
        used = [private_bytes(worker.pid) / MIB for worker in living]
        for worker in living:
            worker.channel.close()
    finally:
        await spawner.client.close()
    return [(worker.ready_ns - worker.asked_ns) / 1e6 for worker in living], fresh, used


def server_start_ms(resources: Path, cache: Path) -> float:
    """From exec to the log's `ready`."""
    began = time.monotonic()
    with RunningServer(resources, environ={"SANDBOXD_CACHE_FOLDER": str(cache)}):
        return (time.monotonic() - began) * 1000


def main() -> int:
    """Measure and print."""
    given = options(__doc__)
    record = Record(
        question="spawn",
        title="Starting workers and the server",
        columns=("what", "median", "p90", "unit", "samples"),
        plot={"kind": "columns", "x": "what", "y": ["median"], "logy": True, "ylabel": "ms or MiB"},
    )
    with tempfile.TemporaryDirectory() as scratch:
        times, fresh, used = asyncio.run(workers(Path(scratch), 10 if given.quick else 40))
    _add(record, "worker start: Spawn frame to READY", times, "ms")
    _add(record, "private memory of an idle worker", fresh, "MiB")
    _add(record, "the same after it has run two guests", used, "MiB")
    cold, warm = [], []
    with tempfile.TemporaryDirectory() as scratch:
        python = component("python", f"file://{cpython312()}", initTimeout="60s")
        resources = write_components(Path(scratch) / "components", [python])
        for number in range(given.rounds):
            cache = Path(scratch) / f"cache{number}"
            cold.append(server_start_ms(resources, cache))
            warm.append(server_start_ms(resources, cache))
    _add(record, "server start, 26 MB CPython module, empty cache", cold, "ms")
    _add(record, "server start, 26 MB CPython module, cached", warm, "ms")
    start, private, _, _, cached = (row["median"] for row in record.rows)
    record.bars += [
        Bar(what="worker start, fork to READY, median", want=START_BAR_MS, got=start, unit="ms"),
        Bar(what="private memory of an idle worker, 3 modules", want=MEMORY_BAR_MIB, got=private, unit="MiB"),
        Bar(what="server warm start with a 26 MB module", want=WARM_BAR_MS, got=cached, unit="ms"),
    ]
    return end(record, given)


def _add(record: Record, what: str, samples: list[float], unit: str) -> None:
    ordered = sorted(samples)
    median = round(statistics.median(ordered), 2)
    record.add(what=what, median=median, p90=round(quantile(ordered, 0.9), 2), unit=unit, samples=len(samples))


if __name__ == "__main__":
    sys.exit(main())
