"""WASI preview 1 for guests without files: all 46 functions of `wasi_snapshot_preview1`, one file per group.

state = InvocationState()
program = Program(state, stdout_limit=..., stderr_limit=...)
link(linker, program)
...                                     # once per invocation:
program.begin(Strings([b"name"]), Strings(), stdin)
...                                     # run the guest
program.stdout, program.stderr.value()
"""

from functools import partial

import wasmtime

from hostfuncs.abi import define
from hostfuncs.wasip1 import args, clock, descriptors, environ, nofiles, poll, proc, random, stdio
from hostfuncs.wasip1.errno import FAULT
from hostfuncs.wasip1.program import Function, Program, Strings
from hostfuncs.wasip1.sources import Sources, StrictSources, SystemSources

MODULE = "wasi_snapshot_preview1"
"""The import module."""

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for group in (args, environ, clock, descriptors, stdio, nofiles, poll, proc, random)
    for function in group.FUNCTIONS
}


def link(linker: wasmtime.Linker, program: Program) -> None:
    """Define every function for guests linked by `linker`.

    Raises:
        ValueError: one is defined already.
    """
    for function in FUNCTIONS.values():
        define(
            linker,
            MODULE,
            function.name,
            function.params,
            function.result,
            partial(function.call, program),
            program.state,
            fault=FAULT if function.result else None,
        )


__all__ = ["FUNCTIONS", "MODULE", "Function", "Program", "Sources", "StrictSources", "Strings", "SystemSources", "link"]
