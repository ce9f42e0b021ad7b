"""The catalog: the bindings that a server serves, read and resolved from components, and replaced on a reload."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sandboxd.components import Loaded
from sandboxd.components.binding import Binding, Isolation, ListedComponent
from sandboxd.config import Config
from sandboxd.config.cells import concurrency
from sandboxd.errors import ComponentError, one_line
from sandboxd.files.problems import Severity
from sandboxd.front.answering.guard import Guards
from sandboxd.front.ports import Bindings
from sandboxd.log import fields
from sandboxd.metrics import Metrics
from sandboxd.modules.prepare import NO_START, NO_START_REMEDY, PreparedGuest, Preparer
from sandboxd.pool.pools import Pools
from sandboxd.server import vanished
from sandboxd.server.translate import Report, load_message, module_settings, read_components
from sandboxd.server.watch import FileStats, file_stats

log = logging.getLogger("sandboxd.server.catalog")

_LEVELS = {
    Severity.ERROR: logging.ERROR,
    Severity.IGNORED: logging.ERROR,
    Severity.WARNING: logging.WARNING,
    Severity.NOTE: logging.INFO,
}


class Catalog:
    """The bindings that are served now.

    Parameters:
        config: the server's settings.
        environ: the environment, for `envRef` in components.
        pool: loads each new set of guests.
        metrics: counts what was loaded.
        report: is called with the progress of downloads and compilations.
        own_ports: the ports the server listens on.
    """

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        pool: Pools,
        metrics: Metrics,
        report: Report | None,
        own_ports: tuple[int, ...],
    ) -> None:
        self._config = config
        self._environ = environ
        self._pool = pool
        self._metrics = metrics
        self._report = report
        self._own_ports = own_ports
        self._guests: list[PreparedGuest] = []
        self.bindings: tuple[Binding, ...] = ()
        """The bindings that can be called."""
        self.failed: dict[str, str] = {}
        """The reason for each binding that could not be loaded and has ignoreErrors."""
        self.changed: tuple[str, ...] = ()
        """The bindings that the latest load brought, or changed."""
        self.last_error = ""
        """The reason why the latest reload failed; empty after one that succeeded."""
        self.waits_for: tuple[str, float] = ("the components are read", time.monotonic())
        """The event outside the pool that loading waits for, in words, and the time.monotonic() since when it waits."""
        self.file_stats: FileStats = {}
        """The state of all files when they were last read, even if that load failed."""
        self._read: tuple[Binding, ...] = ()
        self._listed: tuple[ListedComponent, ...] = ()
        self._served: Bindings | None = None
        self._guards = Guards()

    def __repr__(self) -> str:
        return f"<Catalog of {len(self.bindings)} bindings>"

    @property
    def guests(self) -> Sequence[PreparedGuest]:
        """The guests of the bindings that were prepared, whether their workers could load them or not."""
        return self._guests

    @property
    def generation(self) -> int:
        """The number of the latest generation of workers."""
        return self._pool.stats().generation

    @property
    def local_files(self) -> tuple[str, ...]:
        """The paths of the guests with a file:// URL: those served, and those that could not be loaded."""
        urls = (binding.url for binding in (*self.bindings, *self._read))
        return tuple(dict.fromkeys(url.removeprefix("file://") for url in urls if url.startswith("file://")))

    @property
    def mounted(self) -> tuple[str, ...]:
        """The folders that workers reach for mounts, of the bindings served and of those read last."""
        mounts = (mount for binding in (*self.bindings, *self._read) for mount in binding.mounts)
        return tuple(dict.fromkeys(mount.reach for mount in mounts))

    @property
    def remote(self) -> bool:
        """Whether any guest comes from an origin, which can be asked for a new version."""
        return any(not b.url.startswith("file://") for b in self.bindings)

    async def load(self) -> Bindings:
        """Read and resolve the components, start workers with them, and switch over. A failure leaves what is served.

        Returns:
            the bindings to serve from now on.

        Raises:
            SandboxdError: a component or guest without ignoreErrors cannot be loaded, or no worker starts with the new
                set.
        """
        # The files' state is taken before they are read: a change in between is noticed, at worst twice.
        self.file_stats = await self._stats(self._config.resources_paths, self.local_files, self.mounted)
        loaded = await self._components()
        former = {*self.local_files, *self.mounted}
        self._read, self._listed = loaded.bindings, loaded.listed
        self.file_stats |= await self._stats((), set(self.local_files) - former, set(self.mounted) - former)
        self._log_problems(loaded)
        if loaded.errors:
            first = loaded.errors[0]
            named = {problem.component for problem in loaded.errors} - {""}
            raise ComponentError(f"{first.place}: {first.message}", remedy=first.remedy, bindings=named)
        vanished.check(self.bindings, loaded)
        names = ", ".join(binding.name for binding in loaded.bindings)
        self.waits_for = (one_line(f"modules are fetched and compiled: {names}"), time.monotonic())
        guests, failed = await self._prepare(loaded.bindings)
        try:
            return await self._swap(guests, failed)
        except BaseException:
            for guest in guests:
                guest.close()
            raise

    async def _components(self) -> Loaded:
        # In a thread: a thousand files take 80 ms, 600 if they are new, in which the event loop would answer nobody.
        return await asyncio.to_thread(read_components, self._config, self._environ)

    async def _stats(self, folders: Iterable[str], guests: Iterable[str], mounted: Iterable[str]) -> FileStats:
        try:
            return await asyncio.to_thread(file_stats, folders, guests, mounted)
        except OSError as error:
            remedy = "raise the limit of descriptors (ulimit -n), or lower listen.maxConnections"
            raise ComponentError(f"the component files cannot be looked at: {error}", remedy=remedy) from error

    async def unchanged(self) -> bool:
        """Return whether resolving everything again gives the guests that are served already."""
        loaded = await self._components()
        if loaded.errors or loaded.bindings != self._read or loaded.listed != self._listed:
            return False
        guests, _ = await self._prepare(loaded.bindings)
        same = [g.digest for g in guests] == [g.digest for g in self._guests]
        for guest in guests:
            guest.close()
        return same

    def close(self) -> None:
        """Close all artifacts."""
        for guest in self._guests:
            guest.close()
        self._guests = []

    async def _prepare(self, bindings: tuple[Binding, ...]) -> tuple[list[PreparedGuest], dict[str, str]]:
        settings = module_settings(self._config)
        async with Preparer(settings, progress=self._report, former=self._guests) as preparer:
            results = await preparer.prepare_all(bindings)
            await preparer.prune()
        guests = [result for result in results if isinstance(result, PreparedGuest)]
        failed: dict[str, str] = {}
        fatal: list[tuple[Binding, ComponentError]] = []
        for binding, result in zip(bindings, results, strict=True):
            if isinstance(result, PreparedGuest):
                continue
            if binding.ignore_errors:
                text = "Ignoring error processing component: %s"
                log.error(text, result, extra=fields(binding=binding.name, path=binding.place))
                failed[binding.name] = str(result)
            else:
                fatal.append((binding, result))
        if fatal:
            for guest in guests:
                guest.close()
            binding, error = fatal[0]
            text = f"{binding.place}: {error.message}"
            raise ComponentError(text, remedy=error.remedy, bindings=(binding.name for binding, _ in fatal))
        return guests, failed

    async def _swap(self, guests: list[PreparedGuest], failed: dict[str, str]) -> Bindings:
        cells = self._config.cell_count
        failures = await self._pool.load(
            load_message(self._config, guests, self._own_ports),
            {guest.binding.name: concurrency(guest.binding.max_concurrency, cells) for guest in guests},
            required={guest.binding.name for guest in guests if not guest.binding.ignore_errors},
            alone={guest.binding.name for guest in guests if guest.binding.isolation is Isolation.OWN},
        )
        for name, why in failures:
            log.error("Ignoring error processing component: binding %s: %s", name, why, extra=fields(binding=name))
        failed |= dict(failures)
        former = {binding.name for binding in self.bindings} | set(self.failed)
        served = tuple(guest.binding for guest in guests if guest.binding.name not in failed)
        snapshot = Bindings.of(
            served,
            self._metrics,
            programs={guest.binding.name for guest in guests if guest.abi.is_program},
            handlers={guest.binding.name for guest in guests if guest.abi.handles_http},
            guards=self._guards.of(served, self._metrics),
            listed=self._listed,
            former=self._served,
        )
        self._served = snapshot
        for name in former - {binding.name for binding in served} - set(failed):
            self._metrics.forget_binding(name)
        for guest in guests:
            self._metrics.module_loaded(
                guest.binding.name,
                digest=guest.digest,
                scheme=guest.scheme,
                abi=guest.abi,
                seconds=guest.seconds,
                cached=guest.cached,
            )
            self._metrics.binding_ready(guest.binding.name, guest.binding.name not in failed)
            if not guest.has_start:
                log.warning("%s (%s)", NO_START, NO_START_REMEDY, extra=fields(binding=guest.binding.name))
        for name in failed:
            self._metrics.binding_ready(name, False)
        before = {guest.binding.name: guest for guest in self._guests}
        names = (guest.binding.name for guest in guests if not _is_same(before.get(guest.binding.name), guest))
        self.changed = tuple(names)
        for guest in self._guests:
            guest.close()
        self._guests, self.bindings, self.failed = guests, served, failed
        return snapshot

    def _log_problems(self, loaded: Loaded) -> None:
        for problem in loaded.problems:
            log.log(
                _LEVELS[problem.severity],
                "%s",
                problem.message + (f" ({problem.remedy})" if problem.remedy else ""),
                extra=fields(path=problem.place, binding=problem.component),
            )


def _is_same(former: PreparedGuest | None, guest: PreparedGuest) -> bool:
    """Return whether neither a binding nor its guest has changed. Its place in the file is no part of that."""
    if former is None or former.digest != guest.digest:
        return False
    now = guest.binding
    return former.binding in (now, replace(now, line=former.binding.line, url_line=former.binding.url_line))
