"""The commonest functions of WASI preview 1, and the bracket around a run of a core module, in C. Optional.

`preview1.c` is compiled when the package is installed, where there is a C compiler (`build.py`). Without it everything
runs in Python, which is the reference for what the C does.

library = find()                        # None: there is none
run = NativeRun(library, ...)           # once per linked guest
run.front("fd_write")                   # for `hostfuncs.abi.define`
...
run.enter(args, environ, stdin)         # once per run
"""

from hostfuncs.native.library import FUNCTIONS, Library, find
from hostfuncs.native.run import Failure, NativeRun

__all__ = ["FUNCTIONS", "Failure", "Library", "NativeRun", "find"]
