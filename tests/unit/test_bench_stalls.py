"""The floor under tail latencies, worked out from stalls."""

import pytest

from bench.stalls import measure, wait_quantile


def test_arrivals_at_random_instants_meet_a_stall_somewhere_within_it() -> None:
    # One of 100 ms in a second: one arrival in a hundred comes in its first 10 ms and waits 90 ms or more.
    assert wait_quantile([100_000_000], 1e9, 0.99) == pytest.approx(90_000, abs=1)
    # Ten of 10 ms: likewise in the first millisecond of one of them.
    assert wait_quantile([10_000_000] * 10, 1e9, 0.99) == pytest.approx(9_000, abs=1)
    assert wait_quantile([10_000_000] * 10, 1e9, 0.5) == pytest.approx(0, abs=1)
    assert wait_quantile([], 1e9, 0.99) == 0


def test_a_machine_is_watched_for_a_moment() -> None:
    found = measure(0.05)
    assert 0 <= found["lost_percent"] <= 100
    assert found["p99_us"] <= found["p999_us"] <= 1000 * found["longest_ms"] + 10
