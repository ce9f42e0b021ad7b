"""Two cells on one port: both serve, a death costs what one had in flight, and nothing is left at the end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.conftest import guest_component
from tests.process import tree
from tests.process.cells import COUNTING, Cells, value
from tests.running import RunningServer, component, write_components
from tests.waiting import BOUND_S, until

GUESTS = ("echo", "upper", "exit", "loop", "sleep")


def resources(folder: Path, *names: str) -> Path:
    return write_components(folder, [guest_component(name) for name in names])


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cells]:
    with Cells(resources(tmp_path_factory.mktemp("resources"), *GUESTS), "--workers", "4") as running:
        yield running


def calls(server: RunningServer, count: int, binding: str = "echo") -> None:
    """So many requests, each over a connection of its own."""
    with ThreadPoolExecutor(8) as threads:
        for reply in threads.map(lambda _: server.invoke(binding, "x"), range(count)):
            assert reply.status_code == 200, reply.text


def test_both_cells_serve_and_metrics_are_of_both(cells: Cells) -> None:
    completed = {"binding": "echo", "protocol": "http", "outcome": "completed"}
    before = cells.scrape()
    calls(cells, 64)
    after = cells.scrape_with(
        value(before, "sandboxd_requests_total", **completed) + 64, "sandboxd_requests_total", **completed
    )

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("sandboxd_request_duration_seconds_count", binding="echo", outcome="completed") == 64
    assert grown("sandboxd_request_duration_seconds_bucket", binding="echo", outcome="completed", le="+Inf") == 64
    by_cell = [grown("sandboxd_cell_requests_total", cell=number) for number in ("0", "1")]
    assert sum(by_cell) == 64
    # 64 connections fall to one of two sockets with a probability of 2 to the power of -63.
    assert all(by_cell)
    assert value(after, "sandboxd_pool_workers_limit", pool="default") == 4
    assert value(after, "sandboxd_pool_workers", pool="default", state="idle") == 4
    assert [value(after, "sandboxd_cell_up", cell=number) for number in ("0", "1")] == [1, 1]
    assert value(after, "sandboxd_binding_ready", binding="echo") == 1


def test_openmetrics_is_also_of_both(cells: Cells) -> None:
    with cells.client() as client:
        reply = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert 'sandboxd_cell_up{cell="1"} 1.0' in reply.text
    assert reply.text.endswith("# EOF\n")


def test_health_speaks_for_all(cells: Cells) -> None:
    with cells.client() as client:
        assert client.get("/readyz").text == "ok\n2 of 2 cells are ready"
        assert client.get("/v1.0/healthz").status_code == 204
        assert client.get("/v1.0/healthz/outbound").status_code == 204


def test_an_attribute_set_at_one_cell_is_known_in_both(cells: Cells) -> None:
    with cells.client() as client:
        assert client.put("/v1.0/metadata/colour", content=b"green").status_code == 204

    def colour() -> str:
        with cells.client() as client:
            return str(client.get("/v1.0/metadata").json()["extended"].get("colour"))

    # 40 connections in a row reach the other cell too: that all miss it has a probability of 2 to the power of -40.
    until(lambda: all(colour() == "green" for _ in range(40)), "both know")


def test_a_cell_that_starts_anew_knows_attributes(cells: Cells) -> None:
    with cells.client() as client:
        assert client.put("/v1.0/metadata/size", content=b"large").status_code == 204
    for number in (0, 1):
        since = len(cells.lines)
        cells.kill(number)
        cells.wait_ready(number, since)
    with cells.client() as client:
        assert client.get("/v1.0/metadata").json()["extended"]["size"] == "large"


def put(file: Path, text: str) -> None:
    """Write a file so that a watcher sees one change."""
    draft = file.with_suffix(".part")
    draft.write_text(text)
    draft.rename(file)


class Load:
    """Requests over connections of their own, until told to stop."""

    def __init__(self, server: RunningServer, threads: int) -> None:
        self.answered: list[tuple[float, float]] = []
        self.failed: list[tuple[float, BaseException]] = []
        self.wrong: list[tuple[float, str]] = []
        self._server = server
        self._stop = threading.Event()
        self._more = threading.Condition()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                reply = self._server.invoke("echo", "x")
            except httpx.TransportError as error:
                self.failed.append((began, error))
            else:
                if reply.content == b'"x"':
                    self.answered.append((began, time.monotonic()))
                else:
                    self.wrong.append((began, reply.text))
            with self._more:
                self._more.notify_all()

    def wait(self, answers: int) -> None:
        """Until so many more have been answered."""
        wanted = len(self.answered) + answers
        with self._more:
            assert self._more.wait_for(lambda: len(self.answered) >= wanted, 60)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.slow
def test_a_death_under_load_costs_only_what_that_cell_had_in_flight(cells: Cells, number: int) -> None:
    since = len(cells.lines)
    restarts = value(cells.scrape(), "sandboxd_cell_restarts_total", cell=str(number))
    load = Load(cells, 8)
    try:
        load.wait(50)
        dead = cells.kill(number)
        load.wait(50)
        cells.wait_ready(number, since)
        load.wait(50)
    finally:
        load.stop()
    assert load.wrong == []
    assert [error for began, error in load.failed if began > dead] == []
    assert not [error for _, error in load.failed if isinstance(error, httpx.ConnectError)]
    assert len(load.failed) <= 8  # each of the threads had at most one request in flight
    after = cells.scrape()
    assert value(after, "sandboxd_cell_restarts_total", cell=str(number)) == restarts + 1
    assert value(after, "sandboxd_cell_up", cell=str(number)) == 1


def test_counts_never_go_backwards(cells: Cells) -> None:
    calls(cells, 20)
    calls(cells, 5, "upper")
    seen = cells.scrape(COUNTING)
    for number in (0, 1):
        since = len(cells.lines)
        cells.kill(number)
        cells.wait_ready(number, since)
        now = cells.scrape(COUNTING)
        assert {key: (former, now.get(key)) for key, former in seen.items() if now.get(key, -1) < former} == {}
        seen = now
    total = value(seen, "sandboxd_requests_total", binding="upper", protocol="http", outcome="completed")
    calls(cells, 7, "upper")
    completed = {"binding": "upper", "protocol": "http", "outcome": "completed"}
    after = cells.scrape_with(total + 7, "sandboxd_requests_total", **completed)
    assert value(after, "sandboxd_worker_starts_total", pool="default") > value(
        after, "sandboxd_pool_workers_limit", pool="default"
    )


def test_a_cell_that_hangs_holds_up_neither_scrapes_nor_callers(cells: Cells) -> None:
    calls(cells, 10)
    seen = cells.scrape(COUNTING)
    since = len(cells.lines)
    pid = cells.pids()[1]
    tree.stop(pid)
    try:
        cells.wait_for(lambda line: line.get("message") == "cell does not answer", since=since)
        # From here on all new connections reach the other one.
        now = cells.scrape()
        assert value(now, "sandboxd_cell_up", cell="0") == 1
        assert value(now, "sandboxd_cell_up", cell="1") == 0
        assert value(now, "sandboxd_pool_workers_limit", pool="default") == 2
        assert {key: former for key, former in seen.items() if now.get(key, -1) < former} == {}
        calls(cells, 20)
        with cells.client() as client:
            reply = client.get("/readyz")
        assert (reply.status_code, reply.text) == (200, "ok\n1 of 2 cells are ready")
    finally:
        os.kill(pid, signal.SIGCONT)
    cells.wait_ready(1, since)
    assert value(cells.scrape(), "sandboxd_cell_up", cell="1") == 1
    assert cells.pids()[1] == pid


def generations(cells: Cells) -> list[float]:
    """The generation that each cell serves."""
    values = cells.scrape()
    return [value(values, "sandboxd_pool_generation", cell=number, pool="default") for number in ("0", "1")]


def test_one_cell_notices_and_all_reload(tmp_path: Path) -> None:
    folder = resources(tmp_path / "resources", "echo")
    cache = {"SANDBOXD_CACHE_FOLDER": str(tmp_path / "cache"), "SANDBOXD_RELOAD_DEBOUNCE": "10ms"}
    with Cells(folder, "--workers", "2", environ=cache) as server:
        # Each guest is compiled once, although two cells load it.
        server.scrape_with(1, "sandboxd_compile_cache_total", result="miss")
        server.scrape_with(1, "sandboxd_compile_cache_total", result="hit")
        put(folder / "new.yaml", guest_component("upper"))
        server.wait_for(lambda line: line.get("event") == "cells_reloaded")
        for number in (0, 1):
            server.wait_for(lambda line, number=number: line.get("event") == "reloaded" and line["cell"] == number)
        assert len({line["cell"] for line in server.lines if "changed files noticed" in line.get("message", "")}) == 1
        calls(server, 20, "upper")
        # 2, or 3 where the change fell into the check with which a cell begins to watch.
        until(lambda: generations(server)[0] == generations(server)[1] >= 2, "both have the same")
        server.scrape_with(2, "sandboxd_compile_cache_total", result="miss")

        # The one that watched is gone: another watches.
        since = len(server.lines)
        server.kill(0)
        server.wait_ready(0, since)
        since = len(server.lines)
        put(folder / "more.yaml", guest_component("exit"))
        server.wait_for(lambda line: line.get("event") == "cells_reloaded", since=since)
        calls(server, 20, "upper")
        # That may be the reload of the check with which a cell begins to watch; then another follows.
        until(lambda: [server.invoke("exit").status_code for _ in range(20)] == [200] * 20, "both cells have the third")


def test_sighup_reloads_all_and_a_refusal_changes_none(tmp_path: Path) -> None:
    folder = resources(tmp_path / "resources", "echo")
    with Cells(folder, "--workers", "2", environ={"SANDBOXD_RELOAD_WATCH": "false"}) as server:
        (folder / "new.yaml").write_text(guest_component("upper"))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda line: line.get("event") == "cells_reloaded")
        calls(server, 20, "upper")

        (folder / "new.yaml").write_text(component("upper", "file:///nowhere/upper.wasm"))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda line: line.get("event") == "cell_reload_failed")
        server.wait_for(lambda line: line.get("event") == "reload_failed")
        assert len(server.events("cell_reload_failed")) == 1
        calls(server, 20, "upper")


def test_sigterm_drains_all_and_exits_0(tmp_path: Path) -> None:
    with (
        Cells(resources(tmp_path / "resources", "sleep"), "--workers", "8") as server,
        ThreadPoolExecutor(8) as threads,
    ):
        running = [threads.submit(server.invoke, "sleep", None, {"args": "8000"}) for _ in range(8)]
        until(
            lambda: (
                server.metric("sandboxd_pool_workers", state="busy") + server.metric("sandboxd_pool_queue_depth") == 8
            ),
            "all are in flight",
        )
        with tree.watched(server.processes()) as left:
            assert server.terminate() == 0
            assert left(BOUND_S) == []
        assert [call.result().status_code for call in running] == [200] * 8
        with pytest.raises(httpx.ConnectError):
            server.invoke("sleep")
    assert len(server.events("stopped")) == 2


def test_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    with Cells(resources(tmp_path / "resources", "echo"), "--workers", "2") as server:
        calls(server, 10)
        everything = server.processes()
        assert len(everything) == 1 + 2 + 2 + 2  # supervisor, cells, zygotes, workers
        with tree.watched(everything) as left:
            server.process.kill()
            assert left(BOUND_S) == []


def test_what_a_dead_cell_leaves_is_reaped_and_ends_with_the_server(tmp_path: Path) -> None:
    """As process 1 of a container the supervisor gets every orphan, its own or not."""
    with Cells(resources(tmp_path, "echo")) as cells:
        (first,), (second,) = ([pid for pid in tree.children(cell) if _is_zygote(pid)] for cell in cells.pids())
        try:
            for zygote in (first, second):
                tree.stop(zygote)  # it would end by itself
            cells.kill(0)
            until(lambda: _parent(first) == cells.process.pid, "the supervisor has adopted it")
            os.kill(first, signal.SIGKILL)
            until(lambda: not tree.state(first), "it is reaped")
            cells.kill(1)
            until(lambda: _parent(second) == cells.process.pid, "the supervisor has adopted it")
            assert cells.terminate() == 0
            assert not tree.state(second)
        finally:
            for zygote in (first, second):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(zygote, signal.SIGKILL)


def _is_zygote(pid: int) -> bool:
    return b"sandboxd.zygote.main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_component_that_cannot_load_is_said_once(tmp_path: Path) -> None:
    folder = write_components(tmp_path / "resources", [component("gone", "file:///nowhere/gone.wasm")])
    with Cells(folder, wait=False) as server:
        assert server.process.wait(60) == 65
        server.wait_for_end()
    assert len(server.events("cell_started")) == 1
    assert sum("gone" in line.get("message", "") for line in server.lines) == 1


def test_wrong_settings_start_nothing(tmp_path: Path) -> None:
    server = Cells(resources(tmp_path / "resources", "echo"), "--workers", "many", wait=False, bind=False)
    with server:
        assert server.process.wait(60) == 64
        server.wait_for_end()
    assert server.events("cell_started") == []


def test_the_port_of_another_server_is_not_shared(cells: Cells, tmp_path: Path) -> None:
    """Without care SO_REUSEPORT would let a second server of the same user take half of the connections."""
    folder = resources(tmp_path / "resources", "echo")
    command = [sys.executable, "-m", "sandboxd", "serve", "--resources-path", str(folder), "--cells", "2"]
    second = subprocess.run([*command, "--port", str(cells.port)], capture_output=True, text=True, timeout=180)
    assert second.returncode == 66
    assert f"cannot listen on 127.0.0.1:{cells.port}: Address already in use" in second.stderr


def test_cells_share_an_inherited_socket(tmp_path: Path) -> None:
    with Cells(resources(tmp_path / "resources", "echo"), "--workers", "2", bind=False) as server:
        calls(server, 20)
        since = len(server.lines)
        load = Load(server, 4)
        try:
            load.wait(20)
            dead = server.kill(0)
            load.wait(20)
            server.wait_ready(0, since)
        finally:
            load.stop()
        assert load.wrong == []
        assert [error for began, error in load.failed if began > dead] == []
        assert server.terminate() == 0
