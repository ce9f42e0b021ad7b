"""Servers of two cells, and what tests ask of them."""

import os
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.running import RunningServer
from tests.waiting import BOUND_S, until

COUNTING = ("counter", "histogram")
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Cells(RunningServer):
    """`sandboxd serve --cells 2` on a port that the supervisor binds, one socket per cell."""

    def __init__(self, resources: Path, *options: str, ready: str = "cells_ready", **rest: Any) -> None:
        rest.setdefault("bind", True)
        super().__init__(resources, "--cells", "2", *options, ready=ready, **rest)

    def pids(self) -> list[int]:
        """The latest process of each cell, by number."""
        found: dict[int, int] = {}
        for line in self.lines:
            if line.get("event") == "cell_started":
                found[line["cell"]] = line["worker_pid"]
        return [found[number] for number in sorted(found)]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return all log lines of one event so far."""
        return [line for line in self.lines if line.get("event") == name]

    def scrape(self, kinds: tuple[str, ...] | None = None) -> Values:
        """/metrics, over a new connection: values by name and labels.

        Parameters:
            kinds: only metrics of these types.
        """
        with self.client() as client:
            response = client.get("/metrics")
        assert response.status_code == 200, response.text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(response.text)
            if kinds is None or family.type in kinds
            for sample in family.samples
        }

    def kill(self, number: int) -> float:
        """SIGKILL the process of a cell; the instant at which it was surely dead."""
        pid = self.pids()[number]
        pidfd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            dead, _, _ = select.select([pidfd], [], [], BOUND_S)
            assert dead
            return time.monotonic()
        finally:
            os.close(pidfd)

    def wait_ready(self, number: int, since: int) -> None:
        """Until a process of the cell became ready, later than line `since` of the log."""
        self.wait_for(
            lambda line: line.get("event") == "cell_ready" and line["cell"] == number, since=since, timeout_s=60
        )

    def scrape_with(self, figure: float, name: str, **labels: str) -> Values:
        """/metrics, once it has this figure. A cell that is slow to answer is shown as it was when it last did."""
        found: Values = {}

        def is_there() -> bool:
            found.clear()
            found.update(self.scrape())
            return found.get((name, frozenset(labels.items()))) == figure

        until(is_there, f"{name} {labels} is {figure:g}")
        return found


def value(values: Mapping[Any, float], name: str, **labels: str) -> float:
    """One sample of a scrape."""
    return values[name, frozenset(labels.items())]
