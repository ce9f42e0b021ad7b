"""Fixtures that start real servers. One server per engine serves all tests that do not need their own settings."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests import path
from tests.running import RunningServer, component, write_components

ENGINES = ("uvicorn", "hypercorn")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One artifact store for the whole test run, so that each guest is compiled once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBOXD_CACHE_FOLDER", str(folder))
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
