"""Answers for guests that failed: what is remembered of one says the same of the next that failed alike."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from sandboxd import gojson
from sandboxd.components.binding import Binding
from sandboxd.front.answering.failures import REMEMBERED_MAX, Failure, of_result
from sandboxd.front.http.failed import failure_laid, failure_reply
from sandboxd.front.ports import Served
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import OutboundUsage, Result

TEXTS = st.sampled_from(("", "wasm error: unreachable", '"<é\u2028>', "x" * 1100, "{guest}{0}%d"))
OUTPUT = st.sampled_from((b"", b"no such file or directory\n", b"\xff\n", b"y" * 1024, b"z" * 1025, b"w" * 5000))
FAILURES = st.builds(
    Result,
    id=st.just(1),
    outcome=st.sampled_from(
        (
            Outcome.TRAPPED,
            Outcome.EXIT_NONZERO,
            Outcome.MEMORY_EXCEEDED,
            Outcome.OUTPUT_EXCEEDED,
            Outcome.DEADLINE_EXCEEDED,
            Outcome.HOST_FAILED,
            Outcome.WORKER_LOST,
        )
    ),
    exit_code=st.sampled_from((0, 1, 0xFFFFFFFF)),
    detail=TEXTS,
    trace=st.sampled_from(("", "\nwasm stack trace:\n\t.$2(...)", "\nwasm stack trace:\n\t.main(...)")),
    stdout=OUTPUT,
    stderr=OUTPUT,
    stderr_total=st.sampled_from((0, 9000)),
    outbound=st.sampled_from(
        ((), (OutboundUsage(rule="", outcome="HTTP-request-denied", duration_ns=1, denied="host", target="http://b"),))
    ),
)


def served() -> Served:
    """A binding that has not failed yet."""
    binding = Binding(name='fails "<é>', version="v1", url="file:///a.wasm")
    return Served.of(binding, Metrics(version="0").binding("fails"))


def told(failed: Failure) -> tuple[object, ...]:
    """All that anybody learns of a failure."""
    trace = b"00-0-0-00"
    body = failed.body()
    return (
        *(failed.outcome, failed.status, failed.grpc, failed.code, failed.message, failed.detail),
        *(failed.reason(), failed.stderr, failed.counted, str(failed), body, failed.headers(body, trace)),
    )


@given(st.lists(FAILURES, min_size=1, max_size=30), st.booleans())
def test_what_is_remembered_is_what_would_be_made_anew(results: list[Result], http: bool) -> None:
    binding = served()
    for number, result in enumerate([*results, *results], 998):
        anew = of_result(result, served(), number, http=http)
        assert told(of_result(result, binding, number, http=http)) == told(anew)
        assert anew.body() == gojson.error_body(anew.code, anew.message, anew.detail)
        assert len(binding.failures) <= REMEMBERED_MAX


def test_a_failure_like_the_last_is_not_put_together_again() -> None:
    binding = served()
    result = Result(id=1, outcome=Outcome.TRAPPED, detail="wasm error: unreachable", stderr=b"why\n")
    of_result(result, binding, 1)
    (remembered,) = binding.failures.values()
    binding.failures[next(iter(binding.failures))] = remembered._replace(hints="; as before")
    assert of_result(result, binding, 2).reason().endswith("[_start] failed: wasm error: unreachable; as before")


@given(FAILURES)
def test_a_head_that_is_laid_out_has_the_same_headers(result: Result) -> None:
    async def main() -> None:
        binding = served()
        failed = of_result(result, binding, 1)
        span = f"00-{'a' * 32}-{'b' * 16}-00"
        status, headers, body = failure_reply(failed, binding, span, 0, http1=True)
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        assert failure_laid(failed, binding, span, 0) == (status, lines, body)

    asyncio.run(main())


@given(st.text(), st.text(), st.text(), st.integers(0, 2**40))
def test_parts_of_an_error_body(before: str, after: str, detail: str, number: int) -> None:
    parts = gojson.error_parts("ERR", (before, after), detail)
    assert str(number).encode().join(parts) == gojson.error_body("ERR", f"{before}{number}{after}", detail)
