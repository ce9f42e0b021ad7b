"""Guests that pass what nobody should pass: each ends with a message that names function and argument."""

from collections.abc import Iterator

import pytest

from hostfuncs import legacy_http
from hostfuncs.abi import GuestTrapped, HostMemoryExceeded, HostTrap
from hostfuncs.outbound import Outbound, OutboundLimits
from tests.host.legacy_runner import Ran, Runner
from tests.origins import Origin

# Bump allocator; the start of memory is left for strings and results.
REALLOC = """
  (global $heap (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
"""


def _imports() -> str:
    types = {"i": "i32", "I": "i64"}
    lines = []
    for module, functions in legacy_http.MODULES.items():
        for function in functions:
            params = " ".join(types[letter] for letter in function.params)
            result = f" (result {types[function.result]})" if function.result else ""
            head = f'(import "{module}" "{function.name}" (func ${function.name}'
            lines.append(f"{head} (param {params}){result}))" if params else f"{head}{result}))")
    return "\n".join(lines)


IMPORTS = _imports()


def module(start: str, *, realloc: str = REALLOC, data: str = "") -> str:
    return f"""(module {IMPORTS} (memory (export "memory") 2) {realloc} {data}
      (func (export "_start") (local $r i32) (local $f i32) {start}))"""


# Pieces: fields, then a request to the authority at 1024, path at 1280.
FIELDS = "(call $new-fields (i32.const 0) (i32.const 0))"


def request(method: int = 0, scheme: int = 0, headers: str = FIELDS, authority_len: int = 0, path_len: int = 5) -> str:
    return f"""(call $new-outgoing-request (i32.const {method}) (i32.const 0) (i32.const 0)
      (i32.const 1280) (i32.const {path_len}) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const {scheme})
      (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const {authority_len}) {headers})"""


def handle(req: str) -> str:
    return f"(call $handle {req} {'(i32.const 0) ' * 7})"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture(scope="module")
def outbound() -> Iterator[Outbound]:
    engine = Outbound()
    yield engine
    engine.close()


def run(outbound: Outbound, text: str, **settings: object) -> Ran:
    ran = Runner(text, outbound, **settings).run()  # type: ignore[arg-type]
    assert ran.failure is None
    return ran


def _calls_with(argument: str) -> list[tuple[str, str]]:
    """Every function that takes a handle first, called with a forged one: (full name, call)."""
    found = []
    for name, functions in legacy_http.MODULES.items():
        for function in functions:
            if function.name in ("new-fields", "new-outgoing-request", "new-outgoing-response", "log-it", "request"):
                continue
            rest = "".join(f"({'i32' if letter == 'i' else 'i64'}.const 64) " for letter in function.params[1:])
            if function.name == "handle":
                rest = "(i32.const 0) " * 7
            call = f"(call ${function.name} {argument} {rest})"
            found.append((f"{name}.{function.name}", f"(drop {call})" if function.result else call))
    return found


@pytest.mark.parametrize(("name", "call"), _calls_with("(i32.const 77)"), ids=lambda value: value[:40])
def test_unknown_handles(outbound: Outbound, name: str, call: str) -> None:
    ran = run(outbound, module(call))
    assert isinstance(ran.ended, HostTrap)
    assert ran.message.startswith(f"{name}: ")
    assert "77 is no handle of this invocation, not " in ran.message


@pytest.mark.parametrize(("name", "call"), _calls_with("(i32.const -1)"), ids=lambda value: value[:40])
def test_forged_handles(outbound: Outbound, name: str, call: str) -> None:
    ran = run(outbound, module(call))
    assert ran.message.startswith(f"{name}: ")
    assert "4294967295 is no handle" in ran.message


@pytest.mark.parametrize(("name", "call"), _calls_with("(i32.const 0)"), ids=lambda value: value[:40])
def test_zero_is_no_handle(outbound: Outbound, name: str, call: str) -> None:
    assert run(outbound, module(call)).message.startswith(f"{name}: ")


@pytest.mark.parametrize(("name", "call"), _calls_with("(local.get $r)"), ids=lambda value: value[:40])
def test_handles_of_another_kind(outbound: Outbound, name: str, call: str) -> None:
    start = f"(local.set $r (call $new-outgoing-response (i32.const 200) {FIELDS}))"
    if name.endswith(("drop-outgoing-response", "outgoing-response-write")):
        start = f"(local.set $r {FIELDS})"
    ran = run(outbound, module(start + call))
    assert ran.message.startswith(f"{name}: ")
    assert "is a handle of " in ran.message


@pytest.mark.parametrize(
    ("drop", "use", "name"),
    [
        ("$drop-fields", "(call $fields-entries (local.get $r) (i32.const 0))", "types.fields-entries: fields"),
        ("$drop-fields", "(call $drop-fields (local.get $r))", "types.drop-fields: fields"),
    ],
)
def test_dropped_handles(outbound: Outbound, drop: str, use: str, name: str) -> None:
    ran = run(outbound, module(f"(local.set $r {FIELDS}) (call {drop} (local.get $r)) {use}"))
    assert ran.message == f"{name} 1 is a handle that was dropped, not fields"


def test_handles_are_not_used_again(outbound: Outbound) -> None:
    """A dropped handle never comes to mean something that was made later."""
    start = (
        f"(local.set $r {FIELDS}) (call $drop-fields (local.get $r)) (drop {FIELDS}) (call $drop-fields (local.get $r))"
    )
    assert "1 is a handle that was dropped" in run(outbound, module(start)).message


def test_handles_end_with_the_run(outbound: Outbound) -> None:
    runner = Runner(module(f"(if (i32.ne {FIELDS} (i32.const 1)) (then unreachable))"), outbound)
    for _ in range(3):
        assert runner.run().ended is None


@pytest.mark.parametrize("method", [10, 11, 255, -1])
def test_method_numbers(outbound: Outbound, method: int) -> None:
    ran = run(outbound, module(f"(drop {request(method)})"))
    assert ran.message == (f"types.new-outgoing-request: method {method & 0xFFFFFFFF} is unknown; 0 to 9 are defined")


@pytest.mark.parametrize("scheme", [3, -1])
def test_scheme_numbers(outbound: Outbound, scheme: int) -> None:
    ran = run(outbound, module(f"(drop {request(scheme=scheme)})"))
    assert ran.message.startswith(f"types.new-outgoing-request: scheme {scheme & 0xFFFFFFFF} is unknown")


OUTSIDE = [
    ("(drop (call $new-fields (i32.const -16) (i32.const 1)))", "types.new-fields: fields"),
    ("(drop (call $new-fields (i32.const 131064) (i32.const 1)))", "types.new-fields: fields"),
    (
        "(i32.store (i32.const 0) (i32.const -1)) (i32.store (i32.const 4) (i32.const 9))"
        "(drop (call $new-fields (i32.const 0) (i32.const 1)))",
        "types.new-fields: name of field 0",
    ),
    (
        "(i32.store (i32.const 8) (i32.const 131071)) (i32.store (i32.const 12) (i32.const 2))"
        "(drop (call $new-fields (i32.const 0) (i32.const 1)))",
        "types.new-fields: value of field 0",
    ),
    (f"(call $fields-entries {FIELDS} (i32.const 131068))", "types.fields-entries: out"),
    (f"(call $fields-entries {FIELDS} (i32.const -4))", "types.fields-entries: out"),
    (f"(drop {request(authority_len=-1)})", "types.new-outgoing-request: authority"),
    (f"(call $outgoing-request-write {request()} (i32.const -8))", "types.outgoing-request-write: out"),
    (
        f"(call $future-incoming-response-get {handle(request())} (i32.const 131064))",
        "types.future-incoming-response-get: out",
    ),
    ("(call $log-it (i32.const 1) (i32.const -1))", "types.log-it: line"),
    (
        f"(call $outgoing-request-write {request()} (i32.const 0))"
        "(call $write (i32.load (i32.const 4)) (i32.const 131000) (i32.const 1000) (i32.const 0))",
        "streams.write: bytes",
    ),
    (
        f"(call $outgoing-request-write {request()} (i32.const 0))"
        "(call $write (i32.load (i32.const 4)) (i32.const 0) (i32.const -1) (i32.const 0))",
        "streams.write: bytes",
    ),
    (
        f"(call $outgoing-request-write {request()} (i32.const 0))"
        "(call $write (i32.load (i32.const 4)) (i32.const 0) (i32.const 1) (i32.const -1))",
        "streams.write: out",
    ),
]


@pytest.mark.parametrize(("start", "message"), OUTSIDE, ids=[case[1] for case in OUTSIDE])
def test_pointers_outside_memory(outbound: Outbound, start: str, message: str) -> None:
    ran = run(outbound, module(start))
    assert isinstance(ran.ended, HostTrap)
    assert ran.message.startswith(message + ": ")
    assert "outside the guest's memory of 131072 bytes" in ran.message


@pytest.mark.parametrize("count", [129, 2**16, -1])
def test_more_fields_than_a_request_may_have(outbound: Outbound, count: int) -> None:
    ran = run(outbound, module(f"(drop (call $new-fields (i32.const 0) (i32.const {count})))"))
    assert ran.message.startswith(f"types.new-fields: fields: {count & 0xFFFFFFFF} entries are more than")


def test_fields_that_name_the_same_bytes_again_and_again(outbound: Outbound) -> None:
    """120 entries of 100,000 bytes each would be 12 MB out of 128 KiB of memory."""
    start = """(loop $next
      (i32.store offset=4 (local.get $r) (i32.const 100000))
      (local.set $r (i32.add (local.get $r) (i32.const 16)))
      (br_if $next (i32.lt_u (local.get $r) (i32.const 1920))))
      (drop (call $new-fields (i32.const 0) (i32.const 120)))"""
    assert run(outbound, module(start)).message.startswith("types.new-fields: fields: more than 65536 bytes")


def test_a_flood_of_handles(outbound: Outbound) -> None:
    ran = run(outbound, module(f"(loop $next (drop {FIELDS}) (br $next))"), entries=100)
    assert ran.message.startswith("types.new-fields: more than 100 handles are alive")


def test_what_a_dropped_handle_held_counts_no_more(outbound: Outbound) -> None:
    call = request(path_len=65536)
    start = f"""(memory.fill (i32.const 1280) (i32.const 97) (i32.const 65536))
      (loop $next
        (call $drop-outgoing-request {call})
        (local.set $r (i32.add (local.get $r) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $r) (i32.const 400))))"""
    assert run(outbound, module(start)).ended is None


def test_a_flood_of_requests_is_refused_not_fatal(outbound: Outbound, origin: Origin) -> None:
    authority = origin.authority
    data = f'(data (i32.const 1024) "{authority}") (data (i32.const 1280) "/echo")'
    start = f"""(local.set $f {request(authority_len=len(authority))})
      (loop $next
        (drop {handle("(local.get $f)")})
        (local.set $r (i32.add (local.get $r) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $r) (i32.const 200))))"""
    ran = run(outbound, module(start, data=data), limits=OutboundLimits(requests=10))
    assert ran.ended is None
    assert [record.denied for record in ran.usage].count("limit") == len(ran.usage) - 10
    assert outbound.connections()[0] == 0


# A body of 60,000 bytes is written to the new request in $f, twelve times.
WRITE = """(call $outgoing-request-write (local.get $f) (i32.const 0))
    (local.set $n (i32.const 12))
    (loop $more
      (call $write (i32.load (i32.const 4)) (i32.const 0) (i32.const 60000) (i32.const 8))
      (if (i32.eqz (i32.load (i32.const 8))) (then (local.set $written (i32.add (local.get $written) (i32.const 1)))))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $more (local.get $n)))"""


@pytest.mark.parametrize("dropped", [False, True])
def test_bodies_that_are_hoarded(outbound: Outbound, dropped: bool) -> None:
    """Forty bodies of 720,000 bytes are more than the host may hold, unless the guest drops each before the next."""
    drop = "(call $drop-output-stream (i32.load (i32.const 4))) (call $drop-outgoing-request (local.get $f))"
    start = f"""(local $n i32) (local $written i32) (loop $next
        (local.set $f {request()}) {WRITE} {drop if dropped else ""}
        (local.set $r (i32.add (local.get $r) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $r) (i32.const 40))))
      (call $log-it (i32.const 0) (local.get $written))"""
    ran = run(outbound, module(start), limits=OutboundLimits(body_bytes=1_000_000), host_memory=4_000_000)
    if dropped:
        assert (ran.ended, ran.trap, len(ran.log[0])) == (None, "", 480)
    else:
        assert isinstance(ran.ended, HostMemoryExceeded)


def test_a_large_body_sent_again_and_again(outbound: Outbound, origin: Origin) -> None:
    """Fifty requests with the same body of 720,000 bytes hold it once, and nobody waits for an answer."""
    authority = origin.authority
    data = f'(data (i32.const 70000) "x") (data (i32.const 1024) "{authority}") (data (i32.const 1280) "/echo")'
    start = f"""(local $n i32) (local $written i32)
      (local.set $f {request(2, authority_len=len(authority))}) {WRITE}
      (loop $next
        (drop {handle("(local.get $f)")})
        (local.set $r (i32.add (local.get $r) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $r) (i32.const 50))))"""
    limits = OutboundLimits(body_bytes=1_000_000)
    ran = run(outbound, module(start, data=data), limits=limits, host_memory=4_000_000)
    assert (ran.ended, ran.trap) == (None, "")
    assert [record.outcome for record in ran.usage] == ["dropped"] * 50


def test_unasked_flags(outbound: Outbound) -> None:
    call = f"(drop (call $handle {request()} (i32.const 2) {'(i32.const 0) ' * 6}))"
    assert run(outbound, module(call)).message == "default-outgoing-HTTP.handle: has_options is 2; 0 and 1 are defined"


def test_an_enormous_length_is_bounded(outbound: Outbound, origin: Origin) -> None:
    authority = origin.authority
    data = f'(data (i32.const 1024) "{authority}") (data (i32.const 1280) "/echo")'
    start = f"""(call $future-incoming-response-get {handle(request(authority_len=len(authority)))} (i32.const 0))
      (call $incoming-response-consume (i32.load (i32.const 8)) (i32.const 16))
      (call $read (i32.load (i32.const 20)) (i64.const -1) (i32.const 32))
      (if (i32.load (i32.const 32)) (then unreachable))"""
    ran = run(outbound, module(start, data=data))
    assert (ran.ended, ran.trap) == (None, "")


# cabi_realloc

ENTRIES = """(i32.store (i32.const 4) (i32.const 1)) (i32.store (i32.const 12) (i32.const 1))
  (call $fields-entries (call $new-fields (i32.const 0) (i32.const 1)) (i32.const 64))"""


def realloc(body: str) -> str:
    return f'(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {body})'


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("", "the module exports no function 'cabi_realloc'"),
        ('(func (export "cabi_realloc") (param i32) (result i32) (i32.const 0))', "exports no function 'cabi_realloc'"),
        ('(global (export "cabi_realloc") i32 (i32.const 0))', "exports no function 'cabi_realloc'"),
        (realloc("(i32.const 0)"), "types.fields-entries: cabi_realloc returned 0 for 16 bytes"),
        (realloc("(i32.const 131072)"), "types.fields-entries: cabi_realloc returned memory that is not there"),
        (realloc("(i32.const -4)"), "types.fields-entries: cabi_realloc returned memory that is not there"),
        (realloc("(i32.const 3)"), "types.fields-entries: cabi_realloc returned 3, which is not aligned to 4"),
        (realloc(f"(call $fields-entries {FIELDS} (i32.const 0)) (i32.const 64)"), "called from within cabi_realloc"),
        (realloc(f"(drop {FIELDS}) (i32.const 64)"), "types.new-fields was called from within cabi_realloc"),
    ],
)
def test_allocators_that_misbehave(outbound: Outbound, definition: str, message: str) -> None:
    ran = run(outbound, module(ENTRIES, realloc=definition))
    assert isinstance(ran.ended, HostTrap)
    assert message in ran.message


def test_an_allocator_that_traps(outbound: Outbound) -> None:
    ran = run(outbound, module(ENTRIES, realloc=realloc("unreachable")))
    assert isinstance(ran.ended, GuestTrapped)
    assert ran.failure is None


def test_an_allocator_that_grows_the_memory(outbound: Outbound) -> None:
    grow = realloc("(i32.mul (memory.grow (i32.const 1)) (i32.const 65536))")
    assert run(outbound, module(ENTRIES, realloc=grow)).ended is None


def test_a_module_without_memory(outbound: Outbound) -> None:
    text = f'(module {IMPORTS} (func (export "_start") (call $log-it (i32.const 0) (i32.const 1))))'
    assert run(outbound, text).message.startswith("types.log-it: line: ")


# The server's side, which a command can link but not use.


@pytest.mark.parametrize(
    "name",
    [
        "incoming-request-method",
        "incoming-request-path",
        "incoming-request-authority",
        "incoming-request-headers",
        "incoming-request-consume",
        "drop-incoming-request",
        "set-response-outparam",
    ],
)
def test_a_command_has_no_incoming_request(outbound: Outbound, name: str) -> None:
    call = next(call for full, call in _calls_with("(i32.const 1)") if full == f"types.{name}")
    assert run(outbound, module(call)).message.startswith(f"types.{name}: ")


def test_an_outgoing_response_can_be_made_and_dropped(outbound: Outbound) -> None:
    start = f"""(local.set $r (call $new-outgoing-response (i32.const 200) {FIELDS}))
      (call $outgoing-response-write (local.get $r) (i32.const 0))
      (if (i32.load (i32.const 0)) (then unreachable))
      (call $write (i32.load (i32.const 4)) (i32.const 100) (i32.const 50) (i32.const 8))
      (if (i32.ne (i32.load (i32.const 12)) (i32.const 50)) (then unreachable))
      (call $outgoing-response-write (local.get $r) (i32.const 0))
      (if (i32.ne (i32.load (i32.const 0)) (i32.const 1)) (then unreachable))
      (call $drop-outgoing-response (local.get $r))"""
    ran = run(outbound, module(start))
    assert (ran.ended, ran.trap) == (None, "")


def test_reserved_answers_zero(outbound: Outbound) -> None:
    call = f"(if (call $request {'(i32.const 5) ' * 14}) (then unreachable))"
    assert run(outbound, module(call)).ended is None
