"""Starts Python processes of this package, none of which imports from the working directory.

The working directory may be anybody's: a file `copy.py` in it must not run inside the zygote. `python -m` puts it first
on the import path; `-P` leaves it out, but then a source tree that is not installed is not found any more. So a process
is started as `python -P .../interpreter.py MODULE ARGUMENTS`: this file, run as a script, adds the folder that the
package was installed to behind everything else and runs the module.
"""

import os
import sys
from collections.abc import Mapping

_SEARCH_PATHS = ("PYTHONPATH", "LD_LIBRARY_PATH")
"""Variables that list folders code is loaded from. Python and ld.so(8) read an empty or relative entry as the working
directory or a folder in it."""


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this package.

    Parameters:
        module: its whole name.
        arguments: what it finds in sys.argv.
    """
    return [sys.executable, "-P", os.path.abspath(__file__), module, *arguments]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for `command`: search paths without entries that depend on the working directory.

    Parameters:
        environ: what the process is to have otherwise.
    """
    cleaned = dict(environ)
    for name in _SEARCH_PATHS:
        if name in cleaned:
            kept = [entry for entry in cleaned[name].split(os.pathsep) if os.path.isabs(entry)]
            cleaned[name] = os.pathsep.join(kept)
            if not kept:
                del cleaned[name]
    return cleaned


def leave_working_directory_out() -> None:
    """Take off `sys.path` what `python -m` put first, and what relative entries of PYTHONPATH added.

    Where this package itself was found only there, its folder goes to the end, behind the standard library.
    """
    if not sys.flags.safe_path and sys.path:
        del sys.path[0]
    listed = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    relative = [entry for entry in listed.split(os.pathsep) if not os.path.isabs(entry)] if listed else []
    unwanted = set(map(os.path.realpath, relative)) - {os.path.dirname(os.path.realpath(os.__file__))}
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) not in unwanted]
    _find_package()


def _find_package() -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    if root not in map(os.path.realpath, sys.path):
        sys.path.append(root)


if __name__ == "__main__":
    _find_package()
    import runpy

    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
