"""`sandboxd compile`: fills the artifact store ahead of time, for example while a container image is built."""

import asyncio
import os
import sys

from sandboxd.config import Config
from sandboxd.errors import ComponentError, ExitCode, one_line
from sandboxd.files.problems import Problem, Severity
from sandboxd.modules.prepare import NO_START, NO_START_REMEDY, compile_all
from sandboxd.server.progress import ProgressLine
from sandboxd.server.translate import module_settings, read_components


def compile_all_bindings(config: Config, problems: tuple[Problem, ...]) -> int:
    """Run `sandboxd compile`.

    Parameters:
        config: all settings.
        problems: the warnings from reading the settings, to be printed.

    Returns:
        the exit status: COMPONENT if a guest without ignoreErrors cannot be compiled.
    """
    loaded = read_components(config, os.environ)
    for problem in (*problems, *loaded.problems):
        print(problem, file=sys.stderr)
    results = asyncio.run(
        compile_all(loaded.bindings, module_settings(config), progress=ProgressLine(sys.stderr, failures=False)),
    )
    failed = any(p.severity is Severity.ERROR for p in loaded.problems)
    for binding, result in zip(loaded.bindings, results, strict=True):
        if isinstance(result, ComponentError):
            print(one_line(f"sandboxd: {binding.place}: {result}"), file=sys.stderr)
            failed = failed or not binding.ignore_errors
        else:
            if not result.has_start:
                print(one_line(f"sandboxd: {binding.place}: {NO_START} ({NO_START_REMEDY})"), file=sys.stderr)
            print(one_line(f"{binding.name} {result.kind} {result.digest[:16]} {result.artifact.path}"))
    return ExitCode.COMPONENT if failed else ExitCode.OK
