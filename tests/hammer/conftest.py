"""The scripted world below a pool, for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.hammer.scripted import World


@pytest.fixture
def world() -> Iterator[World]:
    """A world of its own for each test."""
    made = World()
    with made.installed():
        yield made
    made.close()
