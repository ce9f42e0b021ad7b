"""Requests of commands to a server that runs, over TCP or a Unix socket."""

import http.client
import json
import os
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from sandboxd.errors import ExitCode, SandboxdError, one_line

TIMEOUT_S: Final = 30.0
TOKEN_VARIABLE: Final = "DAPR_API_TOKEN"  # noqa: S105 - the name of a variable


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """See HTTPConnection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Caller:
    """Sends requests to one server.

    Parameters:
        url: `http://host:port`, or the path of a Unix socket.
        timeout_s: the longest wait for each step of an answer.
        most: the longest answer, in bytes; None for any.

    Raises:
        SandboxdError: it is no such address.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, *, most: int | None = None) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._most = most
        try:
            parts = urlsplit(url if "//" in url or url.startswith(("/", ".")) else f"http://{url}")
            _ = parts.port
        except ValueError:
            parts = urlsplit("//")
        self._path = "" if parts.scheme or not parts.path else url
        self._netloc = parts.netloc
        if not self._path and (parts.scheme not in ("http", "https") or not self._netloc):
            raise SandboxdError(
                one_line(f"{url} is not the address of a server"),
                remedy="write http://host:port, or the path of a Unix socket",
                exit_code=ExitCode.USAGE,
            )
        self._tls = parts.scheme == "https"

    def __repr__(self) -> str:
        return f"<Caller of {self._url}>"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return the status and the body of an answer. The token is that of DAPR_API_TOKEN.

        Raises:
            SandboxdError: nobody answers there.
        """
        token = os.environ.get(TOKEN_VARIABLE)
        sent = {**(headers or {}), **({"dapr-api-token": token} if token else {})}
        connection = self._connection()
        try:
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            read = reply.read() if self._most is None else reply.read(self._most + 1)
            if self._most is not None and len(read) > self._most:
                raise http.client.HTTPException(f"its answer has more than {self._most} bytes")
            return reply.status, read
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SandboxdError(
                one_line(f"no answer from {self._url}: {reason}"),
                remedy="see that the server runs and that this is its address",
                exit_code=ExitCode.FAILED,
            ) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._path:
            return _UnixConnection(self._path, self._timeout_s)
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        return kind(self._netloc, timeout=self._timeout_s)


def message_of(body: bytes) -> str:
    """Return what an error's body says, on one line."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("message"), str):
        return one_line(found["message"])
    return one_line(body.decode("utf-8", "replace"))
