"""Each target for a bounded time."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TARGETS = ("frames", "grpc_frames", "gojson", "components", "policy", "modules", "workers")
RUNS, SECONDS = 8_000, 5


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not there; hypothesis runs instead")
@pytest.mark.parametrize("name", TARGETS)
def test_by_coverage(name: str, tmp_path: Path) -> None:
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for number, seed in enumerate(importlib.import_module(f"tests.fuzz.{name}").SEEDS):
        (seeds / str(number)).write_bytes(seed)
    command = [sys.executable, "-m", f"tests.fuzz.{name}", f"-runs={RUNS}", f"-max_total_time={SECONDS}", "-seed=1"]
    command += [f"-artifact_prefix={tmp_path}/", "-max_len=4096", "-rss_limit_mb=1024", str(seeds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 0, done.stderr[-4000:]
    assert "DONE" in done.stderr or "Done" in done.stderr, done.stderr[-4000:]


@st.composite
def changed_seeds(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with pieces replaced."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_by_example(name: str, data: st.DataObject) -> None:
    module = importlib.import_module(f"tests.fuzz.{name}")
    module.target(data.draw(st.binary(max_size=100) | changed_seeds(module.SEEDS)))
