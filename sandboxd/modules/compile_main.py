"""The compile subprocess: `sandboxd.modules.compile_main`. It is the only process in which Cranelift runs.

It inherits a descriptor of the guest and one for the artifact, limits itself before it reads the first byte, and
answers with one line of JSON on stdout.
"""

import argparse
import errno
import json
import os
import resource
import signal
import sys
from contextlib import suppress

import msgspec

from sandboxd.limits import EngineSettings
from sandboxd.modules.binary import MalformedError, core_modules
from sandboxd.modules.errors import causes_line
from sandboxd.wall import Mode, enclose_compiler
from sandboxd.wall.confinement import (
    die_with_parent,
    drop_capabilities,
    forbid_new_privileges,
    forbid_tracing,
    lower_limit,
)
from sandboxd.wire.messages import GuestKind


class WriteError(Exception):
    """The artifact could not be written.

    Parameters:
        number: the errno.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> int:
    """Compile the guest of the command line. Return the exit status."""
    parser = argparse.ArgumentParser(prog="sandboxd.modules.compile_main")
    for name in ("input", "output", "parent", "memory", "cpu", "file"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--kind", choices=tuple(GuestKind), required=True)
    parser.add_argument("--wall", choices=tuple(Mode), required=True)
    parser.add_argument("--settings", required=True)
    options = parser.parse_args()
    confine(options.parent, memory_bytes=options.memory, cpu_s=options.cpu, file_bytes=options.file)
    settings = msgspec.json.decode(options.settings, type=EngineSettings)
    try:
        compile_guest(options.input, options.output, GuestKind(options.kind), settings, Mode(options.wall))
    except MemoryError:
        answer = {"error": "out of memory", "memory": True}
    except WriteError as error:
        answer = {"error": "artifact cannot be written", "errno": error.number}
    except Exception as error:  # noqa: BLE001 -- the answer is whatever the compiler raises; nothing else runs here
        answer = {"error": causes_line(str(error)) or type(error).__name__}
    else:
        answer = {}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if answer else 0


def confine(parent: int, *, memory_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """Limit this process to what a compiler of hostile input needs, and let it die with its parent.

    Parameters:
        parent: the parent's process id.
        memory_bytes: RLIMIT_AS.
        cpu_s: RLIMIT_CPU, in seconds.
        file_bytes: RLIMIT_FSIZE, the longest artifact.
    """
    die_with_parent(parent)
    forbid_new_privileges()
    forbid_tracing()
    for what, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        lower_limit(what, value)
    # Beyond RLIMIT_FSIZE a write must fail with EFBIG, which can be reported, instead of killing the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def compile_guest(source: int, target: int, kind: GuestKind, settings: EngineSettings, wall: Mode) -> None:
    """Compile a guest.

    Parameters:
        source: a descriptor of the guest.
        target: a descriptor that receives the artifact.
        kind: the kind of the guest.
        settings: the settings of the engine.
        wall: the mode of the wall around the compiler.

    Raises:
        wasmtime.WasmtimeError: the guest is not valid.
        WriteError: the artifact cannot be written.
        WallError, OSError: the wall cannot be put around the compiler.
    """
    # Imported here: importing wasmtime loads its library, and the limits must be set before.
    import wasmtime
    import wasmtime.component

    from sandboxd.worker import engine

    built = engine.build(settings, compiling=True)
    # From here on hostile bytes are read, and nothing is imported: root may need its rights to reach the packages.
    drop_capabilities()
    enclose_compiler(wall)
    with os.fdopen(source, "rb") as file:
        file.seek(0)
        data = file.read()
    # Validating costs a hundredth of compiling. So a large guest that is refused takes neither a minute nor gigabytes.
    if kind == GuestKind.COMPONENT:
        # wasmtime-py validates no component, but most of one is its modules. If their places cannot be read, the
        # compiler says what is wrong.
        with suppress(MalformedError):
            for module in core_modules(data):
                wasmtime.Module.validate(built, module)
        artifact = wasmtime.component.Component(built, data).serialize()
    else:
        wasmtime.Module.validate(built, data)
        artifact = wasmtime.Module(built, data).serialize()
    view = memoryview(artifact)
    try:
        while view:
            view = view[os.write(target, view) :]
    except OSError as error:
        raise WriteError(error.errno or errno.EIO) from error


if __name__ == "__main__":
    sys.exit(main())
