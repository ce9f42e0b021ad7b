"""The metrics: cells against prometheus_client's own, label sets, and what is exposed."""

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sandboxd.front.http.scrapes import BUSY_REST, REST, Parts, Scrapes, takes_gzip
from sandboxd.metrics import DENIAL_REASONS, SECONDS, DaprLabels, Metrics
from sandboxd.metrics.exposition import TextFormat
from sandboxd.metrics.series import MOST_PENDING, CounterFamily, HistogramFamily
from sandboxd.outcome import Outcome
from sandboxd.pool.stats import BindingLoad, PoolStats
from sandboxd.wire.messages import OutboundUsage, Result
from tests.exposition import expose as exposed

USAGE = OutboundUsage(rule="", outcome="", duration_ns=5)


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, _ = exposed(metrics)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_a_distribution_exposes_what_prometheus_client_would() -> None:
    theirs = CollectorRegistry()
    histogram = Histogram("h", "text", ["a"], buckets=SECONDS, registry=theirs)
    family = HistogramFamily("h", "text", ["a"], SECONDS)
    ours = CollectorRegistry(auto_describe=False)
    ours.register(family)  # type: ignore[arg-type]  # a collector by shape
    rng = random.Random(1)
    for _ in range(1000):
        observed = rng.choice([rng.expovariate(10), *SECONDS, 0, 1e9])
        histogram.labels("x").observe(observed)
        family.labels("x").observe(observed)

    def shown(registry: CollectorRegistry) -> tuple[list[str], float]:
        lines = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
        (total,) = (line for line in lines if line.startswith("h_sum"))
        lines.remove(total)
        return lines, float(total.split()[1])

    # Since Python 3.12, what is summed up at once is rounded less.
    assert shown(ours)[0] == shown(theirs)[0]
    assert shown(ours)[1] == pytest.approx(shown(theirs)[1], rel=1e-12)


def test_every_outcome_has_a_series_from_the_start() -> None:
    metrics = Metrics(version="1")
    metrics.binding("b")
    for outcome in Outcome:
        assert value(metrics, "sandboxd_requests_total", binding="b", protocol="http", outcome=outcome) == 0


def test_a_run_is_counted() -> None:
    metrics = Metrics(version="1")
    binding = metrics.binding("b")
    assert metrics.binding("b") is binding
    result = Result(
        id=1,
        outcome=Outcome.COMPLETED,
        stdout=b"12345",
        instantiate_ns=20_000,
        guest_ns=2_000_000,
        queue_ns=1_500_000_000,
        memory_bytes=1 << 20,
        outbound=(
            OutboundUsage(rule="https://*.example", outcome="ok", duration_ns=5_000_000),
            OutboundUsage(rule="", outcome="HTTP-request-denied", duration_ns=0, denied="host"),
            OutboundUsage(rule="", outcome="HTTP-request-denied", duration_ns=0, denied="made up by a guest"),
        ),
    )
    binding.ran(result, 7)
    binding.ended(Outcome.COMPLETED, 0.004)
    binding.ended(Outcome.REJECTED, 2)
    assert value(metrics, "sandboxd_requests_total", binding="b", protocol="http", outcome="completed") == 1
    assert value(metrics, "sandboxd_request_duration_seconds_sum", binding="b", outcome="rejected") == 2
    assert value(metrics, "sandboxd_queue_wait_seconds_sum", binding="b") == 1.5
    assert value(metrics, "sandboxd_guest_duration_seconds_sum", binding="b") == 0.002
    assert value(metrics, "sandboxd_guest_stdin_bytes_sum", binding="b") == 7
    assert value(metrics, "sandboxd_guest_stdout_bytes_sum", binding="b") == 5
    assert value(metrics, "sandboxd_guest_memory_peak_bytes_bucket", binding="b", le="1048576.0") == 1
    assert value(metrics, "sandboxd_outbound_requests_total", binding="b", rule="https://*.example", outcome="ok") == 1
    reasons = {dict(labels)["reason"] for name, labels in samples(metrics) if name == "sandboxd_outbound_denied_total"}
    assert reasons == {"host", "limit"} <= DENIAL_REASONS


def test_processor_time_that_was_not_measured_is_judged_by_what_was() -> None:
    metrics = Metrics(version="1")
    binding = metrics.binding("b")

    def run(took_ns: int, cpu_ns: int = -1) -> None:
        result = Result(
            id=1, outcome=Outcome.COMPLETED, instantiate_ns=took_ns // 4, guest_ns=took_ns - took_ns // 4, cpu_ns=cpu_ns
        )
        binding.ran(result, 0)

    def ran(took_ns: int, cpu_ns: int = -1) -> float:
        run(took_ns, cpu_ns)
        return round(value(metrics, "sandboxd_guest_cpu_seconds_total", binding="b"), 9)

    assert ran(8_000) == 0.000_008  # nothing was measured yet
    assert ran(4_000_000, 1_000_000) == 0.001_008
    assert ran(400_000) == 0.001_108  # a quarter of it
    assert ran(4_000_000, 3_000_000) == 0.004_108
    assert ran(400_000) == 0.004_308  # half of it
    assert ran(100_000, 2_100_000) == 0.006_408  # what the host did beside it makes no later run dearer
    assert ran(8_100_000) == pytest.approx(0.006_408 + 0.004_1)
    # Measurements of a second outweigh what was before.
    for _ in range(60):
        run(1_000_000_000, 0)
    before = ran(0)
    assert ran(1_000_000) == before
    assert binding.cpu_s == pytest.approx(before)


def test_pool_numbers_are_read_at_scrape_time() -> None:
    metrics = Metrics(version="1")
    readings = iter([PoolStats(workers_idle=1), PoolStats(workers_idle=2, rejected_total={"queue_timeout": 4})])
    metrics.watch_pool(lambda: next(readings))
    assert value(metrics, "sandboxd_pool_workers", pool="default", state="idle") == 1
    second = samples(metrics)
    assert second["sandboxd_pool_workers", frozenset({("pool", "default"), ("state", "idle")})] == 2
    rejected = "sandboxd_pool_rejected_total"
    assert second[rejected, frozenset({("pool", "default"), ("reason", "queue_timeout")})] == 4
    assert second[rejected, frozenset({("pool", "default"), ("reason", "queue_full")})] == 0


def test_modules_and_forgetting() -> None:
    metrics = Metrics(version="1", dapr=DaprLabels(app_id="a"))
    metrics.binding("b").dapr_event("execute", success=False, seconds=0.5)
    metrics.binding_ready("b", True)
    metrics.module_loaded("b", digest="ab", scheme="file", abi="module", seconds=1.0, cached=False)
    metrics.module_reloaded("b", ok=True)
    assert value(metrics, "sandboxd_binding_ready", binding="b") == 1
    assert value(metrics, "sandboxd_compile_cache_total", result="miss") == 1
    assert value(metrics, "sandboxd_compile_cache_total", result="hit") == 0
    assert value(metrics, "sandboxd_module_info", binding="b", digest="ab", scheme="file", abi="module") == 1
    # prometheus_client's parser puts `_total` behind the name of every counter. Prometheus does not.
    labels = {"app_id": "a", "component": "b", "namespace": "", "operation": "execute", "success": "false"}
    assert value(metrics, "dapr_component_output_binding_count_total", **labels) == 1
    assert value(metrics, "dapr_component_output_binding_latencies_bucket", **labels, le="500") == 1
    metrics.forget_binding("b")
    assert not [labels for _, labels in samples(metrics) if ("binding", "b") in labels or ("component", "b") in labels]


def test_dapr_names_are_absent_unless_asked_for() -> None:
    metrics = Metrics(version="1")
    metrics.binding("b").dapr_event("execute", success=True, seconds=1)
    assert b"dapr_" not in exposed(metrics)[0]


def test_open_metrics_is_well_formed() -> None:
    metrics = Metrics(version="1", dapr=DaprLabels(app_id="a"))
    metrics.watch_pool(PoolStats)
    metrics.binding('na"me\n').ended(Outcome.COMPLETED, 1)
    metrics.binding("b").dapr_event("list", success=True, seconds=1)
    text, content_type = exposed(metrics, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert {family.name for family in parse_open(text.decode())} >= {"sandboxd_requests", "sandboxd_pool_workers"}


def test_reprs() -> None:
    metrics = Metrics(version="1")
    binding = metrics.binding("b")
    assert repr(metrics) == "<Metrics of 1 bindings>"
    assert repr(binding) == "<BindingMetrics 'b'>"
    family = CounterFamily("c", "text", ["a"])
    family.labels("x").inc(2)
    assert repr(family.labels("x")) == "<Counter 2>"
    assert repr(family) == "<CounterFamily c of 1>"


def test_the_wrong_number_of_labels() -> None:
    with pytest.raises(AssertionError):
        CounterFamily("c", "text", ["a"]).labels("x", "y")


def test_a_broken_worker_cannot_make_series_without_end() -> None:
    metrics = Metrics(version="1")
    binding = metrics.binding("b")
    for number in range(1000):
        usage = OutboundUsage(rule=f"rule {number}", outcome=f"code {number}", duration_ns=1)
        binding.ran(Result(id=1, outcome=Outcome.COMPLETED, outbound=(usage,)), 0)
    text = exposed(metrics)[0].decode()
    series = [line for line in text.splitlines() if line.startswith("sandboxd_outbound_requests_total{")]
    assert len(series) == 129
    assert 'sandboxd_outbound_requests_total{binding="b",outcome="other",rule="other"} 872.0' in series


def test_the_first_exit_of_a_worker_can_be_seen_as_an_increase() -> None:
    metrics = Metrics(version="1")
    metrics.watch_pool(lambda: PoolStats(worker_exits_total={"crashed": 1}))
    text = exposed(metrics)[0].decode()
    assert 'sandboxd_worker_exits_total{pool="default",reason="crashed"} 1.0' in text
    assert 'sandboxd_worker_exits_total{pool="default",reason="stalled"} 0.0' in text


ODD = 'a "b"\\c\nd ü\0'
"""A name with all that is escaped in a label, and more."""


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0", "text/plain; version=1.0.0"])
def test_the_text_is_that_of_prometheus_client(accept: str) -> None:
    """The other implementation makes the registry as a whole, and each line anew. Here lines are kept.

    It writes daprd's metrics as daprd does not.
    """
    metrics = Metrics(version="1", dapr=DaprLabels(app_id="a") if "openmetrics" in accept else None)
    metrics.watch_pool(lambda: PoolStats(bindings={ODD: BindingLoad(1, 2, 3)}))
    encoder, content_type = choose_encoder(accept)
    for turn in range(3):
        for number in range(turn, 8):
            binding = metrics.binding(ODD if number == 1 else f"b{number}")
            for outcome in Outcome:
                binding.ended(outcome, number / 100)
            binding.ended(Outcome.COMPLETED, 0.0)
            binding.dapr_event("execute", success=True, seconds=number)
            binding.ran(Result(id=1, outcome=Outcome.COMPLETED, outbound=(USAGE,)), 10)
        assert exposed(metrics, accept) == (encoder(metrics.registry), content_type)
    metrics.forget_binding("b5")
    assert exposed(metrics, accept) == (encoder(metrics.registry), content_type)
    assert b'"b5"' not in exposed(metrics, accept)[0]


def test_an_observation_of_nothing_changes_the_lines() -> None:
    metrics = Metrics(version="1")
    for count in (1, 2):
        metrics.binding("b").ended(Outcome.COMPLETED, 0.0)
        assert value(metrics, "sandboxd_request_duration_seconds_count", binding="b", outcome="completed") == count


@pytest.mark.parametrize("number", [0, 1, 999_999, 1_000_000, 2**53, 2**60, 0.1, 1e-9, 1e300, float("inf")])
def test_numbers_are_read_as_they_were(number: float) -> None:
    metrics = Metrics(version="1")
    metrics.binding("b").ended(Outcome.TRAPPED, 0.0)
    metrics.requests.labels("b", "http", Outcome.TRAPPED.value).value = number
    assert value(metrics, "sandboxd_requests_total", binding="b", protocol="http", outcome="trapped") == number


def test_pieces_are_short() -> None:
    """None keeps the event loop for long: a child has 20 lines of 100 bytes."""
    metrics = Metrics(version="1")
    metrics.watch_pool(lambda: PoolStats(bindings={f"b{number}": BindingLoad(1, 2, 3) for number in range(100)}))
    for number in range(300):
        metrics.binding(f"b{number}").ended(Outcome.COMPLETED, 0.1)
    assert max(len(piece) for piece in metrics.text_pieces(TextFormat(""))) < 200_000
    assert all(len(piece.samples) <= 300 for piece in metrics.pieces())  # for the supervisor


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("gzip;q=1.0, *;q=0", True),
    ],
)
def test_who_gets_gzip(header: str, takes: bool) -> None:
    assert takes_gzip(header) is takes


def test_scrapers_share_a_text_that_was_begun_after_they_asked() -> None:
    made = []
    begun = asyncio.Event()

    async def render(accept: str, rest: float) -> Parts:
        made.append(rest)
        begun.set()
        number = len(made)
        await asyncio.sleep(0)
        return [b"%d" % number], accept

    async def scrape() -> None:
        scrapes = Scrapes(render)
        first = asyncio.create_task(scrapes.text(""))
        await begun.wait()
        others = [asyncio.create_task(scrapes.text("")) for _ in range(5)]
        others.pop().cancel()
        assert (await first).parts == [b"1"]
        assert {(await other).parts[0] for other in others} == {b"2"}
        last = await scrapes.text("")
        assert (last.parts, last.content_type) == ([b"3"], "")

    asyncio.run(scrape())
    assert made == [REST, BUSY_REST, BUSY_REST]


def test_callers_cannot_have_more_texts_made_than_there_are_formats() -> None:
    made = []

    async def render(accept: str, rest: float) -> Parts:
        made.append(accept)
        return [], accept

    async def scrape() -> None:
        scrapes = Scrapes(render)
        kinds = ("application/openmetrics-text", "text/plain")
        asked = [f"{kind}; version={n}.{n}; escaping={n}" for kind in kinds for n in range(1, 100)]
        await asyncio.gather(*(scrapes.text(accept) for accept in asked))

    asyncio.run(scrape())
    assert len(made) == 2


def test_a_text_that_cannot_be_made_is_an_error_for_those_who_asked() -> None:
    async def render(accept: str, rest: float) -> Parts:
        raise TimeoutError

    async def scrape() -> None:
        scrapes = Scrapes(render)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await scrapes.text("")

    asyncio.run(scrape())


def test_what_a_distribution_has_not_counted_yet_is_in_every_figure() -> None:
    histogram = HistogramFamily("h", "text", [], (1, 2)).labels()
    for times, counts in ((1, [1, 1, 1]), (MOST_PENDING, [1 + MOST_PENDING] * 3)):
        for _ in range(times):
            for observed in (2.5, 1, 1.5):
                histogram.observe(observed)
        assert len(histogram.pending) < MOST_PENDING
        assert histogram.counts == counts
        assert histogram.sum == 5 * counts[0]
        assert not histogram.pending


def test_runs_leave_no_more_than_a_few_observations_uncounted() -> None:
    binding = Metrics(version="1").binding("b")
    for number in range(3 * MOST_PENDING):
        binding.ran(Result(id=number, outcome=Outcome.COMPLETED, stdout=b"12"), 3)
        assert all(len(histogram.pending) < MOST_PENDING for histogram in binding.runs().values())
    assert binding.runs()["stdout"].sum == 6 * MOST_PENDING
