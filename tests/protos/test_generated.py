"""The committed messages are those that the compiler makes of the .proto files."""

from pathlib import Path

import pytest

from tests.protos.generate import ROOT, generate


def test_generating_again_gives_what_is_committed(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools of the dev extra is not installed")
    for made in generate(tmp_path):
        assert made.read_text() == (ROOT / made.relative_to(tmp_path)).read_text(), (
            f"{made.name}: python -m tests.protos"
        )
