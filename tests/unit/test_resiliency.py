"""Resiliency: every case recorded from daprd against the reader and the guard, and the parts by themselves.

The guest is a stand-in and the breakers' clock is turned by hand, so that no case depends on how fast a machine is.
"""

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandboxd.components import Loaded, Severity
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.guard import Guards
from sandboxd.front.answering.outcomes import failure
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.resiliency import Breaker, BreakerError, BreakerSettings, Policy, Retry, State, Trip, TripError, policies
from sandboxd.wire.messages import Call, Result
from tests.dapr.resiliency_cases import CASES, GOLDEN, Case, folder_of
from tests.unit.test_components import load_folder

RECORDED = {line["case"]: line for line in map(json.loads, GOLDEN.read_text().splitlines())}
NEVER_TRIPS = {"breaker by a number", "breaker by an unknown number"}
"""daprd takes these for expressions, which are never true."""
SECOND = 1_000_000_000
FAR_NS = 1 << 62


class Clock:
    """Nanoseconds that pass only when told."""

    def __init__(self) -> None:
        self.now = SECOND

    def __call__(self) -> int:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


def told(loaded: Loaded) -> list[str]:
    return [problem.message for problem in loaded.problems if problem.severity in (Severity.ERROR, Severity.WARNING)]


def test_every_case_is_recorded() -> None:
    assert list(RECORDED) == [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_recorded(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "INITIAL_INTERVAL_NS", 1_000_000)
    loaded = load_folder(folder_of(case, tmp_path / "r"))
    recorded = RECORDED[case.name]
    unread = [line for line in recorded["log"] if line.startswith("Could not")]
    unnamed = case.name in NEVER_TRIPS or case.name.startswith(("policies that are not", "a negative"))
    if unread or unnamed:
        # daprd goes on without the policy, here it is refused.
        assert loaded.errors
        return
    assert told(loaded) == []
    clock = Clock()
    guards = Guards(clock).of(loaded.bindings, Metrics(version="0"))
    runs: dict[str, int] = {}

    def answer(name: str, operation: str, args: str) -> str:
        if operation != "execute":
            # Refused before the policy is asked, in front.answering.deciding.
            return failure(name, f"binding {name} does not support operation {operation}. supported operations:execute")

        async def attempt(call: Call, by_policy: bool) -> Result:
            runs[name] = runs.get(name, 0) + 1
            if name == "loop":
                assert by_policy
                raise Failure(Outcome.DEADLINE_EXCEEDED, "the guest's own message")
            if args == "trap":
                text = f"module[multi-{runs[name]}] function[_start] failed: wasm error: unreachable"
                raise Failure(Outcome.TRAPPED, failure(name, text))
            if args.startswith("exit"):
                raise Failure(Outcome.EXIT_NONZERO, failure(name, "module closed with exit_code(3)"))
            return Result(id=0, outcome=Outcome.COMPLETED)

        async def run() -> Result:
            guard = guards.get(name)
            call = Call(deadline_ns=FAR_NS)
            return await (attempt(call, False) if guard is None else guard.run(call, attempt))

        try:
            asyncio.run(run())
        except Failure as failed:
            return failed.message
        return "ok"

    answers = []
    for step in case.calls:
        if isinstance(step, float):
            clock.turn(step)
        else:
            name, _, operation = step[0].partition(":")
            answers.append(answer(name, operation or "execute", step[1]))
    assert answers == recorded["answers"]


# the guard ------------------------------------------------------------------------------------------------------------


def guarded(policy: Policy, clock: Callable[[], int] | None = None) -> Any:
    """A guard of a binding with this policy, and its metrics."""
    from sandboxd.components import Binding

    metrics = Metrics(version="0")
    binding = Binding(name="b", version="v1", url="file://g.wasm", policy=policy)
    guards = Guards() if clock is None else Guards(clock)
    return guards.of([binding], metrics)["b"], metrics


def run(guard: Any, outcomes: list[Outcome], *, deadline_ns: int = FAR_NS, hurried: bool = False) -> tuple[int, str]:
    """Run once with attempts that end so. Return how many there were, and the outcome."""
    made = 0

    async def attempt(call: Call, by_policy: bool) -> Result:
        nonlocal made
        made += 1
        outcome = outcomes[min(made, len(outcomes)) - 1]
        if outcome is Outcome.COMPLETED:
            return Result(id=0, outcome=outcome)
        raise Failure(outcome, "failed")

    try:
        asyncio.run(guard.run(Call(deadline_ns=deadline_ns), attempt, hurried=hurried))
    except Failure as failed:
        return made, failed.outcome.value
    return made, "completed"


def sample(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"binding": "b"})


def test_retries_until_it_succeeds_are_counted() -> None:
    guard, metrics = guarded(Policy(retry=Retry(duration_ns=1)))
    assert run(guard, [Outcome.TRAPPED] * 3 + [Outcome.COMPLETED]) == (4, "completed")
    assert sample(metrics, "sandboxd_resiliency_retries_total") == 3


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.NOT_FOUND, Outcome.BAD_REQUEST])
def test_what_no_guest_has_caused_is_neither_retried_nor_counted_by_the_breaker(outcome: Outcome) -> None:
    breaker = BreakerSettings(name="c", trip=Trip("consecutiveFailures >= 1"))
    guard, metrics = guarded(Policy(retry=Retry(duration_ns=1), breaker=breaker))
    assert run(guard, [outcome]) == (1, outcome.value)
    assert sample(metrics, "sandboxd_circuit_breaker_state") == State.CLOSED


def test_no_attempt_is_waited_for_that_the_deadline_leaves_no_time_for() -> None:
    guard, _ = guarded(Policy(retry=Retry(duration_ns=SECOND)))
    assert run(guard, [Outcome.TRAPPED], deadline_ns=1) == (1, "trapped")


def test_a_callers_deadline_does_not_open_the_breaker() -> None:
    breaker = BreakerSettings(name="c", trip=Trip("consecutiveFailures >= 1"))
    guard, metrics = guarded(Policy(breaker=breaker))
    assert run(guard, [Outcome.DEADLINE_EXCEEDED], deadline_ns=1, hurried=True) == (1, "deadline_exceeded")
    assert sample(metrics, "sandboxd_circuit_breaker_state") == State.CLOSED
    assert run(guard, [Outcome.DEADLINE_EXCEEDED], deadline_ns=1) == (1, "deadline_exceeded")
    assert sample(metrics, "sandboxd_circuit_breaker_state") == State.OPEN
    assert run(guard, [Outcome.COMPLETED]) == (0, "circuit_open")


def test_a_caller_that_goes_frees_its_place_in_a_half_open_breaker() -> None:
    clock = Clock()
    breaker = BreakerSettings(name="c", trip=Trip("consecutiveFailures >= 1"), timeout_ns=SECOND)
    guard, _ = guarded(Policy(breaker=breaker), clock)
    assert run(guard, [Outcome.TRAPPED]) == (1, "trapped")
    clock.turn(2)

    async def leaves() -> None:
        async def attempt(call: Call, by_policy: bool) -> Result:
            await asyncio.Event().wait()
            raise AssertionError

        task = asyncio.create_task(guard.run(Call(deadline_ns=FAR_NS), attempt))
        await asyncio.sleep(0)
        with pytest.raises(Failure, match="too many requests"):
            await guard.run(Call(deadline_ns=FAR_NS), attempt)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leaves())
    assert run(guard, [Outcome.COMPLETED]) == (1, "completed")


def test_the_timeout_is_each_attempts_and_never_later_than_the_requests() -> None:
    guard, _ = guarded(Policy(timeout_ns=SECOND, retry=Retry(duration_ns=1, max_retries=1)))
    seen = []

    async def attempt(call: Call, by_policy: bool) -> Result:
        seen.append((call.deadline_ns, by_policy))
        raise Failure(Outcome.TRAPPED, "failed")

    with pytest.raises(Failure):
        asyncio.run(guard.run(Call(deadline_ns=FAR_NS), attempt))
    (first, first_by), (second, second_by) = seen
    assert first < second < FAR_NS
    assert first_by
    assert second_by
    seen.clear()
    with pytest.raises(Failure):
        asyncio.run(guard.run(Call(deadline_ns=7), attempt))
    assert seen == [(7, False)]


def test_a_breaker_outlives_a_reload_that_leaves_its_settings() -> None:
    from sandboxd.components import Binding

    metrics, guards = Metrics(version="0"), Guards()
    settings = BreakerSettings(name="c", trip=Trip("consecutiveFailures >= 1"))
    binding = Binding(name="b", version="v1", url="file://g.wasm", policy=Policy(breaker=settings))
    assert run(guards.of([binding], metrics)["b"], [Outcome.TRAPPED]) == (1, "trapped")
    assert run(guards.of([binding], metrics)["b"], [Outcome.TRAPPED]) == (0, "circuit_open")
    changed = Binding(name="b", version="v1", url="file://g.wasm", policy=Policy(breaker=BreakerSettings(name="d")))
    assert run(guards.of([changed], metrics)["b"], [Outcome.TRAPPED]) == (1, "trapped")


# the parts ------------------------------------------------------------------------------------------------------------


def test_exponential_pauses_are_those_of_backoff() -> None:
    """cenkalti/backoff v4, exponential.go: 0.5 s, half as long again each time, up to maxInterval, spread by a half."""
    retry = Retry(exponential=True, max_interval_ns=2 * SECOND, max_retries=6)
    middle = [pause / SECOND for pause in retry.pauses(lambda: 0, lambda: 0.5)]
    assert middle == pytest.approx([0.5, 0.75, 1.125, 1.6875, 2, 2], abs=1e-6)
    assert [pause / SECOND for pause in retry.pauses(lambda: 0, lambda: 0.0)][:2] == pytest.approx([0.25, 0.375])
    late = Retry(exponential=True).pauses(lambda: 900 * SECOND, lambda: 0.5)
    assert list(late) == []


def test_the_states_of_a_breaker() -> None:
    """sony/gobreaker v0.5.0: TestCustomCircuitBreaker, in essence."""
    clock = Clock()
    changes: list[tuple[State, State]] = []
    settings = BreakerSettings(
        name="c", max_requests=3, interval_ns=30 * SECOND, timeout_ns=90 * SECOND,
        trip=Trip("requests >= 3 && double(totalFailures) / double(requests) >= 0.6"),
    )  # fmt: skip
    breaker = Breaker("c", settings, lambda before, after: changes.append((before, after)), clock)

    def call(ok: bool) -> None:
        breaker.leave(breaker.enter(), ok=ok)

    for _ in range(5):
        call(True)
        call(False)
    clock.turn(31)
    call(True)
    call(False)
    assert breaker.state is State.CLOSED
    call(False)
    assert breaker.state is State.OPEN
    with pytest.raises(BreakerError, match="circuit breaker is open"):
        breaker.enter()
    clock.turn(91)
    assert breaker.state is State.HALF_OPEN
    tokens = [breaker.enter() for _ in range(3)]
    with pytest.raises(BreakerError, match="too many requests"):
        breaker.enter()
    for token in tokens:
        breaker.leave(token, ok=True)
    assert breaker.state is State.CLOSED
    # A call of an earlier state is not counted.
    breaker.leave(tokens[0], ok=False)
    assert [(str(before), str(after)) for before, after in changes] == [
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "closed"),
    ]


COUNTS = {
    "requests": 10,
    "totalSuccesses": 6,
    "totalFailures": 4,
    "consecutiveSuccesses": 0,
    "consecutiveFailures": 3,
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("consecutiveFailures > 2", True),
        ("consecutiveFailures>=4||totalFailures==4", True),
        ("!(requests != 10) && true", True),
        ("totalFailures / requests > 0", False),
        ("-7 / 2 == -3 && -7 % 2 == -1", True),
        ("2 + 3 * 4 == 14 && (2 + 3) * 4 == 20 && 10 - 2 - 3 == 5", True),
        ("double(totalFailures) / double(requests) == 0.4", True),
        ("int(2.9) == 2 && double(2) == 2.0", True),
        ("totalFailures > 3.5", True),
        ("1.0 / 0.0 > 1e300 && 0x0A == requests", True),
        # Errors are false, and do not count beside an operand that decides.
        ("1 / 0 > 0", False),
        ("1 / 0 > 0 || requests == 10", True),
        ("1 / 0 > 0 && requests == 1", False),
        ("!(1 / 0 > 0 && requests == 10)", False),
        ("requests * 1.5 > 1.0", False),
        ("9223372036854775807 + requests > 0", False),
        ("(requests > 1) == (totalFailures > 1)", True),
    ],
)
def test_an_expression_is_what_cel_makes_of_it(text: str, wanted: bool) -> None:
    assert Trip(text).holds(COUNTS) is wanted


@pytest.mark.parametrize(
    "text",
    ["", "requests", "requests >", "failures > 1", "requests > 1 ? true : false", "(requests > 1", "requests > 1)",
     "requests > 'a'", "requests.size() > 1", "1 < 2 < 3", "true + 1 > 2", "!requests", "-true", "x" * 1001,
     "(" * 60 + "true" + ")" * 60, "9223372036854775808 > 1", "requests > 1 requests"],
)  # fmt: skip
def test_more_of_cel_is_refused(text: str) -> None:
    with pytest.raises(TripError):
        Trip(text)


def test_nan_is_not_larger() -> None:
    assert math.isnan(float("nan"))
    assert Trip("0.0 / 0.0 >= 0.0").holds(COUNTS) is False
    assert Trip("1.0 / -0.0 < 0.0").holds(COUNTS) is True
