"""The parts that all questions share: the record, its table, its bars, and the statistics."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
GUESTS = ROOT / "tests" / "guests" / "bin"
PACKAGES = ("wasmtime", "msgspec", "starlette", "hypercorn", "uvicorn", "httptools", "uvloop", "h2", "h11", "httpx2")


def machine() -> dict[str, Any]:
    """Return what the figures depend on: versions, cores, commit, kernel, and the load from other processes."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return {
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_name(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_call_ns": python_call_ns(),
        "packages": versions,
        "commit": git("rev-parse", "--short", "HEAD"),
        "changed": bool(git("status", "--porcelain", "--", "sandboxd", "hostfuncs")),
        "load_average": round(os.getloadavg()[0], 2),
    }


def python_call_ns() -> int:
    """Return the time of one call of a method in Python: builds of one version differ by a third or more."""

    class Called:
        def method(self, value: int) -> int:
            return value

    called = Called()
    calls, best = 10_000, 1 << 62
    for _ in range(10):
        began = time.thread_time_ns()
        for number in range(calls):
            called.method(number)
        best = min(best, time.thread_time_ns() - began)
    return round(best / calls)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One figure that has to be reached.

    `want` is a floor if `at_least`, else a ceiling.
    """

    what: str
    want: float
    got: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.got >= self.want if self.at_least else self.got <= self.want

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'met ' if self.met else 'MISSED'}  {self.what}: {self.got:g} {self.unit} ({sign} {self.want:g})"


@dataclass(kw_only=True)
class Record:
    """The answer to one question."""

    question: str
    """Name of its file."""
    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    """Of the printed table; rows may hold more."""
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plot: dict[str, Any] = field(default_factory=dict)
    """How bench/report.py draws it: x, y, series (columns), labels, log."""

    def add(self, **row: Any) -> dict[str, Any]:
        """One more row, printed at once so that a long run shows that it lives."""
        self.rows.append(row)
        print("  " + "  ".join(f"{name}={_short(row.get(name))}" for name in self.columns), flush=True)
        return row

    def write(self, path: Path | None) -> None:
        """Print the bars and leave the JSON."""
        for note in self.notes:
            print(f"note: {note}")
        for bar in self.bars:
            print(bar)
        target = path or RESULTS / f"{self.question}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        content = asdict(self) | {"bars": [asdict(bar) | {"met": bar.met} for bar in self.bars]}
        content |= {"machine": machine(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        target.write_text(json.dumps(content, indent=1) + "\n")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Options:
    """Of every question's command line."""

    quick: bool
    rounds: int
    seconds: float
    json: Path | None
    rows: frozenset[str]
    """The rows that are asked for; all, if the question has no choice of them."""


def options(doc: str | None, *, rounds: int = 5, seconds: float = 3.0, rows: Sequence[str] = ()) -> Options:
    """Read the command line: `[--quick] [--rounds N] [--seconds S] [--json FILE]`, and `[--rows NAME,NAME]` if there
    are names.

    Parameters:
        doc: the module's docstring.
        rounds: the default; --quick takes 2.
        seconds: of one round of one side; --quick takes a third, at most 1.
        rows: the names of what may be measured alone.
    """
    parser = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs, for a look; figures are noisy")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one round of one side")
    parser.add_argument("--json", type=Path, help="where the record goes; default bench/results/")
    if rows:
        parser.add_argument("--rows", default=",".join(rows), help="measure only these: names with commas between")
    given = parser.parse_args()
    wanted = frozenset(given.rows.split(",")) if rows else frozenset[str]()
    if not wanted <= set(rows):
        parser.error(f"--rows: {', '.join(sorted(wanted - set(rows)))}: the rows are {', '.join(rows)}")
    return Options(
        quick=given.quick,
        rounds=given.rounds or (2 if given.quick else rounds),
        seconds=given.seconds or (min(1.0, seconds / 3) if given.quick else seconds),
        json=given.json,
        rows=wanted,
    )


def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Run every side once per round, so that what slows the machine for a while slows all of them."""
    out: dict[str, list[Any]] = {name: [] for name in sides}
    for round_number in range(rounds):
        # Every other round backwards: no side always follows the same one.
        order = list(sides) if round_number % 2 == 0 else list(sides)[::-1]
        for name in order:
            out[name].append(sides[name]())
    return out


def median_of(samples: Sequence[Any], name: str) -> float:
    """The median of one attribute."""
    return float(statistics.median(getattr(sample, name) for sample in samples))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round: a slow minute falls on both sides of it."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Nearest-rank quantile of sorted values; 0 without any."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def end(record: Record, given: Options) -> int:
    """Write and say how it went: 0 even where bars were missed; the suite's table shows them."""
    record.write(given.json)
    return 0


def markdown(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_short(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def python_module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of this repository."""
    return [sys.executable, "-m", name, *arguments]
