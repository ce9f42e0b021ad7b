"""The command line: serve, run, compile, check."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sandboxd import __version__
from sandboxd.components import strict_sandbox
from sandboxd.config import Config, load, render
from sandboxd.errors import ConfigError, ExitCode, SandboxdError
from sandboxd.problems import Problem, Severity
from sandboxd.units import parse_duration_ms

CONFIG_VARIABLE = "SANDBOXD_CONFIG"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point: run a command and exit with its `ExitCode`.

    Parameters:
        argv: without the program's name; the process's own by default.
    """
    arguments = _parser().parse_args(argv)
    try:
        status = arguments.command(arguments)
    except SandboxdError as error:
        print(f"sandboxd: {error}", file=sys.stderr)
        status = error.exit_code
    except KeyboardInterrupt:
        status = 130
    sys.exit(int(status))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sandboxd", description="Dapr's WebAssembly binding as a server of its own.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"sandboxd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument(
        "--resources-path",
        action="append",
        metavar="DIR",
        help="folder of component files, as for daprd; may be given several times",
    )
    common.add_argument(
        "--config", type=Path, default=None, metavar="FILE", help=f"sandboxd.yaml (or the variable {CONFIG_VARIABLE})"
    )
    common.add_argument(
        "--dapr-config",
        type=Path,
        metavar="FILE",
        help="Dapr Configuration whose spec.wasm.strictSandbox applies to all bindings",
    )
    common.add_argument("--app-id", metavar="ID", help="Dapr's app id, for scopes and templates")

    serve = commands.add_parser("serve", parents=[common], allow_abbrev=False, help="serve binding requests")
    serve.add_argument("--host", metavar="H", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", metavar="P", help="port to listen on (default 3500; 0 takes a free one)")
    serve.add_argument("--fd", type=int, metavar="N", help="serve on this inherited listening socket instead")
    serve.add_argument("--workers", metavar="N", help="worker processes")
    serve.add_argument("--cells", metavar="N", help="independent fronts with their pools on one port")
    serve.add_argument("--engine", choices=["auto", "hypercorn", "uvicorn"], help="which HTTP server runs")
    serve.add_argument("--print-config", action="store_true", help="print the settings in effect as YAML and exit")
    serve.set_defaults(command=_serve)

    run = commands.add_parser("run", allow_abbrev=False, help="run one guest here, with this stdin and stdout")
    run.add_argument("--env", action="append", default=[], metavar="K=V", help="variable for the guest")
    run.add_argument("--timeout", default="30s", metavar="D", help="as in 5s or 1m30s (default 30s)")
    run.add_argument("--config", type=Path, default=None, metavar="FILE", help="sandboxd.yaml")
    run.add_argument("file", type=Path, metavar="FILE.wasm")
    run.add_argument("args", nargs="*", metavar="ARGS", help="the guest's arguments, after -- if they begin with -")
    run.set_defaults(command=_run)

    compile_ = commands.add_parser(
        "compile", parents=[common], allow_abbrev=False, help="fill the artifact cache, as for an image build"
    )
    compile_.set_defaults(command=_compile)

    check = commands.add_parser(
        "check", parents=[common], allow_abbrev=False, help="validate settings, components and modules"
    )
    check.set_defaults(command=_check)

    reference = commands.add_parser("reference", allow_abbrev=False, help="print the reference tables as Markdown")
    reference.add_argument("--update", type=Path, metavar="FILE", help="renew them in this file instead")
    reference.set_defaults(command=_reference)
    return parser


def _config_path(arguments: argparse.Namespace) -> Path | None:
    if arguments.config is not None:
        return Path(arguments.config)
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else None


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    paths = getattr(arguments, "resources_path", None)
    dapr_config = getattr(arguments, "dapr_config", None)
    strict = False
    if dapr_config is not None:
        strict, problems = strict_sandbox(dapr_config)
        for problem in problems:
            if problem.severity is Severity.ERROR:
                raise ConfigError(f"{problem.place}: {problem.message}", remedy=problem.remedy)
    return {
        "strictSandbox": True if strict else None,
        "listen.host": getattr(arguments, "host", None),
        "listen.port": getattr(arguments, "port", None),
        "pool.workers": getattr(arguments, "workers", None),
        "engine.kind": getattr(arguments, "engine", None),
        "cells": getattr(arguments, "cells", None),
        "appId": getattr(arguments, "app_id", None),
        "resourcesPaths": tuple(paths) if paths else None,
    }


def _load(arguments: argparse.Namespace) -> tuple[Config, tuple[Problem, ...]]:
    return load(_config_path(arguments), environ=os.environ, overrides=_overrides(arguments))


def _serve(arguments: argparse.Namespace) -> int:
    config, problems = _load(arguments)
    if arguments.print_config:
        sys.stdout.write(render(config))
        return ExitCode.OK
    if config.cell_count > 1:
        from sandboxd.cells.supervisor import supervise

        return supervise(config, problems, fd=arguments.fd)
    from sandboxd.serve import serve

    return serve(config, problems, fd=arguments.fd)


def _run(arguments: argparse.Namespace) -> int:
    config, _ = load(_config_path(arguments), environ=os.environ, overrides={})
    env = []
    for pair in arguments.env:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise SandboxdError(f"--env {pair} is not NAME=VALUE", exit_code=ExitCode.USAGE)
        env.append((name, value))
    try:
        timeout_ms = parse_duration_ms(arguments.timeout)
    except ValueError as error:
        raise SandboxdError(f"--timeout: {error}", exit_code=ExitCode.USAGE) from error
    from sandboxd.run import run

    return run(config, arguments.file, tuple(arguments.args), tuple(env), timeout_ms)


def _compile(arguments: argparse.Namespace) -> int:
    from sandboxd.prepare import compile_all_bindings

    config, problems = _load(arguments)
    return compile_all_bindings(config, problems)


def _check(arguments: argparse.Namespace) -> int:
    from sandboxd.prepare import check_all

    return check_all(_config_path(arguments), os.environ, _overrides(arguments))


def _reference(arguments: argparse.Namespace) -> int:
    from sandboxd.reference import tables, update_file

    if arguments.update is not None:
        update_file(arguments.update)
    else:
        sys.stdout.write("\n\n".join(tables().values()) + "\n")
    return ExitCode.OK
