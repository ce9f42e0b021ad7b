"""Fixtures of the tests of processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.native import need_native
from tests.process.runtimes import Worker


@pytest.fixture(params=["native", "python"])
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Worker]:
    """Runs guests through the code of a worker, with host functions in C and with those in Python only."""
    if request.param == "native":
        need_native()
    made = Worker(tmp_path, native_functions=request.param == "native")
    yield made
    for runtime in made.runtimes:
        runtime.close()
