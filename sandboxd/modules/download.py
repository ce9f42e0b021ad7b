"""Downloads one guest over HTTP, with limits, redirects and retries."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from sandboxd.limits import MIB
from sandboxd.modules.errors import SourceError, UnreachableError, causes_line

if TYPE_CHECKING:
    import httpx2 as httpx  # at run time, it is imported only for a download: it takes a tenth of a warm start

log = logging.getLogger(__name__)

PREFIX = "wasm: failed to parse metadata: "
"""Dapr's prefix of every failure to get the bytes (bindings/wasm/output.go)."""

_REMEDIES: Final = {
    401: "the origin requires credentials: put them into the URL, or allow access without them",
    403: "the origin does not allow this machine to read it: change that",
    404: "there is nothing at this path: check the URL",
    410: "there is nothing at this path any more: check the URL",
}
"""The remedies by the status of the origin."""
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""The statuses after which a download is tried again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchSettings:
    """Limits of a download."""

    max_bytes: int = 256 * MIB
    """The longest guest, downloaded or read from a file."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    """The longest wait for the next bytes of a reply."""
    total_timeout_s: float = 300.0
    """The time for all attempts and the pauses between them."""
    attempts: int = 4
    backoff_s: float = 0.5
    """The pause before the second attempt. It doubles with each attempt, and is shortened at random by up to half."""
    backoff_max_s: float = 8.0
    max_redirects: int = 10
    """As in Go's http.Client, which Dapr uses."""
    revalidate_timeout_s: float = 10.0
    """Replaces total_timeout_s, with at most two attempts, when a stored copy can be used instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The origin's answer. `data` is None for 304 Not Modified: the stored copy is still valid."""

    data: bytes | None
    etag: str = ""
    last_modified: str = ""


class Downloader:
    """An HTTP client for guests.

    As in Dapr, it verifies TLS against the system's certificates and honours SSL_CERT_FILE, SSL_CERT_DIR, HTTP_PROXY,
    HTTPS_PROXY, ALL_PROXY and NO_PROXY.

    Parameters:
        settings: the limits of a download.
        tls: the TLS settings; None uses the system's certificates.
    """

    def __init__(self, settings: FetchSettings, *, tls: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._tls = tls
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(
        self, url: str, *, etag: str = "", last_modified: str = "", on_bytes: Callable[[int, int], None] | None = None
    ) -> Reply:
        """Download a guest. Transient failures are retried.

        Parameters:
            url: http or https; a user and password in it are sent as Basic authorization.
            etag, last_modified: the validators of the stored copy; either makes the request conditional.
            on_bytes: called with the number of bytes received so far, and the number announced (0 if unknown).
        Raises:
            UnreachableError: all attempts failed, or the time is over.
            SourceError: a further attempt cannot help: a status other than 200, too long a reply, a bad certificate.
        """
        settings = self._settings
        conditional = bool(etag or last_modified)
        budget = settings.revalidate_timeout_s if conditional else settings.total_timeout_s
        attempts = min(settings.attempts, 2) if conditional else settings.attempts
        last: UnreachableError | None = None
        try:
            async with asyncio.timeout(budget):
                for attempt in range(1, attempts + 1):
                    try:
                        return await self._attempt(url, etag, last_modified, on_bytes)
                    except _TransientError as transient:
                        last = transient.error
                        if attempt == attempts:
                            break
                        pause = self._pause(attempt, transient.retry_after_s)
                        log.info("%s; trying again in %.1f s", last.message, pause)
                        await asyncio.sleep(pause)
        except TimeoutError:
            why = f" ({last.message.removeprefix(PREFIX)})" if last else ""
            raise UnreachableError(
                f'{PREFIX}Get "{redacted(url)}": not done after {budget:g} s{why}',
                remedy="check the origin, or raise modules.downloadTimeout",
            ) from None
        assert last is not None
        raise last

    def _pause(self, attempt: int, retry_after_s: float) -> float:
        settings = self._settings
        pause = min(settings.backoff_max_s, settings.backoff_s * 2.0 ** (attempt - 1))
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 -- it spreads retries and protects nothing
        return min(settings.backoff_max_s, max(pause, retry_after_s))

    def _open(self) -> httpx.AsyncClient:
        import httpx2 as httpx

        if self._client is None:
            settings = self._settings
            self._client = httpx.AsyncClient(
                verify=self._tls if self._tls is not None else True,
                timeout=httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s, pool=None),
                headers={"User-Agent": "sandboxd", "Accept": "application/wasm, */*", "Accept-Encoding": "gzip"},
                follow_redirects=False,
            )
        return self._client

    async def _attempt(
        self, url: str, etag: str, last_modified: str, on_bytes: Callable[[int, int], None] | None
    ) -> Reply:
        import httpx2 as httpx

        client = self._open()
        headers: dict[str, str] = {}
        if etag:
            headers["If-None-Match"] = etag
        if last_modified:
            headers["If-Modified-Since"] = last_modified
        shown = redacted(url)
        try:
            request = client.build_request("GET", url, headers=headers)
            for _ in range(self._settings.max_redirects + 1):
                response = await client.send(request, stream=True)
                try:
                    following = response.next_request
                    if following is None:
                        return await self._reply(response, shown, bool(headers), on_bytes)
                finally:
                    await response.aclose()
                self._check_redirect(request, following, shown)
                request = following
        except httpx.InvalidURL as error:
            raise SourceError(f"{PREFIX}invalid URL: {shown}", remedy=causes_line(str(error), 200)) from None
        except httpx.UnsupportedProtocol as error:
            raise SourceError(f'{PREFIX}Get "{shown}": redirected to a URL that is not http or https') from error
        except httpx.DecodingError as error:
            raise SourceError(f'{PREFIX}Get "{shown}": the content encoding of the reply is damaged') from error
        except httpx.RequestError as error:
            raise _failure(shown, error) from None
        limit = self._settings.max_redirects
        raise SourceError(f'{PREFIX}Get "{shown}": stopped after {limit} redirects', remedy="check where the URL leads")

    def _check_redirect(self, request: httpx.Request, following: httpx.Request, shown: str) -> None:
        if request.url.scheme == "https" and following.url.scheme == "http":
            raise SourceError(
                f'{PREFIX}Get "{shown}": redirected from https to http, where anybody on the path could answer',
                remedy="if this is intended, use the http URL itself and pin its sha256",
            )

    async def _reply(
        self, response: httpx.Response, shown: str, conditional: bool, on_bytes: Callable[[int, int], None] | None
    ) -> Reply:
        status = response.status_code
        etag = response.headers.get("ETag", "")
        last_modified = response.headers.get("Last-Modified", "")
        if status == 304 and conditional:
            return Reply(data=None, etag=etag, last_modified=last_modified)
        if status != 200:
            text = f'{PREFIX}received {status} status code from "{shown}"'
            if status in _TRANSIENT_STATUS:
                raise _TransientError(
                    UnreachableError(text, remedy="try again later, or look at the origin"),
                    _seconds(response.headers.get("Retry-After", "")),
                )
            raise SourceError(text, remedy=_REMEDIES.get(status, "open the URL yourself: the answer is not a guest"))
        data = await self._body(response, shown, on_bytes)
        return Reply(data=data, etag=etag, last_modified=last_modified)

    async def _body(self, response: httpx.Response, shown: str, on_bytes: Callable[[int, int], None] | None) -> bytes:
        most = self._settings.max_bytes
        announced = response.headers.get("Content-Length", "")
        total = int(announced) if announced.isdecimal() and len(announced) < 19 else 0
        too_long = SourceError(
            f'{PREFIX}Get "{shown}": longer than {most} bytes',
            remedy="if this is intended, raise modules.maxDownloadSize",
        )
        if total > most:
            raise too_long
        data = bytearray()
        reported_at = 0.0
        async for chunk in response.aiter_bytes(65536):
            data += chunk
            if len(data) > most:
                raise too_long
            if on_bytes is not None and time.monotonic() - reported_at > 0.1:
                reported_at = time.monotonic()
                on_bytes(len(data), total)
        return bytes(data)


class _TransientError(Exception):
    """A failure after which the download is tried again."""

    def __init__(self, error: UnreachableError, retry_after_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_s = retry_after_s


def redacted(url: str) -> str:
    """Return the URL without its user, password and query, which may be secret."""
    scheme, sep, rest = url.partition("://")
    end = min((i for i in map(rest.find, "/?#") if i >= 0), default=len(rest))
    authority, path = rest[:end].rpartition("@")[2], rest[end:]
    path, question, _ = path.partition("?")
    path = path.partition("#")[0]
    return causes_line(f"{scheme}{sep}{authority}{path}{'?xxxxx' if question else ''}", 500)


def _seconds(retry_after: str) -> float:
    """Return Retry-After in seconds; 0 for a date, which could be compared only with the origin's clock."""
    return float(retry_after) if retry_after.isdecimal() and len(retry_after) < 9 else 0.0


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, the outermost first. An exception group yields each of its members."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        cause = pending.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            pending += cause.exceptions
        following = cause.__cause__ or cause.__context__
        if following is not None:
            pending.append(following)


def _failure(shown: str, error: httpx.RequestError) -> Exception:
    """Translate a failure of httpx into one of `sandboxd.modules.errors`, by its type and errno, not by its text."""
    import httpx2 as httpx

    system: OSError | None = None
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return SourceError(
                f'{PREFIX}Get "{shown}": tls: failed to verify certificate: {causes_line(cause.verify_message, 200)}',
                remedy="add the authority to the system store, or set SSL_CERT_FILE",
            )
        if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, TimeoutError):
            system = cause  # the last one is closest to the system call
    if isinstance(error, httpx.TimeoutException):
        what = "connect timed out" if isinstance(error, httpx.ConnectTimeout) else "the origin stopped answering"
    elif system is not None and system.errno is not None:
        # strerror is used because asyncio has texts of its own. It does not know getaddrinfo's (negative) numbers.
        text = (
            os.strerror(system.errno) if system.errno > 0 and not isinstance(system, ssl.SSLError) else system.strerror
        )
        what = causes_line(str(text), 200).lower()
    elif isinstance(error, httpx.ProxyError):
        what = "the proxy refused"
    elif isinstance(error, httpx.RemoteProtocolError):
        what = "the origin closed the connection early or violated HTTP"
    else:
        what = causes_line(str(error), 200) or type(error).__name__
    host = urlsplit(shown).hostname or ""
    remedy = f"check that {host} can be reached"
    if isinstance(system, socket.gaierror):
        remedy = f"check the name {host}, and that this machine can look up names"
    elif isinstance(system, ConnectionRefusedError):
        remedy = f"nothing listens there: check the port, and that the server on {host} runs"
    return _TransientError(UnreachableError(f'{PREFIX}Get "{shown}": {what}', remedy=remedy))
