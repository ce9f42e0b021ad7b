"""How many calls per second does the gRPC API answer, against a no-op method of the same library?

sandboxd with a tiny guest, and grpcio's asyncio server with a method that gives back what it got, on the same loop,
each in one front process. The same client, a process of its own, makes InvokeBinding calls in closed loop over one
connection; rounds of both sides alternate; a ratio is the median of the rounds' ratios. Where there is a daprd
(`make daprd`, or DAPRD), it is measured with the same guest, too.

    python -m bench.grpc [--quick] [--rounds N] [--seconds S] [--json FILE]
"""

import asyncio
import contextlib
import functools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from bench import peers, targets
from bench.measure import (
    GUESTS,
    Bar,
    Options,
    Record,
    alternate,
    end,
    median_of,
    options,
    python_module,
    quantile,
    ratio,
)
from sandboxd.front.grpc.proto.runtime_pb2 import InvokeBindingRequest
from sandboxd.front.servers.serving import loop_factory
from tests.dapr import daprd as builds
from tests.grpc_calls import held_port

METHOD = "/dapr.proto.runtime.v1.Dapr/InvokeBinding"
CALLERS = (1, 16, 64)
BAR = 0.60


@dataclass(frozen=True)
class Run:
    """One round of one side."""

    rps: float
    p50_us: float
    p99_us: float
    front_cpu_us: float
    failed: int


@dataclass(frozen=True)
class Side:
    """A server, and its first process."""

    address: str
    front: int


class _Noop(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        async def answer(message: bytes, _context: object) -> bytes:
            return message

        return grpc.unary_unary_rpc_method_handler(answer)


async def _serve_noop() -> None:
    server = aio.server()
    server.add_generic_rpc_handlers((_Noop(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def _load(address: str, callers: int, seconds: float) -> None:
    message = InvokeBindingRequest(name="tiny", operation="execute", data=b"hello").SerializeToString()
    times: list[float] = []
    failed: list[str] = []
    async with aio.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)
        await call(message, wait_for_ready=True, timeout=30)
        began = time.perf_counter()
        until = began + seconds

        async def caller() -> None:
            while True:
                sent = time.perf_counter()
                if sent >= until:
                    return
                try:
                    await call(message)
                except aio.AioRpcError as error:
                    failed.append(f"{error.code().name}: {error.details()}")
                else:
                    times.append(time.perf_counter() - sent)

        await asyncio.gather(*(caller() for _ in range(callers)))
        passed = time.perf_counter() - began
    times.sort()
    found = (len(times) / passed, quantile(times, 0.5) * 1e6, quantile(times, 0.99) * 1e6, len(times), failed)
    print(json.dumps(found))


def load(side: Side, callers: int, seconds: float) -> Run:
    """One round, from a process of its own."""
    before = targets.cpu_seconds(side.front)
    command = python_module("bench.grpc", "load", side.address, str(callers), str(seconds))
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    rps, p50, p99, count, failed = json.loads(done.stdout)
    if failed:
        print(f"    {len(failed)} calls failed: {failed[0]}")
    used = targets.cpu_seconds(side.front) - before
    return Run(rps, p50, p99, used / max(1, count) * 1e6, len(failed))


@contextlib.contextmanager
def noop() -> Iterator[Side]:
    """The yardstick."""
    process = subprocess.Popen(python_module("bench.grpc", "noop"), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Side(f"127.0.0.1:{int(process.stdout.readline())}", process.pid)
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def sandboxd() -> Iterator[Side]:
    """The server with the guest `tiny`."""
    with held_port() as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        options = ("--grpc-fd", str(held.fileno()))
        with targets.sandboxd({"tiny": GUESTS / "tiny.wasm"}, *options, pass_fds=(held.fileno(),)) as target:
            assert target.front is not None
            yield Side(address, target.front)


def measure(given: Options) -> int:
    """Measure and print."""
    record = Record(
        question="grpc",
        title="gRPC: InvokeBinding of a tiny guest, against a no-op method of grpcio's asyncio server",
        columns=("callers", "side", "rps", "of_noop", "p50_us", "p99_us", "front_cpu_us", "failed"),
    )
    with noop() as bare, sandboxd() as ours, contextlib.ExitStack() as stack:
        sides = {"sandboxd": ours, "noop": bare}
        if builds.found() is not None:
            peer = stack.enter_context(peers.daprd({"tiny": GUESTS / "tiny.wasm"}))
            sides["daprd"] = Side(peer.grpc, peer.process.pid)
        for callers in CALLERS:
            rounds = {name: functools.partial(load, side, callers, given.seconds) for name, side in sides.items()}
            runs = alternate(rounds, given.rounds)
            for name, found in runs.items():
                record.add(
                    callers=callers,
                    side=name,
                    rps=round(median_of(found, "rps")),
                    of_noop=ratio([run.rps for run in found], [run.rps for run in runs["noop"]]),
                    p50_us=round(median_of(found, "p50_us")),
                    p99_us=round(median_of(found, "p99_us")),
                    front_cpu_us=round(median_of(found, "front_cpu_us")),
                    failed=sum(run.failed for run in found),
                )
            if callers > 1:
                got = ratio([run.rps for run in runs["sandboxd"]], [run.rps for run in runs["noop"]])
                what = f"{callers} callers: part of the no-op's calls/s"
                record.bars.append(Bar(what=what, want=BAR, got=got, at_least=True))
    record.notes.append("the client is grpcio's, too: it takes about as much of a core as the no-op server")
    return end(record, given)


def main() -> int:
    """Measure, or be the yardstick or the client."""
    if sys.argv[1:2] == ["noop"]:
        asyncio.Runner(loop_factory=loop_factory()).run(_serve_noop())
    elif sys.argv[1:2] == ["load"]:
        address, callers, seconds = sys.argv[2:]
        asyncio.Runner(loop_factory=loop_factory()).run(_load(address, int(callers), float(seconds)))
    else:
        return measure(options(__doc__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
