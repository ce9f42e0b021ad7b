"""The bounds of what a worker may say: those that the worker itself keeps, and nothing unexpected passes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.limits import Limits
from sandboxd.outcome import Outcome
from sandboxd.pool import faults
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.worker import stream

LIMITS = Limits(stdout_bytes=64, stderr_bytes=32, memory_bytes=1 << 20, outbound_requests=2)
RULES = frozenset(("", "default", "https://api.example"))
SPAN_NS = 5_000_000


@pytest.mark.parametrize("headers", [((b"a", b"b" * (128 * 1024 - 65)),), ((b"a", b""),) * (128 * 1024 // 65)])
def test_the_largest_heads_pass_and_fit_into_a_frame(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    assert faults.of_head(200, headers) == ""
    message = m.ResponseHead(1, 200, headers)
    decoder = codec.Decoder(codec.FromWorker)
    decoder.most_bytes = faults.OWN_FRAME_BYTES
    assert decoder.feed(codec.encode(message)) == [message]


def test_the_largest_result_fits_into_the_frame_of_its_binding() -> None:
    record = m.OutboundUsage(
        rule="https://api.example", outcome="HTTP-response-transfer-coding", duration_ns=SPAN_NS, denied="address"
    )
    result = m.Result(
        id=1 << 62,
        outcome=Outcome.OUTPUT_EXCEEDED,
        stdout=bytes(64),
        detail="x" * 4096,
        stderr=bytes(32),
        stderr_total=1 << 62,
        instantiate_ns=SPAN_NS,
        memory_bytes=1 << 20,
        outbound=(record,) * 68,
        http=m.HttpResponse(status=599, headers=((b"a", b"b" * (128 * 1024 - 65)),)),
        limit="stdoutLimit",
    )
    assert faults.of_result(result, LIMITS, RULES, SPAN_NS, streams=False) == ""
    assert len(codec.encode(result)) <= faults.frame_bytes(LIMITS, RULES)
    assert stream.HELD_BYTES // 16 < faults.OWN_FRAME_BYTES, "pieces of bodies are at most 64 KiB long"


numbers = st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(-2, 70)
records = st.builds(
    m.OutboundUsage,
    rule=st.sampled_from(sorted(RULES)) | st.text(max_size=5),
    outcome=st.sampled_from(["ok", "dropped", "DNS-error"]) | st.text(max_size=5),
    duration_ns=numbers,
    denied=st.sampled_from(["", "host"]) | st.text(max_size=5),
)
lines = st.tuples(
    st.sampled_from([b"a", b"content-length", b"Connection"]) | st.binary(max_size=4), st.binary(max_size=4)
)
results = st.builds(
    m.Result,
    id=numbers,
    outcome=st.sampled_from(Outcome),
    stdout=st.binary(max_size=80),
    exit_code=numbers,
    detail=st.text(max_size=10) | st.just("x" * 5000),
    stderr=st.binary(max_size=40),
    stderr_total=numbers,
    texts_cut=numbers,
    instantiate_ns=numbers,
    guest_ns=numbers,
    cpu_ns=numbers,
    memory_bytes=numbers,
    outbound=st.lists(records, max_size=3).map(tuple),
    http=st.none() | st.builds(m.HttpResponse, status=numbers, headers=st.lists(lines, max_size=3).map(tuple)),
    limit=st.sampled_from(["", "stdoutLimit"]) | st.text(max_size=10),
    queue_ns=st.just(0) | numbers,
)


@given(results, st.booleans())
def test_what_passes_is_within_the_bounds(result: m.Result, streams: bool) -> None:
    fault = faults.of_result(result, LIMITS, RULES, SPAN_NS, streams=streams)
    assert fault.isprintable()
    if fault:
        return
    assert result.outcome not in (Outcome.WORKER_LOST, Outcome.REJECTED, Outcome.NOT_FOUND, Outcome.UNAUTHORIZED)
    assert len(result.stdout) <= 64
    assert len(result.stderr) <= 32
    assert len(result.detail) <= 4096
    assert 0 <= result.exit_code < 1 << 32
    assert 0 <= result.guest_ns + result.instantiate_ns <= SPAN_NS + faults.SLACK_NS
    assert -1 <= result.cpu_ns <= SPAN_NS + SPAN_NS // faults.CLOCKS_APART + faults.SLACK_NS
    assert 0 <= result.memory_bytes <= 1 << 20
    assert result.queue_ns == 0
    assert all(record.rule in RULES for record in result.outbound)
    if result.http is not None:
        assert not streams
        assert 200 <= result.http.status < 600
        assert sum(name.lower() == b"content-length" for name, _ in result.http.headers) <= 1


@given(results)
def test_results_of_honest_shape_pass(result: m.Result) -> None:
    """The same result with every field put within its bounds."""
    failed = result.outcome is Outcome.EXIT_NONZERO
    honest = m.Result(
        id=result.id,
        outcome=Outcome.EXIT_NONZERO if failed else Outcome.COMPLETED,
        stdout=result.stdout[:64],
        exit_code=1 + result.exit_code % 255 if failed else 0,
        stderr=result.stderr[:32],
        stderr_total=len(result.stderr[:32]) + abs(result.stderr_total) % 1000,
        guest_ns=abs(result.guest_ns) % SPAN_NS,
        memory_bytes=abs(result.memory_bytes) % (1 << 20),
    )
    assert faults.of_result(honest, LIMITS, RULES, SPAN_NS, streams=False) == ""
