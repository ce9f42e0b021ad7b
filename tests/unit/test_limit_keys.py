"""How limits are named to callers and counted."""

import dataclasses

import pytest

from hostfuncs.outbound.errors import ERROR_CODES
from sandboxd.components.metadata import metadata_table
from sandboxd.limit_keys import ALL_KEYS, DEFAULT_CEILINGS, LIMITS, Unit, key_of, named, outbound_limit
from sandboxd.limits import KIB, MIB, Limits
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import OutboundUsage, Result


def test_every_limit_has_a_key_a_unit_and_a_place_in_the_documentation() -> None:
    assert [row.field for row in LIMITS] == [field.name for field in dataclasses.fields(Limits)]
    documented = metadata_table(Limits(), DEFAULT_CEILINGS)
    for row in LIMITS:
        row.check(getattr(Limits(), row.field))
        row.check(getattr(DEFAULT_CEILINGS, row.field))
        assert key_of(row.field) == row.key
        assert row.key in ALL_KEYS
        assert f"`{row.key}`" in documented


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("timeout_ms", 90_000, "1m30s (timeout)"),
        ("timeout_ms", 250, "250ms (timeout)"),
        ("stdout_bytes", 16 * MIB, "16 MiB (stdoutLimit)"),
        ("stdout_bytes", 0, "0 bytes (stdoutLimit)"),
        ("args_bytes", 1000, "1000 bytes (argsLimit)"),
        ("env_bytes", 3 * KIB, "3 KiB (envLimit)"),
        ("host_entries", 64, "64 (hostEntries)"),
        ("wasm_stack_bytes", MIB, "1 MiB (wasm.stack)"),
    ],
)
def test_names_in_messages(field: str, value: int, text: str) -> None:
    assert named(field, value) == text
    unit = next((row.unit for row in LIMITS if row.field == field), Unit.SIZE)
    shown = text.partition(" (")[0].removesuffix(" bytes")
    assert unit.parse(shown) == value


@pytest.mark.parametrize(
    ("code", "denied", "key"),
    [
        ("ok", "", ""),
        ("dropped", "", ""),
        ("HTTP-request-denied", "host", ""),
        ("HTTP-request-denied", "limit", "outboundRequests"),
        ("HTTP-request-body-size", "", ""),
        ("HTTP-request-body-size", "limit", "outboundBodyLimit"),
        ("HTTP-response-body-size", "", "outboundBodyLimit"),
        ("HTTP-request-header-size", "limit", "outboundHeaderLimit"),
        ("HTTP-response-header-section-size", "", "outboundHeaderLimit"),
        ("connection-limit-reached", "", "egress.connections"),
    ],
)
def test_outbound_requests_that_met_a_limit(code: str, denied: str, key: str) -> None:
    assert code in (*ERROR_CODES, "ok", "dropped")
    assert outbound_limit(code, denied) == key
    metrics = Metrics(version="1")
    usage = OutboundUsage(rule="*", outcome=code, duration_ns=1, denied=denied)
    metrics.binding("b").ran(Result(id=1, outcome=Outcome.COMPLETED, outbound=(usage,)), 0)
    assert counted(metrics) == ({key: 1.0} if key else {})


def test_no_error_code_counts_as_a_limit_by_chance() -> None:
    assert {outbound_limit(code, "limit") for code in ERROR_CODES} == {
        "",
        "outboundRequests",
        "outboundBodyLimit",
        "outboundHeaderLimit",
        "egress.connections",
    }


def counted(metrics: Metrics) -> dict[str, float]:
    return {
        sample.labels["limit"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "sandboxd_limits_reached_total"
    }


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Result(id=1, outcome=Outcome.COMPLETED), {}),
        (Result(id=1, outcome=Outcome.DEADLINE_EXCEEDED), {"timeout": 1.0}),
        (Result(id=1, outcome=Outcome.DEADLINE_EXCEEDED, limit="timeout"), {"timeout": 1.0}),
        (Result(id=1, outcome=Outcome.OUTPUT_EXCEEDED, limit="stdoutLimit"), {"stdoutLimit": 1.0}),
        (Result(id=1, outcome=Outcome.COMPLETED, stderr=b"x", stderr_total=1), {}),
        (Result(id=1, outcome=Outcome.COMPLETED, stderr=b"x", stderr_total=2), {"stderrLimit": 1.0}),
        (Result(id=1, outcome=Outcome.TRAPPED, limit="made up by a broken worker"), {}),
    ],
)
def test_limits_are_counted_by_their_keys(result: Result, expected: dict[str, float]) -> None:
    metrics = Metrics(version="1")
    metrics.binding("b").ran(result, 0)
    assert counted(metrics) == expected
