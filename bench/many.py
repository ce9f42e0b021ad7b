"""What do 1,000 bindings cost a bystander while the server is scraped, and while one of them is reloaded?

Requests for one binding arrive in an open loop. First nothing else happens. Then another process fetches `/metrics`
again and again, the first time after the counts of all bindings have changed. At last one component file is written
anew a few times, which the server notices.

    python -m bench.many [--bindings 1000] [--distinct 20] [--rate 200] [--seconds 8] [--quick] [--json FILE]

Fails (exit status 1) if any request is not answered with 200.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from bench.answers import Answer, spread
from bench.instance import Served, arguments, binding, finish, logged, must, three
from bench.measure import GUESTS, Bar, Record
from bench.traffic import Traffic, run, shot
from tests.running import component

SCRAPES = 5
SCRAPE_EVERY_S = 1.5
RELOADS = 3
STALL_MS = 5.0
SETTLED_S = 2.5
"""Guests that were written just before they are read are read again at the next reload."""

FETCH = """
import sys, time, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"accept-encoding": "gzip"})
began = time.monotonic()
body = urllib.request.urlopen(request, timeout=60).read()
print((time.monotonic() - began) * 1000, len(body))
"""


def distinct_guest(folder: Path, number: int) -> Path:
    """Write the smallest guest with a custom section of its own, so that it is another module, and return its path."""
    name, content = b"number", str(number).encode()
    section = bytes([len(name)]) + name + content
    path = folder / f"guest-{number}.wasm"
    path.write_bytes((GUESTS / "args.wasm").read_bytes() + b"\x00" + bytes([len(section)]) + section)
    return path


def write(folder: Path, bindings: int, distinct: int) -> list[str]:
    """Write a component file for each binding but the first, and return their names."""
    guests = [distinct_guest(folder, number) for number in range(distinct)]
    resources = folder / "resources"
    resources.mkdir()
    names = [f"binding-{number}" for number in range(bindings - 1)]
    for number, name in enumerate(names):
        document = component(name, f"file://{guests[number % distinct]}", timeout="10s")
        (resources / f"{name}.yaml").write_text(document)
    return names


async def beside(server: Served, given: Any, doing: Callable[[], Coroutine[Any, Any, None]]) -> list[Answer]:
    """Send to the bystander's binding until `doing` is done, and return the answers."""
    traffic = Traffic(server.port)
    one = shot("bystander", "bystander", args="a,b")
    arrivals = asyncio.create_task(traffic.offer(given.rate, 600, lambda: one))
    try:
        await doing()
    finally:
        arrivals.cancel()
        await asyncio.wait({arrivals})
    await traffic.settle()
    await traffic.close()
    return traffic.answers


async def fetch(port: int) -> tuple[float, int]:
    """Scrape in another process; return the milliseconds and the bytes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FETCH, f"http://127.0.0.1:{port}/metrics", stdout=subprocess.PIPE
    )
    said, _ = await process.communicate()
    took, size = said.split()
    return float(took), int(size)


async def touch_all(server: Served, names: list[str]) -> None:
    """Send one request to each binding, so that the lines of all of them change."""
    traffic = Traffic(server.port)
    left = [shot("touch", name, args="a") for name in names]
    await traffic.steady(8, lambda: left.pop() if left else None)
    await traffic.close()


def main() -> int:
    """Measure, print, judge."""
    parser = arguments(__doc__, seconds=8.0, quick_seconds=3.0)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second of the bystander")
    parser.add_argument("--bindings", type=int, default=1000)
    parser.add_argument("--distinct", type=int, default=20, help="different guests")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    record = Record(question="many", title=f"{given.bindings} bindings", columns=("what", "value"))
    with tempfile.TemporaryDirectory(prefix="sandboxd-bench-") as name:
        folder = Path(name)
        names = write(folder, given.bindings, given.distinct)
        time.sleep(SETTLED_S)
        with Served([binding("bystander", "args")], workers=given.workers, folder=folder) as server:
            record.add(what="start to ready", value=f"{time.monotonic() - server.began:.2f} s")
            answers: dict[str, list[Answer]] = {}
            scrapes: list[float] = []

            async def quiet() -> None:
                await asyncio.sleep(given.seconds)

            async def scraping() -> None:
                for _ in range(SCRAPES):
                    began = time.monotonic()
                    took, _ = await fetch(server.port)
                    scrapes.append(took)
                    await asyncio.sleep(max(0, SCRAPE_EVERY_S - (time.monotonic() - began)))

            async def reloading() -> None:
                before = sum(1 for line in server.log() if line.get("event") == "reloaded")
                for number in range(1, RELOADS + 1):
                    path = server.resources / f"{names[0]}.yaml"
                    path.write_text(path.read_text().replace("10s", f"1{number}s"))
                    await logged(server, "reloaded", before + number)

            async def all_of_it() -> None:
                answers["nothing else"] = await beside(server, given, quiet)
                await touch_all(server, names)
                answers["scraped"] = await beside(server, given, scraping)
                answers["reloads of one"] = await beside(server, given, reloading)

            run(all_of_it)
            took = [float(line["message"].split()[2]) for line in server.log() if line.get("event") == "reloaded"]
            server.stop()
    record.add(what="a scrape, compressed (p50 / p99 / max)", value=three(spread(scrapes)))
    record.add(what="a reload of one of them, as logged", value=three(spread(took)))
    for what, found in answers.items():
        record.add(what=f"bystander, {what}", value=three(spread(answer.latency_ms for answer in found)))
    lost = sum(1 for found in answers.values() for answer in found if answer.status != 200)
    must(record, "requests lost or refused", lost)
    stall = spread(answer.latency_ms for answer in answers["scraped"])["p99"]
    record.bars.append(Bar(what="bystander's p99 while scraped", want=STALL_MS, got=stall, unit="ms"))
    return finish(record, given.json)


if __name__ == "__main__":
    sys.exit(main())
