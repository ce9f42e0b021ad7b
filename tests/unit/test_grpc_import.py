"""grpcio's handlers of fork(2) are off before it is imported, whichever module of ours comes first.

With them a compiler that the front started ended by SIGSEGV at times, between fork and exec.
"""

import os
import pkgutil
import subprocess
import sys

import pytest

import sandboxd.front.grpc

PROGRAM = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_ENABLE_FORK_SUPPORT"))
sys.meta_path.insert(0, Finder())
import importlib
importlib.import_module(sys.argv[1])
"""

MODULES = sorted(module.name for module in pkgutil.iter_modules(sandboxd.front.grpc.__path__) if not module.ispkg)


@pytest.mark.parametrize("name", MODULES)
def test_the_handlers_of_fork_are_off(name: str) -> None:
    environ = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "true"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"sandboxd.front.grpc.{name}"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environ,
    )
    assert (done.stdout, done.stderr) in (("false\n", ""), ("", ""))  # none of these, or no import of grpc
    assert done.stdout or name not in ("server", "service", "component", "status")
