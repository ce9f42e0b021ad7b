"""Running a target under atheris."""

import contextlib
import sys
from collections.abc import Callable


def instrumented() -> contextlib.AbstractContextManager[None]:
    """Give the modules imported inside the block coverage counters, if this process was started to fuzz."""
    if not sys.argv or not any(argument.startswith(("-runs=", "-max_total_time=")) for argument in sys.argv[1:]):
        return contextlib.nullcontext()
    import atheris

    context: contextlib.AbstractContextManager[None] = atheris.instrument_imports(include=["sandboxd", "hostfuncs"])
    return context


def fuzz(target: Callable[[bytes], None]) -> None:
    """Call `target` until the options of the command line say that it is enough. Ends the process."""
    import atheris

    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
