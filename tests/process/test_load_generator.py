"""The load generators of bench/, native and Python's: what they send, what they count, and from when.

Not tested here: what a generator costs, and how exactly it meets its instants; each run says that of itself.
"""

import importlib.util
import json
import random
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate, takewhile
from pathlib import Path
from socket import socket
from typing import Any

import pytest

from bench import load, native
from bench.measure import python_module, quantile
from bench.targets import Target
from tests.guests.cache import ToolMissingError, expect_building, skip_or_fail
from tests.listeners import Listener
from tests.origins import Origin, refused_port

pytestmark = pytest.mark.build

BODY = b'{"operation":"execute","data":"hello"}'
WAIT_S = 60.0


def native_command() -> list[str]:
    expect_building("bench/generator.c")
    if importlib.util.find_spec("ziglang") is None:
        skip_or_fail(ToolMissingError("ziglang", "pip install -e '.[dev]'"))
    return [str(native.generator())]


def python_command() -> list[str]:
    return python_module("bench.generator")


@pytest.fixture(scope="module", params=["native", "python"])
def generator(request: pytest.FixtureRequest) -> list[str]:
    return native_command() if request.param == "native" else python_command()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


def start(command: Sequence[str], url: str, folder: Path, **options: float) -> "subprocess.CompletedProcess[str]":
    body = folder / "body"
    body.write_bytes(BODY)
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return subprocess.run(
        [*command, "--url", url, "--body", str(body), *arguments], capture_output=True, text=True, timeout=WAIT_S
    )


def result(command: Sequence[str], url: str, folder: Path, **options: float) -> dict[str, Any]:
    done = start(command, url, folder, **options)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def plan(rate: float, seconds: float, seed: int) -> list[float]:
    """Instants of a Poisson process, in seconds from its beginning."""
    draw = random.Random(seed)
    steps = iter(lambda: draw.expovariate(rate), None)
    return list(takewhile(lambda at: at < seconds, accumulate(steps)))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_an_open_loop_sends_what_is_planned_and_nothing_else(
    generator: list[str], origin: Origin, tmp_path: Path, seed: int
) -> None:
    found = result(generator, origin.url("/echo?a=b"), tmp_path, rate=2500, seconds=0.2, seed=seed, connections=4)
    planned = len(plan(2500, 0.2, seed))
    assert (found["requests"], found["failed"], len(origin.seen)) == (planned, 0, planned)
    assert 0 < found["p50_us"] <= found["p90_us"] <= found["p99_us"] <= found["p999_us"]
    assert origin.connections == 4
    assert {(seen.method, seen.body, seen.get("host")) for seen in origin.seen} == {("POST", BODY, origin.authority)}


def test_a_closed_loop_keeps_every_connection_busy(generator: list[str], origin: Origin, tmp_path: Path) -> None:
    found = result(generator, origin.url("/echo"), tmp_path, seconds=1, connections=3)
    # Each connection's last request may be answered after the end: it is waited for, but not counted.
    assert 0 < found["requests"] <= len(origin.seen) <= found["requests"] + 3
    assert (found["failed"], found["seconds"], found["late_p99_us"], origin.connections) == (0, 1, 0, 3)


def test_other_answers_than_200_have_failed(generator: list[str], origin: Origin, tmp_path: Path) -> None:
    found = result(generator, origin.url("/status/500"), tmp_path, rate=500, seconds=0.1)
    assert found["failed"] == found["requests"] == len(plan(500, 0.1, 1))


def test_requests_on_connections_the_server_closes_have_failed(origin: Origin, tmp_path: Path) -> None:
    """And have no latency: one that is refused at once must not make the others look fast."""
    found = result(native_command(), origin.url("/close-silently"), tmp_path, rate=500, seconds=0.1, connections=2)
    planned = len(plan(500, 0.1, 1))
    assert (found["requests"], found["failed"], found["p999_us"]) == (0, planned, 0)
    assert len(origin.seen) == planned
    assert origin.connections > 2
    closed_loop = result(native_command(), origin.url("/close-silently"), tmp_path, seconds=1, connections=2)
    assert closed_loop["failed"] == len(origin.seen) - planned > 0


def test_answers_of_any_size_are_read_to_their_end(origin: Origin, tmp_path: Path) -> None:
    found = result(native_command(), origin.url("/bytes/200000"), tmp_path, rate=200, seconds=0.1, connections=2)
    planned = len(plan(200, 0.1, 1))
    assert (found["requests"], found["failed"], len(origin.seen)) == (planned, 0, planned)


class Stalling(Listener):
    """Answers in pieces, the header's name in unusual letters; the first answer only after a stall."""

    stalled_s = 0.0

    def serve(self, sock: socket) -> None:
        """One request after the other, of which each ends in BODY."""
        held = b""
        while data := sock.recv(65536):
            held += data
            if not held.endswith(BODY):
                continue
            held = b""
            if not self.stalled_s:
                began = time.monotonic()
                self.released.wait(0.3)
                self.stalled_s = time.monotonic() - began
            for piece in (b"HTTP/1.1 200 OK\r\ncOnTenT-", b"LENGTH:  5\r\n\r\nhe", b"llo"):
                sock.sendall(piece)


def test_latency_counts_from_the_planned_instant(generator: list[str], tmp_path: Path) -> None:
    """What is planned while the server stalls leaves late, and its wait is in its latency."""
    rate, seconds = 500, 0.4
    with Stalling() as server:
        found = result(generator, server.url("/"), tmp_path, rate=rate, seconds=seconds, connections=1)
    planned = plan(rate, seconds, 1)
    # The one connection answers nobody before the first request, which left at its instant or later, was stalled.
    least = sorted(max(0.0, planned[0] + server.stalled_s - at) * 1e6 for at in planned)
    assert (found["requests"], found["failed"]) == (len(planned), 0)
    assert quantile(least, 0.5) > 50_000
    for name, fraction in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
        assert found[f"{name}_us"] >= quantile(least, fraction) - 0.1, name


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/chunked/10", "an answer without content-length: HTTP/1.1 200"),
        ("/long", "bytes that belong to no answer"),
        ("/big-head", "head is longer than 65536 bytes"),
    ],
)
def test_what_it_cannot_read_ends_it_with_one_line(origin: Origin, tmp_path: Path, path: str, why: str) -> None:
    done = start(native_command(), origin.url(path), tmp_path, seconds=0.1, connections=1)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert why in done.stderr


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with refused_port() as port:
        done = start(native_command(), f"http://127.0.0.1:{port}/", tmp_path, seconds=0.1)
    assert done.returncode == 1
    assert done.stderr == f"generator: cannot connect to 127.0.0.1:{port}: Connection refused\n"


@pytest.mark.parametrize("option", [{"rate": -1}, {"seconds": float("nan")}, {"connections": 0}, {"seed": 2**32}])
def test_numbers_out_of_bounds_are_errors(tmp_path: Path, option: dict[str, float]) -> None:
    done = start(native_command(), "http://127.0.0.1:1/", tmp_path, **option)
    assert done.returncode == 1
    assert "a number from" in done.stderr


@pytest.fixture
def chosen_anew() -> Iterator[None]:
    load.generator.cache_clear()
    yield
    load.generator.cache_clear()


@pytest.mark.usefixtures("chosen_anew")
def test_load_uses_the_native_one(origin: Origin) -> None:
    assert [*load.generator()] == native_command()
    target = Target(name="origin", url=origin.url("/echo"))
    run = load.saturate(target, BODY, connections=2, seconds=1)
    assert (run.failed, run.requests > 0) == (0, True)


@pytest.mark.usefixtures("chosen_anew")
def test_load_does_without_a_compiler(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable() -> Path:
        raise native.UnavailableError("no compiler")

    monkeypatch.setattr(native, "generator", unavailable)
    assert (load.generator_name(), [*load.generator()]) == ("bench/generator.py", python_command())
    assert "no compiler" in capsys.readouterr().err
    run = load.open_loop(Target(name="origin", url=origin.url("/echo")), BODY, connections=2, seconds=0.1, rate=300)
    assert (run.requests, run.failed) == (len(plan(300, 0.1, 1)), 0)


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        (["/nonexistent/cc"], "No such file or directory"),
        ([sys.executable, "-c", "raise SystemExit('No module named ziglang')"], "pip install"),
        ([sys.executable, "-c", "raise SystemExit('generator.c:1: error')"], "exited with 1: generator.c:1: error"),
    ],
)
def test_a_compiler_that_is_missing_or_fails(tmp_path: Path, compiler: list[str], why: str) -> None:
    with pytest.raises(native.UnavailableError, match=why):
        native.generator(tmp_path, compiler)
    assert list(tmp_path.iterdir()) == []


def test_it_is_built_once_for_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import pathlib, sys
            target, source = sys.argv[sys.argv.index("-o") + 1 :][:2]
            pathlib.Path(target).write_bytes(pathlib.Path(source).read_bytes())
            with pathlib.Path({str(tmp_path / "log")!r}).open("a") as log:
                log.write("built\\n")
            """
        )
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    source = tmp_path / "generator.c"
    monkeypatch.setattr(native, "SOURCE", source)
    built = []
    for text in ("one", "one", "two"):
        source.write_text(text)
        built.append(native.generator(tmp_path / "cache", [str(compiler)]))
        assert built[-1].read_text() == text
    assert built[0] == built[1] != built[2]
    assert (tmp_path / "log").read_text().count("built") == 2
