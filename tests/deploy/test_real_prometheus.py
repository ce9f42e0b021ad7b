"""A real Prometheus scrapes a server under a known load: its figures are the client's own."""

import contextlib
import json
import math
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from tests.conftest import guest_component
from tests.deploy.test_prometheus import ALERTS, expressions_of_dashboard
from tests.guests import ToolMissingError, skip_or_fail
from tests.running import RunningServer, port_to_name, write_components
from tests.waiting import until

WORKERS = 4
SLEEP_MS = 100
SLEEPERS = 5
"""Callers of the sleeping guest."""
MOST = 3
"""The sleeping guest may hold three of the four workers, so two of its callers wait. Its share alone would not keep it
from the fourth while nobody else wants that."""
WINDOW_S = 20
"""So long that it matters little whether a busy machine scrapes a second earlier or later than it should."""
WINDOW = f"{WINDOW_S}s"
INTERVAL = "1s"
"""Scrapes that follow each other faster are answered slowly, so that they leave time to callers."""
MACHINES_OWN = {"SandboxdFrontSaturated", "SandboxdEventLoopLag"}
"""Alerts that fire where the machine is busy with other things than the server."""
OF_A_MOMENT = {"Workers held, of the share A", "Waiting by binding A"}
"""Panels of gauges that change with each answer: a caller may just have its own and not have asked again."""
NOT_MEASURED = {"Outbound requests", "Outbound denied"}
"""Panels of what the load does not do."""


class Prometheus:
    """A Prometheus that scrapes one server."""

    def __init__(self, folder: Path, target: str) -> None:
        self.url = f"http://127.0.0.1:{port_to_name()}"
        rules = ALERTS.read_text()
        # What the rules look at in minutes, in seconds.
        rules = re.sub(r"\[\d+m\]", f"[{WINDOW}]", rules)
        rules = re.sub(r"^( *for: ).*$", r"\g<1>0s", rules, flags=re.MULTILINE)
        (folder / "alerts.yml").write_text(rules)
        config = {
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [{"job_name": "sandboxd", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=error",
            ],
            stdin=subprocess.DEVNULL,
        )
        self._client = httpx.Client(base_url=self.url, trust_env=False, verify=False, timeout=60)

    def get(self, path: str, **parameters: Any) -> Any:
        reply = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert reply["status"] == "success", reply
        return reply["data"]

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        found = self.get("query", query=expression, **({} if at is None else {"time": at}))["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def value(self, expression: str, at: float | None = None) -> float:
        ((_, value),) = self.query(expression, at)
        return value

    def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return bool(self._client.get("/-/ready").status_code == 200 and self.query("sandboxd_build_info"))
        return False

    def close(self) -> None:
        self._client.close()
        self.process.terminate()
        self.process.wait(60)


class Load:
    """Callers, each of which asks again as soon as it is answered, and what they counted."""

    def __init__(self, server: RunningServer) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.ended: dict[str, list[tuple[float, float]]] = {"sleep": [], "exit": []}
        """When the calls of a binding whose guest ran ended, and how long they took at the caller."""
        self._stop = threading.Event()
        calls = [("sleep", "completed", {"args": str(SLEEP_MS)})] * SLEEPERS
        calls += [("exit", "exit_nonzero", {"args": "3"}), ("echo", "bad_request", {})]
        self._threads = [threading.Thread(target=self._call, args=(server, *call)) for call in calls]
        for thread in self._threads:
            thread.start()

    def _call(self, server: RunningServer, binding: str, outcome: str, metadata: dict[str, str]) -> None:
        body = json.dumps({"operation": "execute", "metadata": metadata}) if metadata else "{"
        with server.client() as client:
            while not self._stop.is_set():
                began = time.monotonic()
                client.post(f"/v1.0/bindings/{binding}", content=body.encode())
                self.counts[binding, outcome] += 1
                if binding in self.ended:
                    self.ended[binding].append((time.time(), time.monotonic() - began))
                if binding != "sleep":
                    self._stop.wait(0.05)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[RunningServer, Prometheus]]:
    if not shutil.which("prometheus"):
        skip_or_fail(ToolMissingError("prometheus", "apt-get install --no-install-recommends prometheus"))
    documents = [guest_component("sleep", maxConcurrency=str(MOST)), guest_component("exit"), guest_component("echo")]
    resources = write_components(tmp_path / "components", documents)
    with RunningServer(resources, "--workers", str(WORKERS)) as server:
        prometheus = Prometheus(tmp_path, f"127.0.0.1:{server.port}")
        try:
            until(prometheus.ready, "Prometheus has scraped the server")
            yield server, prometheus
        finally:
            prometheus.close()


def firing_in(prometheus: Prometheus) -> set[tuple[str, str]]:
    return {
        (alert["labels"]["alertname"], alert["labels"].get("binding", ""))
        for alert in prometheus.get("alerts")["alerts"]
        if alert["state"] == "firing" and alert["labels"]["alertname"] not in MACHINES_OWN
    }


def settled(prometheus: Prometheus) -> bool:
    """Whether the load fills the window, and every alert that it causes fires."""
    found = prometheus.query("sandboxd:pool_utilisation:ratio_rate5m")
    return bool(found) and found[0][1] >= MOST / WORKERS * 0.95 and len(firing_in(prometheus)) >= 2


@pytest.mark.slow  # rates need a few seconds of load
def test_prometheus_sees_what_the_client_sees(serving: tuple[RunningServer, Prometheus]) -> None:
    server, prometheus = serving
    load = Load(server)
    try:
        until(lambda: settled(prometheus), "Prometheus sees the whole load", 180)
        at = time.time()
        firing = firing_in(prometheus)
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    finally:
        load.stop()
    # Both callers' counts, once they are scraped.
    query = "sum by (binding, outcome) (sandboxd_requests_total) > 0"
    expected = {key: float(count) for key, count in load.counts.items()}

    def counted() -> dict[tuple[str, str], float]:
        return {(labels["binding"], labels["outcome"]): value for labels, value in prometheus.query(query)}

    until(lambda: counted() == expected, f"{expected} is counted")

    # All that is asked of the one moment is asked when nothing more comes of it.
    panels = {}
    for name, expression in expressions_of_dashboard():
        shown = re.sub(r"\$__rate_interval|1h(?=\])", WINDOW, expression)
        shown = re.sub(r"\$(job|instance|binding)\b", ".*", shown)
        panels[name] = prometheus.query(
            f"avg_over_time(({shown})[{WINDOW}:{INTERVAL}])" if name in OF_A_MOMENT else shown, at
        )
    (rule,) = (rule for rule in rules if rule["name"] == "sandboxd:pool_utilisation:ratio_rate5m")
    utilisation = prometheus.value(rule["query"], at)
    depth = prometheus.value(f'avg_over_time(sandboxd_binding_queue_depth{{binding="sleep"}}[{WINDOW}])', at)
    # The workers were busy at least while guests slept, and at most with all that sleeping guests may hold, and while
    # the other caller waited for its answers.
    window = {
        binding: [took for ended, took in calls if at - WINDOW_S < ended <= at] for binding, calls in load.ended.items()
    }
    least = len(window["sleep"]) * SLEEP_MS / 1000 / WINDOW_S / WORKERS
    most = MOST / WORKERS + sum(window["exit"]) / WINDOW_S / WORKERS
    assert least * 0.95 <= utilisation <= most * 1.05
    assert 1 / 2 <= depth <= 2

    # Rules and dashboard.
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    assert firing == {("SandboxdBindingSaturated", "sleep"), ("SandboxdErrorRatio", "exit")}
    silent = {name.rsplit(" ", 1)[0] for name, found in panels.items() if not found}
    assert silent == NOT_MEASURED
    assert [name for name, found in panels.items() if all(math.isnan(value) for _, value in found) and found] == []

    def panel(name: str, **labels: str) -> float:
        values = [value for found, value in panels[name] if found.items() >= labels.items()]
        assert len(values) == 1, (name, panels[name])
        return values[0]

    rate = len(window["sleep"]) / WINDOW_S
    assert panel("Requests by binding A", binding="sleep") == pytest.approx(rate, rel=0.15)
    assert panel("Workers A") == WORKERS
    assert panel("Bindings not ready A") == 0
    assert panel("Busiest pool A") == pytest.approx(utilisation, rel=0.02)
    assert panel("At fault by binding A", binding="exit") == 1
    assert 1 / 2 <= panel("Workers held, of the share A", binding="sleep") <= 1
    assert 1 / 2 <= panel("Waiting by binding A", binding="sleep") <= 2
    assert panel("p99 by binding A", binding="sleep") > SLEEP_MS / 1000
    assert 0 < panel("Front CPU A") < 1
    assert panel("Memory of fronts A") > 10e6
