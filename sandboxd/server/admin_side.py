"""The status page of a server: where it listens, what it is told, and the parts of other cells."""

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from sandboxd import __version__
from sandboxd.config import Config
from sandboxd.config.admin import Address, parse
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.front.ports import Bindings, Invoker
from sandboxd.front.servers.connections import CallerLimits
from sandboxd.front.servers.serving import HttpServerSettings, listen
from sandboxd.front.servers.serving import serve as serve_connections
from sandboxd.log import fields, set_level
from sandboxd.metrics import Metrics
from sandboxd.metrics.journal import Journal
from sandboxd.metrics.process import LoopLag
from sandboxd.modules.prepare import PreparedGuest
from sandboxd.pool.pools import Pools
from sandboxd.server.admin_port import REMEDY, listen_shared, log_taken
from sandboxd.server.catalog import Catalog
from sandboxd.server.member import Member
from sandboxd.server.sockets import listen_unix

if TYPE_CHECKING:
    from sandboxd.admin.report import Report, Reporter

log = logging.getLogger("sandboxd.admin")

MAX_CONNECTIONS: Final = 64
"""People and scripts that look at once."""
RETRY_S: Final = 1.0
"""The interval at which a process that replaces another one checks whether that has left the port."""


class State:
    """The state of the server for the reporter: `ServerView` of `sandboxd.admin.report`.

    Parameters:
        catalog: knows the bindings.
        not_ready: the server.
    """

    def __init__(self, catalog: Catalog, not_ready: "NotReady") -> None:
        self._catalog = catalog
        self.own_not_ready = not_ready.own_not_ready
        self.waits_for = not_ready.waits_for

    def guests(self) -> Sequence[PreparedGuest]:
        """Return the guests of all bindings that were prepared."""
        return self._catalog.guests

    def failed(self) -> Mapping[str, str]:
        """Return the reason for each binding that could not be loaded."""
        return self._catalog.failed

    def reload_error(self) -> str:
        """Return why the latest reload was refused; empty if it was not."""
        return self._catalog.last_error


class NotReady(Protocol):
    """The readiness of the server."""

    def own_not_ready(self) -> list[str]:
        """Return what this process still waits for."""

    def waits_for(self) -> str:
        """Return that in words."""


class AdminSide:
    """Serves the status page beside the API, or nothing if it is off.

    Parameters:
        config: of the server.
        member: the connection to other cells; None for a single process.
        replaces: this process may replace another one that still has the port.

    Raises:
        SandboxdError: the address was asked for and is not available.
    """

    def __init__(self, config: Config, member: Member | None, *, replaces: bool) -> None:
        self._config = config
        self._member = member
        self._replaces = replaces
        self._listener: socket.socket | None = None
        self._reporter: Reporter | None = None
        self._address = parse(config.admin.listen)
        if self._address is not None and self._address.path and member is not None and member.number:
            self._address = None  # the first cell serves the socket
        if self._address is not None:
            self._open(self._address)

    def __repr__(self) -> str:
        return f"<AdminSide {self._address or 'off'}>"

    @property
    def on(self) -> bool:
        """Whether the page is served, or will be once another process has left its address."""
        return self._address is not None

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports it listens on, which no guest may reach."""
        return (self._address.port,) if self._address is not None and self._address.port else ()

    def _open(self, address: Address) -> None:
        try:
            if address.path:
                self._listener = listen_unix(address.path)
            elif self._member is not None:
                self._listener = listen_shared(address)
            else:
                self._listener = listen(address.host, address.port)
        except (OSError, UnicodeError, SandboxdError) as error:
            failed = SandboxdError(
                f"cannot listen for the status page on {address}: {getattr(error, 'strerror', None) or error}",
                remedy=REMEDY,
                exit_code=ExitCode.LISTEN,
            )
            if self._replaces:
                return
            if self._config.admin.listen is not None:
                raise failed from error
            log_taken(failed)
            self._address = None
            return
        if not address.path:
            host, port = self._listener.getsockname()[:2]
            self._address = Address(host=host, port=port)
        log.info("the status page is at %s", self._address, extra=fields(event="admin", url=self._url()))

    def _url(self) -> str:
        assert self._address is not None
        return self._address.path or f"http://{self._address}/ui"

    def watch(self, metrics: Metrics, pools: Pools, catalog: Catalog, server: "NotReady", lag: LoopLag) -> None:
        """Begin to keep what the page shows. Does nothing if it is off."""
        if self._address is None and (self._member is None or parse(self._config.admin.listen) is None):
            return
        from sandboxd.admin.report import Reporter

        metrics.journal = Journal()
        cell = 0 if self._member is None else self._member.number
        self._reporter = Reporter(State(catalog, server), metrics, pools, lag, cell)

    async def status_part(self) -> bytes:
        """Return this process's part of the document, encoded."""
        import msgspec

        assert self._reporter is not None, "the supervisor asks only cells that were told to serve the page"
        return msgspec.msgpack.encode(await self._reporter.report())

    async def _reports(self) -> "list[Report]":
        import msgspec

        from sandboxd.admin.report import Report

        if self._member is None:
            assert self._reporter is not None
            return [await self._reporter.report()]
        return [msgspec.msgpack.decode(part, type=Report) for part in await self._member.collect_status()]

    def _set_level(self, level: str) -> None:
        if self._member is None:
            set_level(level)
        else:
            self._member.share_log_level(level)

    async def serve(
        self, invoker: Invoker, bindings: "ServedBindings", catalog: Catalog, api: str, stop: asyncio.Event
    ) -> None:
        """Serve the page, and keep its history, until `stop` is set. Returns at once if it is off.

        Parameters:
            invoker: runs guests for whoever tries one.
            bindings: has those that are served.
            catalog: knows their components.
            api: the address of the API, for the commands that the page shows.
            stop: ends it.
        """
        if self._reporter is None:
            return
        history = asyncio.create_task(self._reporter.history.keep(), name="history")
        try:
            if self._address is not None:
                await self._serve(invoker, bindings, catalog, api, stop)
            else:
                await stop.wait()
        finally:
            history.cancel()

    async def _serve(
        self, invoker: Invoker, bindings: "ServedBindings", catalog: Catalog, api: str, stop: asyncio.Event
    ) -> None:
        from sandboxd.admin.access import Access
        from sandboxd.admin.app import AdminApp
        from sandboxd.admin.invoking import Trial
        from sandboxd.admin.snapshots import Snapshots

        assert self._address is not None
        while self._listener is None:
            # Another process still has the address: the one that this process replaces.
            try:
                await asyncio.wait_for(stop.wait(), RETRY_S)
            except TimeoutError:
                self._open(self._address)
            else:
                return
        config = self._config
        app = AdminApp(
            Access(config.api_token, config.admin.hosts, unix=bool(self._address.path)),
            Snapshots(self._reports, _about(config)),
            catalog,
            Trial(invoker, lambda: bindings.bindings) if config.admin.invoke else None,
            api=api,
            max_body_bytes=config.listen.max_body_bytes,
            set_level=self._set_level,
        )
        limits = CallerLimits(max_connections=MAX_CONNECTIONS, max_per_peer=MAX_CONNECTIONS)
        settings = HttpServerSettings(kind="auto", max_header_bytes=config.listen.max_header_bytes, callers=limits)
        await serve_connections(app, self._listener, settings, stop, drain_s=1.0)


class ServedBindings(Protocol):
    """The holder of the bindings that are served."""

    @property
    def bindings(self) -> Bindings:
        """All of them at this instant."""


def _about(config: Config) -> Mapping[str, str]:
    return {"version": __version__, "appId": config.app_id, "host": socket.gethostname()}
