"""Durations, sizes and CPU counts. Duration values are those of Go's own time.ParseDuration tests (time_test.go)."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.config.machine import cgroup_cpus, cpu_count
from sandboxd.limits.units import format_duration_ms, format_size, parse_duration_ms, parse_duration_ns, parse_size

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("5s", 5 * SECOND),
        ("30s", 30 * SECOND),
        ("1478s", 1478 * SECOND),
        ("+5s", 5 * SECOND),
        ("+0", 0),
        ("5.0s", 5 * SECOND),
        ("5.6s", 5 * SECOND + 600_000_000),
        ("5.s", 5 * SECOND),
        (".5s", SECOND // 2),
        ("1.004s", SECOND + 4_000_000),
        ("100.00100s", 100 * SECOND + 1_000_000),
        ("10ns", 10),
        ("11us", 11_000),
        ("12µs", 12_000),
        ("12μs", 12_000),
        ("13ms", 13_000_000),
        ("15m", 15 * 60 * SECOND),
        ("16h", 16 * 3600 * SECOND),
        ("3h30m", (3 * 3600 + 30 * 60) * SECOND),
        ("10.5s4m", 4 * 60 * SECOND + 10 * SECOND + SECOND // 2),
        ("1h2m3s4ms5us6ns", 3723 * SECOND + 4_005_006),
        ("9223372036854775807ns", (1 << 63) - 1),
        ("0.3333333333333333333h", 20 * 60 * SECOND),
        ("0.100000000000000000000h", 6 * 60 * SECOND),
        ("0.830103483285477580700h", 49 * 60 * SECOND + 48 * SECOND + 372_539_827),
    ],
)
def test_durations_as_go_reads_them(text: str, expected: int) -> None:
    assert parse_duration_ns(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "3", "-", "s", ".", "-.", ".s", "+.s", "-5s", "1x", "1 s", "5S", "3000000h", "9223372036854775808ns", "٣s"],
)
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration_ns(text)


def test_a_positive_duration_never_becomes_zero_milliseconds() -> None:
    assert parse_duration_ms("1ns") == 1
    assert parse_duration_ms("1.5ms") == 2


@given(st.integers(0, 10**12))
def test_durations_come_back(value: int) -> None:
    assert parse_duration_ms(format_duration_ms(value)) == value


def test_durations_are_written_briefly() -> None:
    assert [format_duration_ms(n) for n in (0, 250, 1000, 90_000, 3_600_000, 3_661_000)] == [
        "0s", "250ms", "1s", "1m30s", "1h", "1h1m1s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("65536", 65536),
        ("10B", 10),
        ("64Ki", 65536),
        ("64KiB", 65536),
        ("4Mi", 4 << 20),
        ("1.5Gi", 3 << 29),
        ("1k", 1000),
        ("1K", 1000),
        ("2MB", 2_000_000),
        ("1G", 10**9),
        ("1TiB", 1 << 40),
        ("4 MiB", 4 << 20),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "100m", "1Mib", "1iB", "Ki", "1KiKi", "0x10", "1e6", "٣", "9999999999T"]
)
def test_not_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|whole number of bytes"):
        parse_size(text)


@given(st.integers(0, (1 << 63) - 1))
def test_sizes_come_back(value: int) -> None:
    if value < 10**18:  # at most 18 digits are read
        assert parse_size(format_size(value)) == value


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for parse in (parse_duration_ns, parse_size):
        with contextlib.suppress(ValueError):
            assert 0 <= parse(text) < 1 << 63


def _cgroup(root: Path, quotas: dict[str, str]) -> Path:
    for folder, text in quotas.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "cpu.max").write_text(text)
    own = root / "self"
    own.write_text("4:memory:/elsewhere\n0::/a/b\n")
    return own


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({"a/b": "150000 100000\n"}, 1.5),
        ({"a/b": "max 100000\n", "a": "200000 100000\n"}, 2.0),
        ({"a/b": "400000 100000\n", "a": "50000 100000\n"}, 0.5),
        ({"a/b": "max 100000\n"}, None),
        ({"a/b": "garbage", "a": "1 0"}, None),
        ({}, None),
    ],
)
def test_the_smallest_cpu_quota_on_the_way_to_the_root_counts(
    tmp_path: Path, quotas: dict[str, str], expected: float | None
) -> None:
    own = _cgroup(tmp_path, quotas)
    assert cgroup_cpus(tmp_path, own) == expected


def test_a_cgroup_outside_the_namespace_or_missing_limits_nothing(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.write_text("0::/../../x\n")
    assert cgroup_cpus(tmp_path, own) is None
    assert cgroup_cpus(tmp_path, tmp_path / "absent") is None


def test_this_machine_has_a_cpu() -> None:
    assert cpu_count() >= 1
