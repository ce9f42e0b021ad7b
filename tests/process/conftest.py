"""Fixtures of the tests of processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.runtimes import Worker


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """Runs guests through the code of a worker."""
    made = Worker(tmp_path)
    yield made
    for runtime in made.runtimes:
        runtime.close()
