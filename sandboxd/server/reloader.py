"""The reloader: loads the catalog when the server starts, and again after each signal, request or noticed change."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

from sandboxd.config import Config
from sandboxd.errors import ComponentError, SandboxdError
from sandboxd.front.ports import Bindings
from sandboxd.log import fields
from sandboxd.metrics import Metrics
from sandboxd.processes.notify import READY, Notifier
from sandboxd.server.catalog import Catalog
from sandboxd.server.member import Member
from sandboxd.server.watch import watch

log = logging.getLogger("sandboxd")


class Reloader:
    """Loads what a server serves.

    Parameters:
        config: the server's settings.
        catalog: reads, prepares and starts the bindings.
        metrics: counts loads.
        notifier: tells systemd of reloads.
        member: the connection to the supervisor; None for a server without other cells.
        wanted: is set by whoever wants a reload.
        serve: gives the front the bindings to serve from now on.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        metrics: Metrics,
        notifier: Notifier,
        member: Member | None,
        wanted: asyncio.Event,
        serve: Callable[[Bindings], None],
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._metrics = metrics
        self._notifier = notifier
        self._member = member
        self._wanted = wanted
        self._serve = serve
        self._waiting: list[asyncio.Future[str]] = []
        """The callers who wait for the next reload to end."""

    def __repr__(self) -> str:
        return f"<Reloader of {self._catalog!r}>"

    async def load_first(self) -> None:
        """Load for the first time.

        Raises:
            SandboxdError: as for `Catalog.load`.
        """
        self._serve(await self._catalog.load())
        _freeze_objects()
        self._metrics.components_loaded(ok=True)

    async def keep_current(self) -> None:
        """Reload after each signal, request or noticed change, until cancelled."""
        watching = asyncio.create_task(self._watch(), name="watch")
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                waiting, self._waiting = self._waiting, []
                await self._reload()
                for future in waiting:
                    if not future.done():
                        future.set_result(self._catalog.last_error)
                watching.cancel()
                watching = asyncio.create_task(self._watch(), name="watch")
                if self._member is not None:
                    self._member.reloaded(self._catalog.last_error)
        finally:
            watching.cancel()

    async def reload_and_wait(self) -> str:
        """Reload, and return why that failed; empty if it succeeded."""
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._wanted.set()
        return await waiting

    def fault_of(self, name: str) -> str:
        """Return why a binding is not served; empty if it is."""
        if any(binding.name == name for binding in self._catalog.bindings):
            return ""
        return self._catalog.failed.get(name, "it is not among the components that are served")

    async def _watch(self) -> None:
        start = partial(watch, self._config, self._catalog)
        try:
            if self._member is None:
                await start(self._wanted)
            else:
                # One of the cells watches; the supervisor then has all of them reload, one after the other.
                await self._member.watch(start, self._catalog.unchanged)
        except Exception:
            # For example, no inotify instance is left (fs.inotify.max_user_instances). Serving continues.
            log.exception("changes are no longer noticed; SIGHUP still reloads", extra=fields(event="not_watching"))

    async def _reload(self) -> None:
        began = time.monotonic()
        concerned: Iterable[str] = ()
        self._notifier.reloading()
        try:
            self._serve(await self._catalog.load())
        except Exception as error:  # a failed reload must not stop the bindings that are already served
            if not isinstance(error, SandboxdError):
                log.exception("reload failed")
            self._catalog.last_error = str(error) or type(error).__name__
            if isinstance(error, ComponentError):
                concerned = error.bindings
            concerned = concerned or [binding.name for binding in self._catalog.bindings]
            log.error(
                "reload failed, the former bindings are still served: %s", error, extra=fields(event="reload_failed")
            )
        else:
            self._catalog.last_error = ""
            concerned = self._catalog.changed
            _freeze_objects()
            log.info(
                "reloaded after %.0f ms",
                (time.monotonic() - began) * 1000,
                extra=fields(
                    event="reloaded",
                    generation=self._catalog.generation,
                    count=len(self._catalog.bindings),
                ),
            )
        self._notifier.tell(READY)
        self._metrics.components_loaded(ok=not self._catalog.last_error)
        for name in concerned:
            self._metrics.module_reloaded(name, ok=not self._catalog.last_error)


def _freeze_objects() -> None:
    """Exclude all present objects from garbage collection: visiting them takes tens of milliseconds, during which no
    request is answered."""
    gc.collect()
    gc.freeze()
