"""The program `sandboxd`, and `python -m sandboxd`.

Before anything else is imported, the folder that the interpreter put first on the import path is taken off it: the
program's own folder, or with `python -m` the working directory. What `python -m` itself imports before it comes to this
file cannot be kept from there: in a folder that others may write to, start the program or `python -P -m sandboxd`.
"""

import sys

from sandboxd.processes import interpreter

interpreter.leave_working_directory_out()

if sys.argv[1:2] == ["serve"]:
    from sandboxd.processes import signals

    signals.take_early()

from sandboxd.cli import main  # noqa: E402 -- nothing else is imported before the path is clean

if __name__ == "__main__":
    main()
