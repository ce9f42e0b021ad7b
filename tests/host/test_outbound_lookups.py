"""Name look-ups that outlive the invocation that wanted them."""

import socket
import threading
import time
from typing import Any

import pytest

from hostfuncs.outbound import DeadlineExceeded, Outbound, OutboundLimits, Policy, Request
from hostfuncs.outbound.network import LOOK_UPS
from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Call, GuestSpec, Invoke, Result
from sandboxd.worker import egress, engine
from sandboxd.worker.runtime import Runtime


def test_threads_that_look_up_for_nobody_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def hangs(*_: Any, **__: Any) -> Any:
        answer.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "nobody answers")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    outbound = Outbound()

    def threads_held() -> bool:
        return outbound.looking_up

    assert not threads_held()
    exchanges = outbound.begin(Policy.parse(["*"]), OutboundLimits(), time.monotonic_ns() + 100_000_000)
    wanted = [
        exchanges.start(Request(method="GET", scheme="http", authority=f"host{n}.example")) for n in range(LOOK_UPS + 3)
    ]
    with pytest.raises(DeadlineExceeded):
        exchanges.wait(lambda: any(exchange.done() for exchange in wanted))
    exchanges.close()
    assert threads_held()
    answer.set()
    end = time.monotonic() + 60
    while threads_held():
        assert time.monotonic() < end, "threads are still busy"
    outbound.close()


class _Guest:
    spec = GuestSpec(binding="b", kind="module", artifact="", argv0=b"b")

    def prepare(self, services: Any) -> None:
        """See Guest."""

    def run(self, invoke: Invoke) -> Result:
        """See Guest."""
        return Result(id=invoke.id, outcome=Outcome.COMPLETED)


@pytest.mark.parametrize("looking_up", [False, True])
def test_a_worker_whose_threads_are_held_is_replaced(monkeypatch: pytest.MonkeyPatch, looking_up: bool) -> None:
    monkeypatch.setattr(Outbound, "looking_up", looking_up)
    settings = OutboundSettings()
    runtime = Runtime(engine.build(EngineSettings()), [_Guest()], settings).start()
    try:
        result = runtime.run(Invoke(id=1, guest=0, call=Call(deadline_ns=time.monotonic_ns() + 10**9)))
    finally:
        runtime.close()
    assert egress.outbound_for(settings) is not None
    assert (result.outcome, result.retire) == (Outcome.COMPLETED, looking_up)
