"""The host holds no more for a guest than `hostMemory`: one account counts every kind of handle and every byte."""

import time
import tracemalloc
from collections.abc import Iterator

import pytest

from hostfuncs.account import Account
from hostfuncs.ending import HostMemoryExceeded
from hostfuncs.legacy_http.resources import Writer
from hostfuncs.outbound import Outbound, OutboundLimits, Policy, Request
from sandboxd.limits import Limits
from tests.host.components import ANY_HOST, Components
from tests.host.hoarding_text import hoarding
from tests.host.legacy_runner import Runner
from tests.host.test_legacy_http_hostile import FIELDS, handle, module, request
from tests.origins import Origin, Silent

pytestmark = pytest.mark.slow
"""Guests fill what the host lets them fill."""

MIB = 1 << 20
HELD = 4 * MIB
LIMITS = Limits(host_memory_bytes=HELD, host_entries=1_000_000, outbound_requests=100_000, outbound_concurrency=1_000)
MESSAGE = (
    "wasm error: the host would hold more than 4 MiB (hostMemory) for the guest; "
    "drop handles that are no longer needed, and read the bodies of responses"
)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


def forever(what: str) -> str:
    return f"(loop $again {what} (br $again))"


APPEND = """(call $append (local.get $a) (i32.const 65536) (i32.const 100) (i32.const 65536) (i32.const 20000)
    (i32.const 1024))"""
BODY = """(call $body (local.get $a) (i32.const 1024))
    (call $stream (i32.load (i32.const 1028)) (i32.const 1024))"""
WRITE = "(call $put (i32.load (i32.const 1028)) (i32.const 65536) (i32.const 40000) (i32.const 1032))"
NEW = "(local.set $a (call $asked (call $fields)))"


def listed(*words: int) -> str:
    """Write a list of 160 elements, all of which name the same letters: together far more than the guest's memory."""
    stores = "".join(f"(i32.store offset={at * 4} (local.get $a) (i32.const {word}))" for at, word in enumerate(words))
    size = len(words) * 4
    return f"""(local.set $a (i32.const 1024)) (loop $fill {stores}
        (local.set $a (i32.add (local.get $a) (i32.const {size})))
        (br_if $fill (i32.lt_u (local.get $a) (i32.const {1024 + 160 * size}))))"""


COMPONENT_KINDS = {
    "names of a list": f"""{listed(65536, 40000, 65536, 0)}
        (call $listed (i32.const 1024) (i32.const 160) (i32.const 512))""",
    "fields": "(drop (call $fields))",
    "lines of fields": f"(local.set $a (call $fields)) {APPEND}",
    "copies of fields": f"""(local.set $a (call $fields)) {APPEND} (loop $copies
        (drop (call $clone (local.get $a))) (br $copies))""",
    "requests": "(drop (call $request (call $fields)))",
    "paths": """(drop (call $path (call $request (call $fields))
        (i32.const 1) (i32.const 65535) (i32.const 40000)))""",
    "headers of requests": f"""(local.set $a (call $fields)) {APPEND}
        (local.set $b (call $request (local.get $a)))
        (loop $copies (drop (call $headers (local.get $b))) (br $copies))""",
    "options": "(drop (call $options))",
    "pollables": "(drop (call $after (i64.const 1)))",
    "bodies": f"{NEW} {BODY}",
    "sent requests": "(drop (call $sent))",
    "responses": "(drop (call $answer))",
    "headers of responses": """(local.set $a (call $answer))
        (loop $l (drop (call $response-headers (local.get $a))) (br $l))""",
    "streams of responses": """(call $consume (call $answer) (i32.const 1024))
        (call $read-stream (i32.load (i32.const 1028)) (i32.const 1024))""",
}


@pytest.mark.parametrize("kind", COMPONENT_KINDS)
def test_everything_a_component_makes_the_host_hold_is_counted(
    components: Components, origin: Origin, kind: str
) -> None:
    text = hoarding(forever(COMPONENT_KINDS[kind]), authority=origin.authority)
    with components.load(text, limits=LIMITS, outbound=ANY_HOST) as guest:
        tracemalloc.start()
        try:
            result = guest.run(timeout_s=60)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (result.outcome, result.detail, result.limit) == ("memory_exceeded", MESSAGE, "hostMemory")
    # What the account says is what the host holds, give or take: what is counted costs no more than half as much again.
    assert peak < 1.5 * HELD + MIB


def test_what_a_component_gives_back_counts_no_more(components: Components) -> None:
    once = f"(local.set $a (call $fields)) {APPEND} (call $drop-fields (local.get $a))"
    text = hoarding(
        f"""(loop $again {once} (local.set $b (i32.add (local.get $b) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $b) (i32.const 1000))))"""
    )
    with components.load(text, limits=LIMITS, outbound=ANY_HOST) as guest:
        assert guest.run().outcome == "completed"


def test_unsent_bodies_of_a_component_take_half_and_no_more(components: Components, origin: Origin) -> None:
    """`check-write` permits nothing once they fill it: more than that is a trap of its own, as WASI has it."""
    text = hoarding(forever(f"{NEW} {BODY} {WRITE}"), authority=origin.authority)
    with components.load(text, limits=LIMITS, outbound=ANY_HOST) as guest:
        result = guest.run()
    assert (result.outcome, result.detail) == (
        "trapped",
        "wasm error: wasi:io/streams write: more than check-write permitted",
    )


@pytest.mark.parametrize("path", ["/bytes/300000", "/chunked/300000"])
def test_unread_responses_are_counted(components: Components, origin: Origin, path: str) -> None:
    """A body that holds nothing always takes a piece: then it is the account that ends the guest."""
    text = hoarding(forever("(drop (call $answer))"), authority=origin.authority, path=path)
    with components.load(text, limits=LIMITS, outbound=ANY_HOST) as guest:
        result = guest.run()
    assert (result.outcome, result.detail, result.limit) == ("memory_exceeded", MESSAGE, "hostMemory")


LEGACY_FIELDS = "(call $new-fields (i32.const 64) (i32.const 1))"
LEGACY_WRITE = "(call $write (i32.load (i32.const 4)) (i32.const 0) (i32.const 60000) (i32.const 8))"
LEGACY_OPEN = "(call $outgoing-request-write (local.get $f) (i32.const 0))"


def legacy_answer(asked: str) -> str:
    return f"""(call $future-incoming-response-get {handle(asked)} (i32.const 0))
      (if (i32.load (i32.const 4)) (then unreachable))"""


LEGACY_KINDS = {
    "fields": f"(drop {FIELDS})",
    "lines of fields": f"(drop {LEGACY_FIELDS})",
    "requests": f"(drop {request()})",
    "paths": f"(drop {request(path_len=60000)})",
    "bodies": f"(local.set $f {request()}) {LEGACY_OPEN}",
    "written bytes": f"(local.set $f {request()}) {LEGACY_OPEN} {LEGACY_WRITE}",
    "sent requests": f"(drop {handle('ASKED')})",
    "responses": legacy_answer("ASKED"),
    "streams of responses": f"""{legacy_answer("ASKED")}
      (call $incoming-response-consume (i32.load (i32.const 8)) (i32.const 16))""",
    "pollables": f"""(local.set $f {handle("ASKED")})
      (loop $l (drop (call $listen-to-future-incoming-response (local.get $f))) (br $l))""",
    "responses of their own": f"(drop (call $new-outgoing-response (i32.const 200) {FIELDS}))",
}


@pytest.mark.parametrize("kind", LEGACY_KINDS)
def test_everything_a_core_guest_makes_the_host_hold_is_counted(origin: Origin, kind: str) -> None:
    authority = origin.authority
    asked = request(authority_len=len(authority))
    data = f"""(data (i32.const 1024) "{authority}") (data (i32.const 1280) "/echo")
      (data (i32.const 64) "\\00\\10\\00\\00\\64\\00\\00\\00\\00\\20\\00\\00\\20\\4e\\00\\00")"""
    start = f"""(memory.fill (i32.const 4096) (i32.const 97) (i32.const 50000))
      {forever(LEGACY_KINDS[kind].replace("ASKED", asked))}"""
    runner = Runner(
        module(start, data=data),
        Outbound(),
        limits=OutboundLimits(requests=100_000, concurrency=1_000),
        entries=1_000_000,
        host_memory=HELD,
    )
    tracemalloc.start()
    try:
        ran = runner.run(timeout_s=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        runner.outbound.close()
    assert (type(ran.ended), ran.trap) == (HostMemoryExceeded, MESSAGE.replace("hostMemory", "host_memory_bytes"))
    assert peak < 1.5 * HELD + MIB


def test_a_body_of_a_core_guest_counts_until_it_is_sent() -> None:
    """The guest has dropped its handles, the origin does not read: the bytes are there all the same."""
    account = Account(HELD)
    writer = Writer(account)
    writer.append(b"x" * MIB)
    with Silent() as origin_that_waits:
        outbound = Outbound()
        exchanges = outbound.begin(
            Policy.parse(["http://127.0.0.1:*"]), OutboundLimits(), time.monotonic_ns() + 20 * 10**9, account=account
        )
        wanted = Request(method="POST", scheme="http", authority=origin_that_waits.authority)
        exchange = exchanges.start(wanted, None, exchanges.whole_body(writer.data, writer))
        del writer
        assert account.held > MIB
        exchanges.turn()
        assert account.held > MIB
        exchange.close()
        exchanges.close()
        del exchange
        assert account.held < MIB
        outbound.close()
