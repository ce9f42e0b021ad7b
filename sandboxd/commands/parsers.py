"""The options of the commands that talk to a running server, and of those that begin a guest."""

import argparse
from typing import Any, Final

from sandboxd.errors import ExitCode, SandboxdError

LANGUAGES: Final = ("c", "go", "rust", "python", "js", "zig")


def add(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `top`, `invoke` and `new`."""
    top = commands.add_parser("top", allow_abbrev=False, help="show what a server does now")
    top.add_argument(
        "url",
        nargs="?",
        default="http://127.0.0.1:3501",
        metavar="URL",
        help="of admin.listen: http://host:port or a Unix socket (default http://127.0.0.1:3501)",
    )
    top.add_argument("--once", action="store_true", help="show it once")
    top.add_argument("--json", action="store_true", help="write the document, one a line")
    top.set_defaults(command=_top)

    invoke = commands.add_parser("invoke", allow_abbrev=False, help="call a binding of a server that runs")
    invoke.add_argument("name", metavar="NAME", help="the binding")
    invoke.add_argument("--data", metavar="JSON", help="data for it: JSON or a text; @FILE reads a file, - stdin")
    invoke.add_argument("--args", action="append", default=[], metavar="ARG", help="an argument; may be repeated")
    invoke.add_argument("--env", action="append", default=[], metavar="K=V", help="variable for the guest")
    invoke.add_argument(
        "--url",
        default="http://127.0.0.1:3500",
        metavar="URL",
        help="of the server's API: http://host:port or a Unix socket (default http://127.0.0.1:3500)",
    )
    invoke.set_defaults(command=_invoke)

    new = commands.add_parser("new", allow_abbrev=False, help="begin a guest: source, component, test and commands")
    new.add_argument("language", choices=LANGUAGES, metavar="LANG", help=" | ".join(LANGUAGES))
    new.add_argument("name", metavar="NAME", help="of the binding, and of the folder that is made")
    new.set_defaults(command=_new)


def pairs(options: "list[str]") -> "list[tuple[str, str]]":
    """Return the variables of --env.

    Raises:
        SandboxdError: one is not NAME=VALUE.
    """
    found = []
    for pair in options:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise SandboxdError(f"--env {pair} is not NAME=VALUE", exit_code=ExitCode.USAGE)
        found.append((name, value))
    return found


def _top(arguments: argparse.Namespace) -> int:
    from sandboxd.commands.top import top

    return top(arguments.url, once=arguments.once, as_json=arguments.json)


def _invoke(arguments: argparse.Namespace) -> int:
    from sandboxd.commands.invoke import invoke

    return invoke(arguments.url, arguments.name, arguments.data, arguments.args, pairs(arguments.env))


def _new(arguments: argparse.Namespace) -> int:
    from sandboxd.commands.new import new

    return new(arguments.language, arguments.name)
