"""The compile subprocess: `python -m sandboxd.modules.compile_main`. The only process in which Cranelift runs.

It gets the guest and a place for the artifact as inherited descriptors, limits itself before it looks at the first
byte, and answers with one line of JSON on stdout.
"""

import argparse
import ctypes
import errno
import json
import os
import resource
import signal
import sys

import msgspec

from sandboxd.limits import EngineSettings
from sandboxd.modules.errors import one_line

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


class WriteError(Exception):
    """The artifact could not be written. Parameter: the errno."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> int:
    parser = argparse.ArgumentParser(prog="sandboxd.modules.compile_main")
    for name in ("input", "output", "parent", "memory", "cpu", "file"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--kind", choices=("module", "component"), required=True)
    parser.add_argument("--settings", required=True)
    options = parser.parse_args()
    confine(options.parent, memory_bytes=options.memory, cpu_s=options.cpu, file_bytes=options.file)
    settings = msgspec.json.decode(options.settings, type=EngineSettings)
    try:
        compile_guest(options.input, options.output, options.kind, settings)
    except MemoryError:
        answer = {"error": "out of memory", "memory": True}
    except WriteError as error:
        answer = {"error": "artifact cannot be written", "errno": error.number}
    except Exception as error:  # noqa: BLE001 -- whatever the compiler raises is the answer; nothing else runs here
        answer = {"error": one_line(str(error)) or type(error).__name__}
    else:
        answer = {}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if answer else 0


def confine(parent: int, *, memory_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """Give up what a compiler of hostile input does not need, and die with the process that asked."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before prctl took effect
        os._exit(1)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for what, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))
    # Beyond RLIMIT_FSIZE a write is to fail with EFBIG, which can be reported, instead of killing.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def compile_guest(source: int, target: int, kind: str, settings: EngineSettings) -> None:
    """Compile what is in one descriptor into the other.

    Raises:
        wasmtime.WasmtimeError: the guest is not valid.
        WriteError: the artifact cannot be written.
    """
    # Late: the limits come first, and importing wasmtime loads its library.
    import wasmtime
    import wasmtime.component

    from sandboxd.worker import engine

    with os.fdopen(source, "rb") as file:
        file.seek(0)
        data = file.read()
    built = engine.build(settings, compiling=True)
    if kind == "component":
        artifact = wasmtime.component.Component(built, data).serialize()
    else:
        artifact = wasmtime.Module(built, data).serialize()
    view = memoryview(artifact)
    try:
        while view:
            view = view[os.write(target, view) :]
    except OSError as error:
        raise WriteError(error.errno or errno.EIO) from error


if __name__ == "__main__":
    sys.exit(main())
