"""The names of limits in answers and metrics."""

import dataclasses

import pytest

import hostfuncs.outbound as hostfuncs
from hostfuncs.outbound.errors import ERROR_CODES
from sandboxd.components.metadata import metadata_table
from sandboxd.config.settings import settings
from sandboxd.limits import KIB, MIB, Limits, OutboundSettings
from sandboxd.limits.keys import (
    ALL_KEYS,
    BODY_KEY,
    CONNECTIONS_KEY,
    DEFAULT_CEILINGS,
    LIMITS,
    converted,
    key_of,
    named,
    outbound_limit,
)
from sandboxd.limits.units import Unit
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import OutboundUsage, Result


def test_every_limit_has_a_key_a_unit_and_a_place_in_the_documentation() -> None:
    assert list(LIMITS) == [field.name for field in dataclasses.fields(Limits)]
    documented = metadata_table(Limits(), DEFAULT_CEILINGS)
    for field, row in LIMITS.items():
        row.check(getattr(Limits(), field))
        row.check(getattr(DEFAULT_CEILINGS, field))
        assert key_of(field) == row.key
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
    unit = LIMITS[field].unit if field in LIMITS else Unit.SIZE
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


def test_the_outbound_engine_gets_every_limit_and_setting_of_its_own() -> None:
    limits = Limits(**{field: number for number, field in enumerate(LIMITS, 100)})
    given = converted(limits, hostfuncs.OutboundLimits, prefix="outbound_")
    names = {field.removeprefix("outbound_") for field in LIMITS if field.startswith("outbound_")}
    assert names == {"requests", "concurrency", "header_bytes", "header_count", "body_bytes"}
    assert {name: getattr(given, name) for name in names} == {
        name: getattr(limits, f"outbound_{name}") for name in names
    }
    outbound = OutboundSettings(ca_files=("/ca.pem",), proxy="http://p:1", http2=True, connections=3)
    told = converted(outbound, hostfuncs.Settings)
    theirs = {field.name for field in dataclasses.fields(hostfuncs.Settings)}
    ours = {field.name for field in dataclasses.fields(OutboundSettings)}
    assert ours - theirs == {"default_allowed_hosts", "block_networks", "nat64_prefixes", "transport"}, (
        "all but the policy's"
    )
    assert all(getattr(told, name) == getattr(outbound, name) for name in ours & theirs)


def test_a_limit_that_the_outbound_engine_does_not_know_is_an_error() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class More:
        outbound_requests: int = 1
        outbound_colours: int = 1

    with pytest.raises(TypeError, match="colours"):
        converted(More(), hostfuncs.OutboundLimits, prefix="outbound_")


def test_keys_that_are_written_out_are_settings() -> None:
    assert {BODY_KEY, CONNECTIONS_KEY} <= {setting.key for setting in settings()}


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
