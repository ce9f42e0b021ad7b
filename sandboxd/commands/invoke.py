"""`sandboxd invoke`: calls a binding of a server that runs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sandboxd.commands.calling import Caller, message_of
from sandboxd.commands.terminal import safe_for
from sandboxd.errors import ExitCode, SandboxdError


def invoke(url: str, name: str, data: str | None, args: Sequence[str], env: Sequence[tuple[str, str]]) -> int:
    """Call a binding and write its reply to stdout.

    Parameters:
        url: of the server's API.
        name: of the binding.
        data: JSON, or a text that is none; `@FILE` is a file's content, `-` stdin's; None sends none.
        args: the guest's arguments.
        env: variables for it.

    Returns:
        OK if the guest succeeded; else FAILED, the reason having been written to stderr.

    Raises:
        SandboxdError: nobody answers, or the file cannot be read.
    """
    request: dict[str, Any] = {"operation": "execute"}
    if data is not None:
        request["data"] = _data(data)
    metadata = {f"env.{key}": value for key, value in env}
    if args:
        metadata["argv"] = json.dumps(list(args))
    if metadata:
        request["metadata"] = metadata
    path = f"/v1.0/bindings/{quote(name, safe='')}"
    # A guest may run for as long as its timeout, which only the server knows.
    status, body = Caller(url, timeout_s=24 * 3600.0).ask("POST", path, json.dumps(request).encode())
    if status == 200:
        sys.stdout.buffer.write(safe_for(sys.stdout, body))
        sys.stdout.buffer.flush()
        return ExitCode.OK
    print(f"sandboxd: {status}: {message_of(body)}", file=sys.stderr)
    return ExitCode.FAILED


def _data(text: str) -> Any:
    if text == "-" or text.startswith("@"):
        try:
            read = sys.stdin.buffer.read() if text == "-" else Path(text[1:]).read_bytes()
            text = read.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise SandboxdError(f"--data {text}: {error}", exit_code=ExitCode.USAGE) from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
