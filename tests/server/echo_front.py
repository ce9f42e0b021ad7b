"""A front with a stand-in for the pool, in a process of its own: for tests of the front alone.

Usage: python -m tests.server.echo_front ENGINE [key=value ...]; prints the port, ends on SIGTERM or end of stdin.
The stand-in echoes stdin; operation data select other outcomes. It is no substitute for tests on guests.
"""

import asyncio
import contextlib
import json
import signal
import sys
import threading
import time

from sandboxd.components.binding import Binding
from sandboxd.front.app import App
from sandboxd.front.engines import EngineConfig, listen, loop_factory, serve
from sandboxd.front.ports import Bindings, FrontSettings
from sandboxd.limits import Limits
from sandboxd.log import setup
from sandboxd.metrics import DaprLabels, Metrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, PoolClosing, QueueFull, QueueTimeout
from sandboxd.pool.stats import PoolStats
from sandboxd.wire.messages import HttpRequest, Result

OUTCOMES = {outcome.value for outcome in Outcome}


class StandIn:
    """Answers in process. What it does is chosen by the argument `do=...`, which real guests do not have."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.started = 0

    async def invoke(
        self,
        binding: str,
        *,
        args: tuple[bytes, ...] = (),
        env: tuple[tuple[bytes, bytes], ...] = (),
        stdin: bytes = b"",
        deadline_ns: int,
        http: HttpRequest | None = None,
    ) -> Result:
        self.started += 1
        word = args[0].decode() if args and args[0].startswith(b"do=") else ""
        match word.removeprefix("do="):
            case "args":
                shown = [[a.decode() for a in args[1:]], {k.decode(): v.decode() for k, v in env}]
                return Result(id=1, outcome=Outcome.COMPLETED, stdout=json.dumps(shown).encode())
            case "empty":
                return Result(id=1, outcome=Outcome.COMPLETED)
            case "exit":
                return Result(id=1, outcome=Outcome.EXIT_NONZERO, exit_code=3, stderr=b"x" * 2000 + b"<bad>")
            case "full":
                raise QueueFull("full")
            case "waited":
                raise QueueTimeout("waited")
            case "closing":
                raise PoolClosing("closing")
            case "loading":
                raise BindingUnavailable(binding, "still compiling", loading=True)
            case "broken":
                raise BindingUnavailable(binding, "module not found", loading=False)
            case "bug":
                raise RuntimeError("a bug of the stand-in")
            case "hang":
                try:
                    await asyncio.sleep((deadline_ns - time.monotonic_ns()) / 1e9)
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
                return Result(id=1, outcome=Outcome.DEADLINE_EXCEEDED)
            case "counts":
                text = json.dumps([self.started, self.cancelled])
                return Result(id=1, outcome=Outcome.COMPLETED, stdout=text.encode())
            case name if name in OUTCOMES:
                return Result(id=1, outcome=Outcome(name), detail="wasm error: unreachable", stderr=b"tail")
        return Result(id=1, outcome=Outcome.COMPLETED, stdout=stdin)

    def room(self, binding: str) -> int:
        return 1

    def brisk(self) -> bool:
        return False

    def turn_away(self) -> QueueFull:
        raise AssertionError("there is always room")

    def ready(self) -> bool:
        return True

    def stats(self) -> PoolStats:
        return PoolStats(workers_limit=2, workers_idle=1, workers_busy=1, rejected_total={"queue_full": 3})


class AlwaysReady:
    def __init__(self, missing: list[str]) -> None:
        self._missing = missing

    def not_ready(self) -> list[str]:
        return self._missing

    def remarks(self) -> dict[str, str]:
        return {}


async def main(engine: str, options: dict[str, str]) -> None:
    metrics = Metrics(version="test", dapr=DaprLabels(app_id="app") if "dapr" in options else None)
    invoker = StandIn()
    metrics.watch_pool(invoker.stats)
    settings = FrontSettings(
        version="test",
        app_id="app",
        api_token=options.get("token"),
        allowed_origins=tuple(filter(None, options.get("origins", "").split(","))),
        max_body_bytes=int(options.get("max_body", 4 * 1024 * 1024)),
    )
    missing = list(filter(None, options.get("missing", "").split(",")))
    app = App(settings, invoker, metrics, AlwaysReady(missing))
    limits = Limits(timeout_ms=int(options.get("timeout_ms", 30_000)), args_bytes=4096, env_bytes=4096)
    bindings = [
        Binding(name=name, version="v1", url=f"file://{name}.wasm", env=(("FIXED", "1"),), limits=limits)
        for name in ("echo", "other name")
    ]
    app.bindings = Bindings.of(bindings, metrics)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def end_with_stdin() -> None:
        sys.stdin.read()
        with contextlib.suppress(RuntimeError):  # the loop may be closed by then
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=end_with_stdin, daemon=True).start()
    listener = listen("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    config = EngineConfig(
        kind=engine,
        tls_certificate=options.get("cert"),
        tls_key=options.get("key"),
        max_header_bytes=int(options.get("max_header", 16384)),
        header_timeout_s=float(options.get("header_timeout", 10)),
    )
    await serve(app, listener, config, stop, drain_s=float(options.get("drain", 5)))
    app.close()


if __name__ == "__main__":
    given = dict(option.split("=", 1) for option in sys.argv[2:])
    handler = setup(level=given.get("log", "warning"), format="json")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(sys.argv[1], given))
    handler.close()
