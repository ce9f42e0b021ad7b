"""Random invocations: whatever a guest does in whatever order, nothing of it is left and every request is reported."""

import random
import time

import pytest

from hostfuncs.outbound import Exchange, Options, Outbound, OutboundError, OutboundLimits, RequestBody, Settings
from tests.host.outbound_client import LOOPBACK, fetch, request
from tests.origins import Origin, pattern

PATHS = [
    "/echo",
    "/bytes/70000",
    "/chunked/30000",
    "/trailers",
    "/hold",
    "/hold-body",
    "/endless",
    "/short",
    "/close",
    "/close-silently",
    "/garbage",
    "/reject",
    "/duplex",
    "/slow-head",
    "/status/204",
]


@pytest.mark.parametrize("seed", range(12))
def test_random_invocations(seed: int) -> None:
    dice = random.Random(seed)
    outbound = Outbound(Settings(connections=6))
    with Origin() as origin:
        for _ in range(12):
            _one(dice, outbound, origin)
            active, idle = outbound.connections()
            assert active == 0, outbound.pool(LOOPBACK)
            assert idle <= 6
        # After all that, it works as on the first day. (GET: an origin may still be closing what it answered on. And
        # some paths answer, keep the connection open and read nothing more until they are released.)
        origin.release()
        for _ in range(3):
            assert fetch(outbound, origin.url("/bytes/70000")).body == pattern(70_000)
    outbound.close()


def _one(dice: random.Random, outbound: Outbound, origin: Origin) -> None:
    limits = OutboundLimits(
        requests=dice.choice([3, 20]),
        concurrency=dice.choice([1, 4, 64]),
        buffer_bytes=dice.choice([1, 1000, 65536]),
        body_bytes=dice.choice([500, 200_000]),
    )
    exchanges = outbound.begin(LOOPBACK, limits, time.monotonic_ns() + 60_000_000_000)
    started: list[tuple[Exchange, RequestBody | None]] = []
    refused = 0
    for _ in range(dice.randrange(5, 60)):
        action = dice.randrange(8)
        try:
            if action <= 1:
                body = exchanges.request_body() if dice.random() < 0.4 else None
                options = Options(
                    first_byte_timeout_ns=dice.choice([None, 1_000_000, 20_000_000]),
                    between_bytes_timeout_ns=dice.choice([None, 5_000_000]),
                )
                method = dice.choice(["GET", "POST", "PUT"])
                started.append((exchanges.start(request(origin.url(dice.choice(PATHS)), method), options, body), body))
                continue
            if not started:
                continue
            exchange, content = dice.choice(started)
            if action == 2:
                exchanges.turn()
            elif action == 3:
                exchanges.wait(exchange.done, time.monotonic_ns() + 3_000_000)
            elif action == 4:
                exchanges.wait(exchange.body.ready, time.monotonic_ns() + 3_000_000)
                exchange.body.read(dice.choice([1, 100, 65536]))
            elif action == 5 and content is not None and not content.finished and not content.closed:
                content.write(b"x" * min(content.permit(), dice.choice([1, 100, 70_000])))
            elif action == 6 and content is not None:
                if dice.random() < 0.7:
                    content.finish()
                else:
                    content.abort()
            elif action == 7 and dice.random() < 0.4:
                exchange.close()
        except OutboundError as error:
            if error.code.name == "HTTP-request-denied":
                refused += 1
    records = exchanges.close()
    assert len(records) == len(started) + refused
    assert all(exchange.over() for exchange, _ in started)


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_random_cancellations_leave_no_place_taken(seed: int, http2: bool) -> None:
    """More requests than connections, to two origins, given up wherever they happen to be."""
    dice = random.Random(seed)
    outbound = Outbound(Settings(connections=2, http2=http2))
    with Origin() as first, Origin() as second:
        for _ in range(10):
            exchanges = outbound.begin(LOOPBACK, OutboundLimits(concurrency=8), time.monotonic_ns() + 60_000_000_000)
            paths = ["/echo", "/delay/2", "/chunked/3000", "/close", "/hold", "/close-silently"]
            started = [
                exchanges.start(request(dice.choice([first, second]).url(dice.choice(paths)))) for _ in range(12)
            ]
            for exchange in dice.sample(started, len(started)):
                if dice.random() < 0.7:
                    exchanges.wait(exchange.done, time.monotonic_ns() + dice.choice([0, 200_000, 3_000_000]))
                exchange.close()
                assert sum(outbound.connections()) <= 2
            assert len(exchanges.close()) == len(started)
            assert all(exchange.over() for exchange in started)
            assert outbound.connections()[0] == 0
        for origin in (first, second):
            assert fetch(outbound, origin.url("/bytes/70000")).body == pattern(70_000)
    outbound.close()
