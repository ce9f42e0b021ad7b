"""The parts of the status page: who is answered, what is hidden, what is bounded, and how cells become one."""

import asyncio
from array import array
from typing import Any

import msgspec
import pytest

from sandboxd.admin.access import Access
from sandboxd.admin.component import shown_component, shown_url
from sandboxd.admin.document import binding_document, document
from sandboxd.admin.history import BUCKETS, History, ServerPoint, Track, quantile
from sandboxd.admin.report import BindingReport, PoolReport, Report
from sandboxd.components.binding import Binding
from sandboxd.config.admin import Address, parse
from sandboxd.metrics import Metrics
from sandboxd.metrics.journal import MAX_BINDINGS, MAX_FAILURES, MAX_HOSTS, OTHERS, FailureNote, Journal
from sandboxd.outcome import Outcome


def scope(method: str = "GET", **headers: str) -> dict[str, Any]:
    found = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"method": method, "headers": found}


class TestAccess:
    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1:3501", "localhost", "LOCALHOST:3501", "[::1]:3501", "10.0.0.7", "a.localhost:1", "ops.example"],
    )
    def test_names_that_no_other_site_can_take(self, host: str) -> None:
        assert Access(None, ("ops.example",)).refusal(scope(host=host), open_to_all=False) is None

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:3501", "127.0.0.1.evil.example", "", "x.evil"])
    def test_a_name_that_may_resolve_anywhere(self, host: str) -> None:
        """DNS rebinding: the browser takes the answer for one of evil.example."""
        refused = Access(None, ()).refusal(scope(host=host), open_to_all=True)
        assert refused is not None
        assert refused[0] == 421

    def test_no_host_and_two_hosts(self) -> None:
        twice = {"method": "GET", "headers": [(b"host", b"localhost"), (b"host", b"evil.example")]}
        for found in (scope(), twice):
            assert Access(None, ()).refusal(found, open_to_all=True) is not None

    def test_a_unix_socket_has_no_name(self) -> None:
        assert Access(None, (), unix=True).refusal(scope(host="whatever"), open_to_all=False) is None

    @pytest.mark.parametrize(
        ("headers", "passes"),
        [
            ({"sandboxd_admin": "1"}, True),
            ({"sandboxd_admin": "1", "origin": "http://127.0.0.1:1", "sec_fetch_site": "same-origin"}, True),
            ({}, False),
            ({"origin": "http://127.0.0.1:1"}, False),
            ({"sandboxd_admin": "1", "origin": "http://127.0.0.1:2"}, False),
            ({"sandboxd_admin": "1", "origin": "null"}, False),
            ({"sandboxd_admin": "1", "sec_fetch_site": "cross-site"}, False),
            ({"sandboxd_admin": "1", "sec_fetch_site": "same-site"}, False),
        ],
    )
    def test_what_does_something_comes_from_the_page(self, headers: dict[str, str], passes: bool) -> None:
        refused = Access(None, ()).refusal(scope("POST", host="127.0.0.1:1", **headers), open_to_all=False)
        assert (refused is None) is passes

    def test_the_token_is_for_data_and_not_for_the_page_itself(self) -> None:
        access = Access("secret", ())
        assert access.refusal(scope(host="localhost"), open_to_all=True) is None
        assert access.refusal(scope(host="localhost"), open_to_all=False) == (401, "invalid api token")
        assert access.refusal(scope(host="localhost", dapr_api_token="secret"), open_to_all=False) is None
        assert access.refusal(scope(host="localhost", dapr_api_token="secreT"), open_to_all=False) is not None


class TestSecrets:
    def test_a_url_without_what_may_be_secret(self) -> None:
        assert shown_url("https://me:pw@host:8/a.wasm?sig=1#x") == "https://host:8/a.wasm?..."
        assert shown_url("file:///a%20b.wasm") == "file:///a%20b.wasm"

    def test_values_of_variables_are_not_shown(self) -> None:
        binding = Binding(name="a", version="v1", url="https://u:hidden@h/x?hidden", env=(("NAME", "hidden"),))
        text = msgspec.json.encode(shown_component(binding))
        assert b"hidden" not in text
        assert b"NAME" in text


def journal_with(binding: str, times: int = 1, reason: str = "why") -> Journal:
    journal = Journal()
    for _ in range(times):
        journal.failed(binding, "trapped", reason, b"e" * 9000, protocol="http", traceparent="0" * 55, duration_ns=1)
    return journal


class TestJournal:
    def test_failures_are_few_and_short(self) -> None:
        notes = journal_with("a", 50, "r" * 100_000).failures_of("a")
        assert len(notes) == MAX_FAILURES
        assert len(notes[0].reason) + len(notes[0].stderr) < 4096

    def test_bindings_are_few(self) -> None:
        journal = Journal()
        for number in range(500):
            name = f"b{number}"
            journal.failed(name, "trapped", "", protocol="http", traceparent="", duration_ns=1)
            journal.denied(name, "https://example.com")
        kept = [number for number in range(500) if journal.failures_of(f"b{number}")]
        assert kept == list(range(500 - MAX_BINDINGS, 500))

    def test_a_guest_cannot_make_hosts_without_end(self) -> None:
        journal = Journal()
        for number in range(1000):
            journal.denied("a", f"https://{number}.example/" + "x" * 5000)
        hosts = journal.denied_of("a")
        assert len(hosts) == MAX_HOSTS + 1
        assert sum(hosts.values()) == 1000
        assert hosts[OTHERS] == 1000 - MAX_HOSTS
        assert all(len(host) <= 200 for host in hosts)


def row(requests: int, bucket: int = 3) -> list[int]:
    durations = [0] * BUCKETS
    durations[bucket] = requests
    return durations


def report(cell: int, rows: list[list[int]], failed: int = 0, **binding: Any) -> Report:
    """One cell's, whose latest points had these durations; `failed` requests of the latest are not among them."""
    note = FailureNote(binding="a", at=100.0 + cell, outcome="trapped", protocol="http", reason=f"cell {cell}")
    answered = [sum(one) for one in rows]
    track = Track(
        requests=[*answered[:-1], answered[-1] + failed],
        failed=[0] * (len(rows) - 1) + [failed],
        p99_s=[0.001] * len(rows),
        durations=array("I", [n for one in rows for n in one]).tobytes(),
        minute=[sum(column) for column in zip(*rows, strict=True)],
        recent_requests=answered[-1] + failed,
        recent_failed=failed,
        recent_s=5.0,
    )
    return Report(
        cell=cell,
        pid=cell + 1,
        at=1.0,
        began=1.0,
        pools={"default": PoolReport(idle=1, busy=1, limit=2, rejected={"queue_full": 1}, wall={"seccomp": True})},
        server=(ServerPoint(7, 5.0, 1.0, 2, 3.0 + cell, answered[-1], tuple(rows[-1])),),
        bindings=(
            BindingReport(
                name="a",
                outcomes={"completed": sum(answered), "trapped": failed},
                track=track,
                failures=(note,),
                **binding,
            ),
        ),
        unnamed=BindingReport(name=""),
    )


class TestDocument:
    def test_cells_are_one(self) -> None:
        later = report(1, [row(20, bucket=8)], now=2, limit=2)
        reports = [report(0, [row(10), row(5)], failed=5, now=1, limit=2), later]
        found = asyncio.run(document(reports, {"version": "1"}))
        (binding,) = found["bindings"]
        assert (binding["now"], binding["limit"], binding["requests"], binding["failed"]) == (3, 4, 40, 5)
        # Both cells' latest points are of the same five seconds.
        assert binding["history"]["requests"] == [10, 30]
        assert binding["rate"] == pytest.approx(10 / 5 + 20 / 5)
        assert binding["okShare"] == pytest.approx(1 - 5 / 30)
        assert binding["lastFailure"]["reason"] == "cell 1"
        assert found["pools"]["default"]["workers"]["limit"] == 4
        assert found["pools"]["default"]["rejected"] == {"queue_full": 2}
        assert found["history"]["utilisation"] == [10 / 5 / 4]
        assert found["history"]["requests"] == [25]
        assert found["front"]["utilisation"] == pytest.approx(2 / 5 / 2)
        assert [note["reason"] for note in found["failures"]] == ["cell 1", "cell 0"]
        one = binding_document(reports, "a")
        assert one is not None
        assert [sum(row) for row in one["heat"]["rows"]] == [10, 25]
        assert binding_document(reports, "b") is None

    def test_reports_travel(self) -> None:
        sent = report(3, [row(1)])
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Report) == sent

    @pytest.mark.parametrize(
        ("counts", "share", "expected"),
        [
            # histogram_quantile of Prometheus 2.42 over the cumulative sums, asked by promtool test rules
            ((0, 10, 0), 0.5, 1.5),
            ((4, 4, 2), 0.5, 1.25),
            ((4, 4, 2), 0.9, 2.0),
            ((5, 0, 5), 0.5, 1.0),
            ((0, 0, 0), 0.5, None),
        ],
    )
    def test_quantiles(self, counts: tuple[int, ...], share: float, expected: float | None) -> None:
        assert quantile((1.0, 2.0), counts, share) == expected


def test_history_counts_each_request_once() -> None:
    metrics = Metrics(version="1")
    figures = iter([(0.0, 0.0, 0, 0.0), (4.0, 1.0, 3, 0.5), (6.0, 1.5, 0, 0.1), (6.0, 1.5, 0, 0.1)])
    history = History(metrics.bindings, lambda: next(figures))

    async def happen() -> None:
        early = metrics.binding("early")
        early.ended(Outcome.COMPLETED, 0.001)  # before the first point
        await history.take(first=True)
        for _ in range(3):
            early.ended(Outcome.COMPLETED, 0.002)
        metrics.binding("late").ended(Outcome.TRAPPED, 0.1)
        await history.take()
        early.ended(Outcome.BAD_REQUEST, 0.0)
        await history.take()

    asyncio.run(happen())
    early, late = history.of(metrics.binding("early")), history.of(metrics.binding("late"))
    assert (early.requests, early.failed) == ([3, 1], [0, 0])
    assert (late.requests, late.failed) == ([1, 0], [1, 0])
    assert [sum(one) for one in early.rows()] == [3, 0]
    assert sum(early.minute) == 3
    assert early.recent_requests == 1
    assert [(p.requests, p.busy_s, p.queue) for p in history.server] == [(4, 4.0, 3), (1, 2.0, 0)]
    metrics.forget_binding("late")
    asyncio.run(history.take())
    assert history.of(metrics.binding("late")).requests == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Address(host="127.0.0.1", port=3501)),
        ("off", None),
        ("/run/a.sock", Address(path="/run/a.sock")),
        ("[::1]:80", Address(host="::1", port=80)),
        ("localhost:0", Address(host="localhost", port=0)),
    ],
)
def test_addresses(text: str | None, expected: Address | None) -> None:
    assert parse(text) == expected
    if expected is not None and text is not None:
        assert str(expected) == text


@pytest.mark.parametrize("text", ["3501", "::1:80", "a:b", "a:99999", ":80", ""])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|brackets"):
        parse(text)
