"""WASI preview 1: all 46 functions of `wasi_snapshot_preview1`, one file per group.

state = InvocationState()
program = Program(state, stdout_limit=..., stderr_limit=...)
link(linker, program)
...                                     # once per run:
program.begin(Strings([b"name"]), Strings(), stdin)
...                                     # run the guest, see `hostfuncs.running.core`
program.stdout, program.stderr.value()
"""

from collections.abc import Callable, Container
from functools import partial
from typing import Any

import wasmtime

from hostfuncs.abi import define
from hostfuncs.imports import WASIP1 as MODULE
from hostfuncs.wasip1 import args, clock, descriptors, environ, poll, proc, random, stdio, unsupported
from hostfuncs.wasip1.errno import FAULT
from hostfuncs.wasip1.output import Tail
from hostfuncs.wasip1.program import RIGHTS_OUTPUT, RIGHTS_STDIN, Function, Program, Strings
from hostfuncs.wasip1.sources import Sources, StrictSources, SystemSources

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for group in (args, environ, clock, descriptors, stdio, unsupported, poll, proc, random)
    for function in group.FUNCTIONS
}


_STATELESS = frozenset(function.name for group in (clock, proc, random) for function in group.FUNCTIONS)
"""They change nothing of a Program, and read only its sources."""


def _recalling(function: Function, program: Program, *params: int) -> int | None:
    """Call a function that uses the Program's state, which may be elsewhere."""
    if program.recall is not None:
        program.recall()
    return function.call(program, *params)


def link(
    linker: wasmtime.Linker,
    program: Program,
    front: Callable[[str], Callable[[Any], tuple[Any, int]] | None] | None = None,
    *,
    names: Container[str] | None = None,
) -> None:
    """Define functions for guests linked by `linker`.

    Parameters:
        front: returns, by name, what stands before a function (see `hostfuncs.abi.define`), or None. With it, the
            state of a run is elsewhere until `Program.recall` is called.
        names: the functions that the guests import; None defines every one.

    Raises:
        ValueError: one is defined already.
    """
    functions = FUNCTIONS
    if program.new_files is not None:
        # Not at the top: a process whose guests have no files does without.
        from hostfuncs.wasip1 import files, paths

        functions = functions | {function.name: function for function in (*files.FUNCTIONS, *paths.FUNCTIONS)}
    for function in functions.values():
        if names is not None and function.name not in names:
            continue
        define(
            linker,
            MODULE,
            function.name,
            function.params,
            function.result,
            partial(function.call, program)
            if front is None or function.name in _STATELESS
            else partial(_recalling, function, program),
            program.state,
            fault=FAULT if function.result else None,
            front=None if front is None else front(function.name),
        )


__all__ = [
    "FUNCTIONS",
    "MODULE",
    "RIGHTS_OUTPUT",
    "RIGHTS_STDIN",
    "Function",
    "Program",
    "Sources",
    "StrictSources",
    "Strings",
    "SystemSources",
    "Tail",
    "link",
]
