"""`sandboxd top`: the status of a server in a terminal."""

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from sandboxd.commands.calling import Caller, message_of
from sandboxd.errors import ExitCode, SandboxdError

if TYPE_CHECKING:
    from rich.console import RenderableType

DEFAULT_URL: Final = "http://127.0.0.1:3501"
PERIOD_S: Final = 1.0
MAX_BYTES: Final = 256 * 1024 * 1024
"""The longest document that is read."""
_STATUS: Final = "/v1.0/sandboxd/status"


def top(url: str, *, once: bool, as_json: bool) -> int:
    """Show the status until Ctrl-C.

    Parameters:
        url: of the status page: `http://host:port`, or the path of a Unix socket.
        once: show it once and return.
        as_json: write the document instead, one a line.

    Raises:
        SandboxdError: nobody answers, or what shows it is not installed.
    """
    caller = Caller(url, most=MAX_BYTES)
    if as_json:
        while True:
            print(json.dumps(_ask(caller)), flush=True)
            if once:
                return ExitCode.OK
            time.sleep(PERIOD_S)
    try:
        from rich.console import Console
        from rich.live import Live

        from sandboxd.commands.top_view import printable_throughout, view
    except ImportError as error:
        raise SandboxdError(
            f"{error.name} is not installed", remedy="install sandboxd[top], or use --json", exit_code=ExitCode.FAILED
        ) from error
    console = Console()

    def latest(rows: int = 0) -> "RenderableType":
        try:
            return view(printable_throughout(_ask(caller)), rows)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise _no_status() from None

    if once or not sys.stdout.isatty():
        console.print(latest())
        return ExitCode.OK
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(latest(console.height), refresh=True)
            time.sleep(PERIOD_S)


def _ask(caller: Caller) -> dict[str, Any]:
    status, body = caller.ask("GET", _STATUS)
    if status != 200:
        raise SandboxdError(f"the server answers {status}: {message_of(body)}", exit_code=ExitCode.FAILED)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and found.keys() >= {"server", "pools", "bindings", "workers"}:
        return found
    raise _no_status()


def _no_status() -> SandboxdError:
    return SandboxdError(
        "the answer is not a status document", remedy=f"give the address of admin.listen, as {DEFAULT_URL}"
    )
