"""Fixtures of the unit tests."""

import os
from pathlib import Path

import pytest

from sandboxd.modules.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store of artifacts."""
    return Store(tmp_path / "cache")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's proxies away from downloads."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
