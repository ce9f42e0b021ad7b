"""The parts of cells on their own: merging metrics, sharing settings, assigning connections, giving up."""

import asyncio
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sandboxd.cells import supervisor as supervisor_module
from sandboxd.cells.cell_process import CellEvents, CellProcess
from sandboxd.cells.listeners import bind
from sandboxd.cells.merge import GAUGES, Aggregation, RetainedCounters, merge
from sandboxd.cells.reuseport import program
from sandboxd.config import Config, PoolConfig
from sandboxd.config.cells import concurrency, pack, share, unpack
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.metrics import DaprLabels, Metrics
from sandboxd.metrics.exposition import KeptPieces, TextFormat, snapshot
from sandboxd.outcome import Outcome
from sandboxd.pool.stats import PoolStats
from sandboxd.wire.cells import Family
from tests.exposition import expose as exposed
from tests.exposition import expose_families
from tests.waiting import until


def count(value: float, binding: str = "a", name: str = "sandboxd_requests") -> Family:
    return Family(name, "counter", "text", ((f"{name}_total", (("binding", binding),), value),))


def gauge(name: str, value: float) -> Family:
    return Family(name, "gauge", "text", ((name, (("pool", "default"),), value),))


def values(families: tuple[Family, ...]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(name, labels): value for family in families for name, labels, value in family.samples}


def full_metrics() -> Metrics:
    """Metrics with every family used."""
    metrics = Metrics(version="1", dapr=DaprLabels(app_id="app"))
    metrics.watch_pool(lambda: PoolStats(workers_limit=3, worker_exits_total={"crashed": 1}))
    metrics.binding("a").ended(Outcome.COMPLETED, 0.002)
    metrics.binding("a").dapr_event("execute", success=True, seconds=0.002)
    metrics.binding_ready("a", True)
    metrics.module_loaded("a", digest="d", scheme="file", abi="module", seconds=1.0, cached=False)
    return metrics


class TestMerge:
    def test_what_is_counted_is_added_up(self) -> None:
        merged = values(merge({0: [count(3), count(1, "b")], 1: [count(4)]}))
        assert merged == {
            ("sandboxd_requests_total", (("binding", "a"),)): 7,
            ("sandboxd_requests_total", (("binding", "b"),)): 1,
        }

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("sandboxd_pool_queue_depth", 7),
            ("sandboxd_pool_queue_depth_max", 5),
            ("sandboxd_binding_ready", 2),
            ("sandboxd_build_info", 5),
        ],
    )
    def test_gauges_by_their_meaning(self, name: str, expected: float) -> None:
        assert values(merge({0: [gauge(name, 2)], 1: [gauge(name, 5)]})) == {(name, (("pool", "default"),)): expected}

    def test_other_gauges_stay_apart(self) -> None:
        assert values(merge({0: [gauge("sandboxd_new", 2)], 1: [gauge("sandboxd_new", 5)]})) == {
            ("sandboxd_new", (("cell", "0"), ("pool", "default"))): 2,
            ("sandboxd_new", (("cell", "1"), ("pool", "default"))): 5,
        }

    def test_every_gauge_of_the_server_has_a_decision(self) -> None:
        metrics = full_metrics()
        metrics.watch_process()
        found = {family.name for family in snapshot(metrics.registry) if family.kind == "gauge"}
        assert found - set(GAUGES) == set()

    def test_one_cell_merged_is_that_cell(self) -> None:
        """The text Prometheus reads of a merge of one is the text of the one, apart from the label `cell`."""
        metrics = full_metrics()
        merged, kind = expose_families(
            merge({0: snapshot(metrics.registry)}), "application/openmetrics-text; version=1.0.0"
        )
        alone, same_kind = exposed(metrics, "application/openmetrics-text; version=1.0.0")
        assert merged.replace(b'{cell="0",', b"{") == alone
        assert kind == same_kind

    def test_buckets_are_added_up_bound_by_bound(self) -> None:
        class One(Collector):
            def collect(self) -> Iterator[Metric]:
                family = HistogramMetricFamily("h", "text", labels=["binding"])
                family.add_metric(["a"], [("0.1", 1.0), ("1.0", 3.0), ("+Inf", 4.0)], 6.5)
                yield family

            def describe(self) -> list[Metric]:
                return []

        registry = CollectorRegistry(auto_describe=False)
        registry.register(One())
        text, _ = expose_families(merge({0: snapshot(registry), 1: snapshot(registry)}), "")
        assert [line for line in text.decode().splitlines() if not line.startswith("#")] == [
            'h_bucket{binding="a",le="0.1"} 2.0',
            'h_bucket{binding="a",le="1.0"} 6.0',
            'h_bucket{binding="a",le="+Inf"} 8.0',
            'h_count{binding="a"} 8.0',
            'h_sum{binding="a"} 13.0',
        ]


class TestRetainedCounters:
    def test_dead_processes_still_count(self) -> None:
        retained = RetainedCounters()
        retained.retire(0, [count(5), gauge("sandboxd_pool_queue_depth", 3)])
        retained.retire(0, [count(2)])
        retained.retire(1, [count(10)])
        assert values(retained.merged({0: [count(1)]})) == {("sandboxd_requests_total", (("binding", "a"),)): 18}

    def test_silent_cells_count_but_their_state_is_unknown(self) -> None:
        depth = "sandboxd_pool_queue_depth"
        merged = RetainedCounters().merged({0: [count(1), gauge(depth, 1)], 1: [count(6), gauge(depth, 9)]}, silent={1})
        assert values(merged) == {
            ("sandboxd_requests_total", (("binding", "a"),)): 7,
            (depth, (("pool", "default"),)): 1,
        }

    def test_a_gauge_of_each_cell_keeps_its_number(self) -> None:
        retained = RetainedCounters()
        retained.retire(1, [count(1)])
        merged = values(retained.merged({1: [count(2), gauge("sandboxd_pool_generation", 4)]}))
        assert merged[("sandboxd_pool_generation", (("cell", "1"), ("pool", "default")))] == 4

    def test_a_binding_nobody_knows_any_more_is_not_shown(self) -> None:
        retained = RetainedCounters()
        retained.retire(0, [count(5, "gone")])
        retained.retire(0, [count(3, "a"), count(9, "")])
        assert values(retained.merged({1: [count(1)]})) == {
            ("sandboxd_requests_total", (("binding", "a"),)): 4,
            ("sandboxd_requests_total", (("binding", ""),)): 9,
        }

    def test_while_no_cell_knows_any_binding_all_are_shown(self) -> None:
        retained = RetainedCounters()
        retained.retire(0, [count(5)])
        assert values(retained.merged({0: []})) == {("sandboxd_requests_total", (("binding", "a"),)): 5}

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.sampled_from(("counts", "counts", "dies", "hangs")),
                st.floats(0, 10, allow_subnormal=False),
            ),
            max_size=40,
        )
    )
    def test_no_sum_ever_shrinks(self, events: list[tuple[int, str, float]]) -> None:
        """Not by a single bit: fractions are added, cells die and fall silent in any order."""
        retained = RetainedCounters()
        now = dict.fromkeys(range(3), 0.0)
        former = 0.0
        for number, what, amount in events:
            silent = set()
            if what == "counts":
                now[number] += amount
            elif what == "dies":
                retained.retire(number, [count(now[number])])
                now[number] = 0.0
            else:
                silent = {number}
            told = {cell: [count(value)] for cell, value in now.items()}
            (total,) = values(retained.merged(told, silent)).values()
            assert total >= former
            former = total


class TestShare:
    @pytest.mark.parametrize(
        ("workers", "cells", "expected"), [(8, 2, [4, 4]), (7, 3, [3, 2, 2]), (2, 4, [1, 1, 1, 1]), (1, 1, [1])]
    )
    def test_workers_are_divided(self, workers: int, cells: int, expected: list[int]) -> None:
        config = Config(pool=PoolConfig(workers=workers))
        assert [share(config, number, cells).pool.workers for number in range(cells)] == expected

    @pytest.mark.parametrize(("limit", "expected"), [(1000, 500), (1, 1), (0, 0), (5, 3)])
    def test_the_queue_is_divided(self, limit: int, expected: int) -> None:
        config = Config(pool=PoolConfig(workers=2, queue_limit=limit))
        assert [share(config, number, 2).pool.queue_limit for number in range(2)] == [expected] * 2

    def test_nothing_else_changes(self) -> None:
        config = Config(pool=PoolConfig(workers=4))
        mine = share(config, 1, 2)
        assert dataclasses.replace(mine, pool=config.pool, cells=config.cells) == config
        assert mine.cell_count == 2

    @pytest.mark.parametrize(("limit", "expected"), [(0, 0), (1, 1), (4, 2), (5, 3)])
    def test_concurrency_of_a_binding(self, limit: int, expected: int) -> None:
        assert concurrency(limit, 2) == expected

    def test_settings_travel(self) -> None:
        config = Config(api_token="secret", resources_paths=("/a", "b"), pool=PoolConfig(workers=3))
        assert unpack(pack(config)) == config


class TestSteering:
    def test_new_connections_go_to_the_chosen_sockets_only(self) -> None:
        listeners = bind("127.0.0.1", 0, 4)
        host, _, port = listeners.address.rpartition(":")
        sockets = [socket.socket(fileno=os.dup(listeners.fd(number))) for number in range(4)]

        def arrivals() -> list[int]:
            clients = [socket.create_connection((host, int(port))) for _ in range(60)]
            found = [0] * len(sockets)

            def all_taken() -> bool:
                for number, listener in enumerate(sockets):
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            listener.accept()[0].close()
                            found[number] += 1
                return sum(found) == len(clients)

            # A busy kernel completes a connection a little later than `connect` returns.
            until(all_taken, "all are accepted")
            for client in clients:
                client.close()
            return found

        try:
            for listener in sockets:
                listener.setblocking(False)
            for chosen in ([1, 3], [2], [0, 1, 2, 3]):
                listeners.assign_to(chosen)
                found = arrivals()
                assert [number for number, taken in enumerate(found) if taken] == chosen
        finally:
            for held in sockets:
                held.close()
            listeners.close()

    def test_the_kernel_takes_as_many_cells_as_may_be_configured(self) -> None:
        assert len(program(range(256))) < 4096

    def test_a_port_in_use_is_refused(self) -> None:
        listeners = bind("127.0.0.1", 0, 2)
        try:
            with pytest.raises(SandboxdError, match="Address already in use") as caught:
                bind("127.0.0.1", int(listeners.address.rpartition(":")[2]), 2)
            assert caught.value.exit_code == ExitCode.LISTEN
        finally:
            listeners.close()


class TestGivingUp:
    """Cells replaced by processes that just exit."""

    @staticmethod
    def run(monkeypatch: pytest.MonkeyPatch, status: int | None, cells: int = 2) -> tuple[SandboxdError, int]:
        """Without a status they never end, and never answer."""
        started = 0
        does = f"raise SystemExit({status})" if status is not None else "import time; time.sleep(60)"

        def start(number: int, listener_fd: int, events: CellEvents) -> CellProcess:
            nonlocal started
            started += 1
            ours, theirs = socket.socketpair()
            with theirs:
                process = subprocess.Popen([sys.executable, "-S", "-c", does], stdin=theirs)
            return CellProcess(number, process, ours, events)

        monkeypatch.setattr(CellProcess, "start", start)
        monkeypatch.setattr(supervisor_module, "FIRST_DELAY_S", 0.01)
        config = Config(cells=cells)
        config = dataclasses.replace(config, listen=dataclasses.replace(config.listen, port=0, grpc_port=0))
        with pytest.raises(SandboxdError) as caught:
            asyncio.run(supervisor_module.Supervisor(config, {}, None).run())
        return caught.value, started

    def test_a_cell_that_never_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        error, started = self.run(monkeypatch, status=67)
        assert error.exit_code == ExitCode.CELLS
        assert started == supervisor_module.MAX_BOOT_FAILURES

    def test_cells_that_never_answer_are_killed(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name, value in (("PING_S", 0.02), ("ANSWER_S", 0.02), ("HUNG_S", 0.1)):
            monkeypatch.setattr(supervisor_module, name, value)
        error, started = self.run(monkeypatch, status=None)
        assert error.exit_code == ExitCode.CELLS
        assert started == supervisor_module.MAX_BOOT_FAILURES
        assert "cell 0 does not answer and is killed" in caplog.text

    @pytest.mark.parametrize("status", [2, 64, 65, 66])
    def test_what_only_the_operator_can_repair(self, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
        error, started = self.run(monkeypatch, status=status)
        assert (error.exit_code, started) == (status, 1)


def test_the_supervisor_loads_neither_http_nor_guests() -> None:
    """Its memory is small, and what it does not load cannot fail in it."""
    code = "import sys; import sandboxd.cells.supervisor; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("wasmtime", "starlette", "uvicorn", "hypercorn", "prometheus_client", "httpx2", "sandboxd.front")
    assert [name for name in loaded if name.startswith(heavy)] == []


def test_all_ways_to_merge_are_used() -> None:
    assert set(GAUGES.values()) == set(Aggregation)


def test_gauge_and_counter_survive_the_way() -> None:
    class Two(Collector):
        def collect(self) -> Iterator[Metric]:
            counter = CounterMetricFamily("c", "text", labels=["x"])
            counter.add_metric(['quo"te\\'], 2)
            yield counter
            yield GaugeMetricFamily("g", "text", value=1.5)

        def describe(self) -> list[Metric]:
            return []

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Two())
    families = snapshot(registry)
    assert values(families) == {("c_total", (("x", 'quo"te\\'),)): 2, ("g", ()): 1.5}
    text, _ = expose_families(families, "")
    assert b'c_total{x="quo\\"te\\\\"} 2.0' in text


def test_only_pieces_that_have_changed_are_made_again() -> None:
    def shown(families: tuple[Family, ...]) -> list[bytes]:
        return list(kept.pieces(families, TextFormat("")))

    kept = KeptPieces()
    idle = Family("idle", "counter", "text", tuple(("idle_total", (("binding", str(n)),), 1.0) for n in range(1000)))
    first = shown((idle, count(1)))
    second = shown((idle, count(2)))
    assert b"".join(second) == b"".join(KeptPieces().pieces((idle, count(2)), TextFormat("")))
    made = [line for line, former in zip(second, first, strict=True) if line is not former and line != former]
    assert made == [b'sandboxd_requests_total{binding="a"} 2.0\n']
    same = [line for line, former in zip(second, first, strict=True) if line is former]
    assert sum(line.count(b"idle_total") for line in same) == 1000
    shown(())
    assert all(line is not former for line, former in zip(shown((idle,)), second, strict=False) if b"binding" in line)


def test_texts_in_both_formats_share_what_is_kept_and_differ_where_the_formats_do() -> None:
    metrics = Metrics(version="1", dapr=DaprLabels(app_id="app"))
    metrics.binding("b").dapr_event("execute", success=True, seconds=0.1)
    families, kept = snapshot(metrics.registry), KeptPieces()
    for accept in ("", "application/openmetrics-text; version=1.0.0") * 2:
        assert expose_families(families, accept, kept) == expose_families(families, accept)


def test_resources(tmp_path: Path) -> None:
    """A config whose cache is a path travels as a path."""
    config = Config()
    config = dataclasses.replace(config, cache=dataclasses.replace(config.cache, folder=tmp_path))
    assert unpack(pack(config)).cache.folder == tmp_path
