"""Generates Python modules from the .proto files, with the compiler of grpcio-tools."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = "sandboxd/front/grpc/proto"


def generate(out: Path) -> list[Path]:
    """Write the modules below a folder, at their paths in the repository.

    Parameters:
        out: an existing folder.

    Returns:
        the files written.
    """
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / FOLDER).glob("*.proto"))
    options = [f"--proto_path={ROOT}", f"--python_out={out}", f"--pyi_out={out}"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *options, *map(str, sources)], check=True, cwd=ROOT, timeout=60
    )
    return sorted(out / source.parent / f"{source.stem}_pb2{end}" for source in sources for end in (".py", ".pyi"))
