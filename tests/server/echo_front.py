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
from collections.abc import Callable
from functools import partial

from sandboxd.components.binding import Binding
from sandboxd.front.http.app import App
from sandboxd.front.ports import Bindings, FrontSettings, Pace
from sandboxd.front.servers.connections import CallerLimits
from sandboxd.front.servers.refusals import Refusals
from sandboxd.front.servers.serving import HttpServerSettings, listen, loop_factory, serve
from sandboxd.limits import Limits
from sandboxd.log import setup
from sandboxd.metrics import DaprLabels, Metrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, PoolClosing, QueueFull, QueueTimeout
from sandboxd.pool.invocation import Receiver
from sandboxd.pool.stats import PoolStats
from sandboxd.pool.stream import Stream
from sandboxd.processes.allocator import return_large_blocks
from sandboxd.wire.messages import Call, Result

OUTCOMES = {outcome.value for outcome in Outcome}


class Invoked:
    """An invocation of the stand-in."""

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel

    def abandon(self) -> None:
        self._cancel()


class StandIn:
    """Answers in process. What it does is chosen by the argument `do=...`, which real guests do not have.

    Parameters:
        room: `always`; `never`; or `late`, when a request finds room only at the gate.
    """

    def __init__(self, room: str = "always") -> None:
        self.room = room
        self._found_none = False
        self.refused = 0
        self.cancelled = 0
        self.started = 0
        self.begun = 0

    async def invoke(self, binding: str, call: Call, stream: Stream | None = None) -> Result:
        self.started += 1
        args, env = call.args, call.env
        word = args[0].decode() if args and args[0].startswith(b"do=") else ""
        match word.removeprefix("do="):
            case "args":
                shown = [[a.decode() for a in args[1:]], {k.decode(): v.decode() for k, v in env}]
                return Result(id=1, outcome=Outcome.COMPLETED, stdout=json.dumps(shown).encode())
            case "empty":
                return Result(id=1, outcome=Outcome.COMPLETED)
            case "big":
                return Result(id=1, outcome=Outcome.COMPLETED, stdout=b"x" * (16 << 20))
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
                    await asyncio.sleep((call.deadline_ns - time.monotonic_ns()) / 1e9)
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
                return Result(id=1, outcome=Outcome.DEADLINE_EXCEEDED)
            case "counts":
                text = json.dumps([self.started, self.cancelled, self.begun])
                return Result(id=1, outcome=Outcome.COMPLETED, stdout=text.encode())
            case name if name in OUTCOMES:
                return Result(id=1, outcome=Outcome(name), detail="wasm error: unreachable", stderr=b"tail")
        return Result(id=1, outcome=Outcome.COMPLETED, stdout=call.stdin)

    def begin(self, binding: str, call: Call, receive: Receiver, stream: Stream | None = None) -> Invoked:
        self.begun += 1
        loop = asyncio.get_running_loop()
        invoking = self.invoke(binding, call, stream)
        if call.args[:1] == (b"do=hang",):
            task = loop.create_task(invoking)
            task.add_done_callback(partial(self._pass_on, receive))
            return Invoked(task.cancel)
        try:
            invoking.send(None)  # it does not wait, so it ends here, or raises
        except StopIteration as returned:
            return Invoked(loop.call_soon(receive, returned.value).cancel)
        raise AssertionError("it waits")

    def _pass_on(self, receive: Receiver, task: "asyncio.Task[Result]") -> None:
        if not task.cancelled():
            receive(task.result())

    def capacity(self, binding: str) -> int:
        # Whoever asks first hears that there is no room, and the gate, which asks next, that there is.
        self._found_none = self.room == "never" or (self.room == "late" and not self._found_none)
        return 0 if self._found_none else 1

    def has_room(self, binding: str) -> bool:
        self._found_none = self.room != "always"
        return not self._found_none

    def has_short_runs(self) -> bool:
        return False

    def reject_queue_full(self, binding: str) -> QueueFull:
        assert self.room == "never"
        self.refused += 1
        return QueueFull("full")

    def ready(self) -> bool:
        return True

    def stats(self) -> PoolStats:
        rejected = {"queue_full": 3 + self.refused}
        return PoolStats(workers_limit=2, workers_idle=1, workers_busy=1, rejected_total=rejected)


class AlwaysReady:
    def __init__(self, missing: list[str]) -> None:
        self._missing = missing

    def not_ready(self) -> list[str]:
        return self._missing

    def waits_for(self) -> str:
        return ""

    def remarks(self) -> dict[str, str]:
        return {}


async def main(engine: str, options: dict[str, str]) -> None:
    metrics = Metrics(version="test", dapr=DaprLabels(app_id="app") if "dapr" in options else None)
    invoker = StandIn(options.get("room", "always"))
    metrics.watch_pool(invoker.stats)
    pace = Pace(float(options.get("body_timeout", 30)), int(options.get("min_rate", 1024)))
    settings = FrontSettings(
        pace=pace,
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
        for name in ("echo", "other name", *(f"b{n}" for n in range(int(options.get("bindings", 0)))))
    ]
    app.bindings = Bindings.of(bindings, metrics)
    for binding in bindings[2:]:
        for outcome in Outcome:
            metrics.binding(binding.name).ended(outcome, 0.01)  # all series are there
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
    config = HttpServerSettings(
        kind=engine,
        tls_certificate=options.get("cert"),
        tls_key=options.get("key"),
        max_header_bytes=int(options.get("max_header", 16384)),
        callers=CallerLimits(
            head_timeout_s=float(options.get("header_timeout", 10)),
            body_timeout_s=pace.timeout_s,
            send_timeout_s=float(options.get("send_timeout", 30)),
            min_rate=pace.min_rate,
            max_connections=int(options.get("max_connections", 1024)),
            max_per_peer=int(options.get("max_per_peer", 768)),
            max_unread_bytes=int(options.get("max_unread", 256 << 20)),
        ),
    )
    refusals = Refusals(metrics.turned_away)
    direct = app.direct if options.get("direct", "yes") == "yes" else None
    drain_s = float(options.get("drain", 5))
    await serve(app, listener, config, stop, drain_s=drain_s, refusals=refusals, direct=direct)
    app.close()


if __name__ == "__main__":
    given = dict(option.split("=", 1) for option in sys.argv[2:])
    return_large_blocks()
    handler = setup(level=given.get("log", "warning"), format="json")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(sys.argv[1], given))
    handler.close()
