"""The command line: serve, run, compile, check."""

import argparse
import difflib
import os
import posixpath
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sandboxd import __version__
from sandboxd.commands import parsers
from sandboxd.components import strict_sandbox
from sandboxd.config import CONFIG_VARIABLE, TOKEN_VARIABLE, Config, load, render
from sandboxd.errors import ConfigError, ExitCode, SandboxdError, one_line
from sandboxd.files.problems import Problem, Severity
from sandboxd.wall import confinement

if TYPE_CHECKING:
    from sandboxd.components.mounts import MountSettings


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point: run a command and exit with its `ExitCode`.

    Parameters:
        argv: the arguments without the program's name; None means the process's own.
    """
    arguments = _parser().parse_args(argv)
    try:
        status = arguments.command(arguments)
    except SandboxdError as error:
        print(f"sandboxd: {error.for_terminal()}", file=sys.stderr)
        status = error.exit_code
    except KeyboardInterrupt:
        status = 130
    sys.exit(int(status))


_OPTIONS: Final[set[str]] = set()
"""The options of all commands."""


class _Parser(argparse.ArgumentParser):
    """Tells what was wrong on one printable line: arguments may be names of files that somebody else chose."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            option = next((word.partition("=")[0] for word in unknown.split() if word.startswith("--")), "")
            close = difflib.get_close_matches(option, _OPTIONS, n=1, cutoff=0.7)
            message += f" (did you mean {close[0]}?)" if close else ""
        super().error(one_line(message))

    def add_argument(self, *names: Any, **about: Any) -> argparse.Action:
        """See ArgumentParser. The options are kept, to suggest one for a mistyped one."""
        _OPTIONS.update(name for name in names if name.startswith("--"))
        return super().add_argument(*names, **about)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sandboxd", description="Dapr's WebAssembly binding as a server of its own.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"sandboxd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    common = _Parser(add_help=False, allow_abbrev=False)
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
    serve.add_argument("--unix-socket", metavar="PATH", help="serve HTTP on this Unix socket instead")
    serve.add_argument("--grpc-port", metavar="P", help="port of the gRPC API (default 50001; 0 serves none)")
    serve.add_argument("--grpc-unix-socket", metavar="PATH", help="also serve gRPC on this Unix socket")
    serve.add_argument("--fd", type=int, metavar="N", help="serve on this inherited listening socket instead")
    serve.add_argument(
        "--grpc-fd", type=int, metavar="N", help="inherited socket that holds the gRPC port: bound, not listening"
    )
    serve.add_argument("--workers", metavar="N", help="worker processes")
    serve.add_argument("--cells", metavar="N", help="independent fronts with their pools on one port")
    serve.add_argument("--engine", choices=["auto", "hypercorn", "uvicorn"], help="which HTTP server runs")
    serve.add_argument("--print-config", action="store_true", help="print the settings in effect as YAML and exit")
    serve.set_defaults(command=_serve)

    component = commands.add_parser(
        "component", parents=[common], allow_abbrev=False, help="serve daprd as a pluggable component"
    )
    component.add_argument("--sockets-folder", type=Path, metavar="DIR", help="daprd's folder of sockets")
    component.add_argument(
        "--name", default="wasm", metavar="NAME", help="serve type bindings.NAME (default wasm, instead of daprd's own)"
    )
    component.add_argument("--state-folder", type=Path, metavar="DIR", help="where properties are kept (private)")
    component.add_argument("--host", metavar="H", help="address for health and metrics (default 127.0.0.1)")
    component.add_argument("--port", metavar="P", help="port for health and metrics (default 3501)")
    component.add_argument("--workers", metavar="N", help="worker processes")
    component.set_defaults(command=_component)

    run = commands.add_parser("run", allow_abbrev=False, help="run one guest here, with this stdin and stdout")
    run.add_argument("--env", action="append", default=[], metavar="K=V", help="variable for the guest")
    run.add_argument(
        "--dir", action="append", default=[], metavar="SRC::DST[:rw]", help="folder SRC for the guest, found at DST"
    )
    run.add_argument("--timeout", metavar="D", help="as in 5s or 1m30s (default: the binding's, or 30s)")
    run.add_argument("--memory-limit", metavar="SIZE", help="as in 64Mi (default: the binding's)")
    run.add_argument(
        "--allow-host", action="append", default=[], metavar="PATTERN", help="let it call this, as allowedOutboundHosts"
    )
    run.add_argument("--resources-path", action="append", metavar="DIR", help="folder of component files, for a NAME")
    run.add_argument("--config", type=Path, default=None, metavar="FILE", help="sandboxd.yaml")
    run.add_argument("file", metavar="GUEST", help="FILE.wasm, a component file, or the NAME of a binding")
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

    parsers.add(commands)

    reference = commands.add_parser("reference", allow_abbrev=False, help="print the reference tables as Markdown")
    reference.add_argument("--update", type=Path, metavar="FILE", help="renew them in this file instead")
    reference.add_argument(
        "--schema", choices=["settings", "component"], help="print the JSON Schema of sandboxd.yaml or of components"
    )
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
                raise ConfigError(one_line(f"{problem.place}: {problem.message}"), remedy=problem.remedy)
    return {
        "strictSandbox": True if strict else None,
        "listen.host": getattr(arguments, "host", None),
        "listen.port": getattr(arguments, "port", None),
        "listen.unixSocket": getattr(arguments, "unix_socket", None),
        "listen.grpcPort": getattr(arguments, "grpc_port", None),
        "listen.grpcUnixSocket": getattr(arguments, "grpc_unix_socket", None),
        "pool.workers": getattr(arguments, "workers", None),
        "engine.kind": getattr(arguments, "engine", None),
        "cells": getattr(arguments, "cells", None),
        "appId": getattr(arguments, "app_id", None),
        "resourcesPaths": tuple(paths) if paths else None,
    }


def _load(arguments: argparse.Namespace) -> tuple[Config, tuple[Problem, ...]]:
    return load(_config_path(arguments), environ=os.environ, overrides=_overrides(arguments))


def _serve(arguments: argparse.Namespace) -> int:
    # Before any secret is read: neither memory nor environment is for other processes of the same user.
    confinement.forbid_tracing()
    config, problems = _load(arguments)
    if arguments.print_config:
        sys.stdout.write(render(config))
        return ExitCode.OK
    # The settings have it now, and no process that is started from here on needs it.
    os.environ.pop(TOKEN_VARIABLE, None)
    if config.cell_count > 1:
        from sandboxd.cells.supervisor import supervise

        return supervise(config, problems, fd=arguments.fd, grpc_fd=arguments.grpc_fd)
    from sandboxd.server.serve import serve

    return serve(config, problems, fd=arguments.fd, grpc_fd=arguments.grpc_fd)


def _component(arguments: argparse.Namespace) -> int:
    confinement.forbid_tracing()
    config, problems = _load(arguments)
    os.environ.pop(TOKEN_VARIABLE, None)
    from sandboxd.commands.component import serve_component

    return serve_component(config, problems, arguments.sockets_folder, arguments.name, arguments.state_folder)


def _run(arguments: argparse.Namespace) -> int:
    config, _ = load(_config_path(arguments), environ=os.environ, overrides={})
    env = parsers.pairs(arguments.env)
    from sandboxd.commands.run import run
    from sandboxd.commands.target import allowing, binding_of, limited

    binding = binding_of(config, os.environ, arguments.file, arguments.resources_path or config.resources_paths)
    binding = limited(binding, timeout=arguments.timeout, memory=arguments.memory_limit)
    binding = allowing(binding, arguments.allow_host)
    mounts = tuple(_folder(text) for text in arguments.dir)
    # The last of a name counts, as in every environment.
    given = {name for name, _ in env}
    kept = tuple(pair for pair in binding.env if pair[0] not in given)
    binding = replace(binding, env=(*kept, *env), mounts=(*binding.mounts, *mounts))
    return run(config, binding, tuple(arguments.args))


def _folder(text: str) -> "MountSettings":
    """Read `SRC`, `SRC::DST` or either with `:rw` at its end, as --dir has it."""
    from sandboxd.components.mounts import MountSettings

    plain = text.removesuffix(":rw")
    source, _, target = plain.partition("::")
    target = target or source
    if not os.path.isdir(source):
        raise SandboxdError(f"--dir {text}: {source or 'the source'} is not a folder", exit_code=ExitCode.USAGE)
    if not target.startswith("/"):
        # As wasmtime has it: a relative target is one of the guest's working directory, which is its root.
        target = posixpath.normpath("/" + target)
    if ".." in target.split("/"):
        raise SandboxdError(f"--dir {text}: the target leads out of the guest's root", exit_code=ExitCode.USAGE)
    return MountSettings(anchor=os.path.abspath(source), source=".", target=target, read_only=plain == text)


def _compile(arguments: argparse.Namespace) -> int:
    from sandboxd.commands.compile import compile_all_bindings

    config, problems = _load(arguments)
    return compile_all_bindings(config, problems)


def _check(arguments: argparse.Namespace) -> int:
    from sandboxd.commands.check import check_all

    return check_all(_config_path(arguments), os.environ, _overrides(arguments))


def _reference(arguments: argparse.Namespace) -> int:
    from sandboxd.commands.reference import schemas, tables, update_file

    if arguments.schema is not None:
        sys.stdout.write(schemas()[arguments.schema])
    elif arguments.update is not None:
        update_file(arguments.update)
    else:
        sys.stdout.write("\n\n".join(tables().values()) + "\n")
    return ExitCode.OK
