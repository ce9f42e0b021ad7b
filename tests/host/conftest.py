"""Fixtures of the host functions' tests."""

import pytest

from tests.host.components import Components


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    """Compiles components once per test run."""
    return Components(tmp_path_factory.mktemp("components"))
