"""Fixtures that start real servers. One server per engine serves all tests that do not need their own settings."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.guests import cache, path
from tests.guests.cache import CACHE, ROOT
from tests.running import RunningServer, component, write_components

pytest_plugins = ["hostfuncs.pytest_plugin"]
"""pytest finds it where the package is installed; a checkout that was not installed again since has it from here."""

# Whether an example takes long to run or to make says how busy the machine is.
settings.register_profile("no deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no deadline")

TESTS = ROOT / "tests"
ENGINES = ("uvicorn", "hypercorn")


SLOW_TIERS = {"fuzz", "hammer", "hostile", "process"}
"""Folders whose tests are all marked `slow`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tiers that take long as a whole."""
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in SLOW_TIERS:
            item.add_marker(pytest.mark.slow)


def pytest_xdist_auto_num_workers() -> int:
    """Three processes for two processors: a part of each run is waiting for servers, deadlines and drains."""
    processors = len(os.sched_getaffinity(0))
    return processors + processors // 2


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hold each test to its word: what is not marked `build` neither builds nor downloads (see tests/README.md)."""
    cache.building_is_expected = item.get_closest_marker("build") is not None


@pytest.fixture(scope="session", autouse=True)
def cache_folder() -> Iterator[Path]:
    """One artifact store for all test runs, so that each guest is compiled once. Tests of compiling have their own."""
    folder = ROOT / ".cache" / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBOXD_CACHE_FOLDER", str(folder))
        # Servers of tests run side by side. Tests of gRPC name a port or a socket.
        patch.setenv("SANDBOXD_LISTEN_GRPC_PORT", "0")
        # zig builds a C library for each level of optimization, once for all tests.
        patch.setenv("ZIG_GLOBAL_CACHE_DIR", str(CACHE / "zig"))
        yield folder


def guest_component(name: str, guest: str | None = None, **metadata: str) -> str:
    """A component for a committed guest, by default the one of the same name."""
    return component(name, f"file://{path(guest or name)}", **metadata)


@pytest.fixture(scope="session", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with the small C guests as bindings, once per engine."""
    documents = [guest_component(name) for name in ("echo", "upper", "args", "env", "exit", "trap", "stderr", "tiny")]
    resources = write_components(tmp_path_factory.mktemp("resources"), documents)
    with RunningServer(resources, "--engine", request.param, "--workers", "2") as running:
        yield running
