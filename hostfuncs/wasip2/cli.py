"""wasi:cli: arguments, environment, exit, the standard streams, and terminals. No stream is a terminal."""

from hostfuncs.ending import ProcExit
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.io_streams import InputStream, OutputStream, SinkWriter, SourceReader
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import NONE, STRING, U8, List, Option, Own, Result, Tag, Tuple

ENVIRONMENT = Interface("wasi:cli/environment")
EXIT = Interface("wasi:cli/exit")
STDIN = Interface("wasi:cli/stdin", {"input-stream": InputStream})
STDOUT = Interface("wasi:cli/stdout", {"output-stream": OutputStream})
STDERR = Interface("wasi:cli/stderr", {"output-stream": OutputStream})


@resource("terminal-input")
class TerminalInput(Entry):
    """Never made, because no stream is a terminal."""


@resource("terminal-output")
class TerminalOutput(Entry):
    """Never made, because no stream is a terminal."""


TERMINAL_INPUT = Interface("wasi:cli/terminal-input", {"terminal-input": TerminalInput})
TERMINAL_OUTPUT = Interface("wasi:cli/terminal-output", {"terminal-output": TerminalOutput})
TERMINAL_STDIN = Interface("wasi:cli/terminal-stdin", {"terminal-input": TerminalInput})
TERMINAL_STDOUT = Interface("wasi:cli/terminal-stdout", {"terminal-output": TerminalOutput})
TERMINAL_STDERR = Interface("wasi:cli/terminal-stderr", {"terminal-output": TerminalOutput})


def _text(value: bytes) -> str:
    # A WIT string is Unicode. Bytes that are not UTF-8 become U+FFFD: refusing the whole request would be worse.
    return value.decode("utf-8", "replace")


@ENVIRONMENT.function("get-environment", result=List(Tuple((STRING, STRING))))
def get_environment(host: Host) -> list[tuple[str, str]]:
    """Return the environment variables as (name, value), in order."""
    return [(_text(name), _text(value)) for name, value in host.call.env]


@ENVIRONMENT.function("get-arguments", result=List(STRING))
def get_arguments(host: Host) -> list[str]:
    """Return argv, the program's name first."""
    return [_text(argument) for argument in host.call.args]


@ENVIRONMENT.function("initial-cwd", result=Option(STRING))
def initial_cwd(_host: Host) -> Tag:
    """Return none: guests find their folders by absolute paths."""
    return NONE


@EXIT.function("exit", Result())
def exit_(_host: Host, status: Tag) -> None:
    """End the guest: `ok` is exit code 0, `err` is exit code 1."""
    raise ProcExit(0 if status.name == "ok" else 1)


@EXIT.function("exit-with-code", U8)
def exit_with_code(_host: Host, code: int) -> None:
    """End the guest with this exit code."""
    raise ProcExit(code)


@STDIN.function("get-stdin", result=Own(InputStream))
def get_stdin(host: Host) -> InputStream:
    """Return a stream that reads the input.

    All such streams share one position: bytes read from one do not come from another.
    """
    return InputStream(SourceReader(host.stdio.stdin))


@STDOUT.function("get-stdout", result=Own(OutputStream))
def get_stdout(host: Host) -> OutputStream:
    """Return a stream that writes to the output. All such streams write to the same output."""
    return OutputStream(SinkWriter(host.stdio.stdout))


@STDERR.function("get-stderr", result=Own(OutputStream))
def get_stderr(host: Host) -> OutputStream:
    """Return a stream that writes to the error output. All such streams write to the same output."""
    return OutputStream(SinkWriter(host.stdio.stderr))


@TERMINAL_STDIN.function("get-terminal-stdin", result=Option(Own(TerminalInput)))
def get_terminal_stdin(_host: Host) -> Tag:
    """Return none: stdin is not a terminal."""
    return NONE


@TERMINAL_STDOUT.function("get-terminal-stdout", result=Option(Own(TerminalOutput)))
def get_terminal_stdout(_host: Host) -> Tag:
    """Return none: stdout is not a terminal."""
    return NONE


@TERMINAL_STDERR.function("get-terminal-stderr", result=Option(Own(TerminalOutput)))
def get_terminal_stderr(_host: Host) -> Tag:
    """Return none: stderr is not a terminal."""
    return NONE


INTERFACES = (
    ENVIRONMENT,
    EXIT,
    STDIN,
    STDOUT,
    STDERR,
    TERMINAL_INPUT,
    TERMINAL_OUTPUT,
    TERMINAL_STDIN,
    TERMINAL_STDOUT,
    TERMINAL_STDERR,
)
