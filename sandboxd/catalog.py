"""The set of bindings a server serves: read, resolved, loaded into the pool, and replaced on a reload."""

import logging
from collections.abc import Mapping

from sandboxd.cells.share import concurrency
from sandboxd.changes import Appearance, appearance
from sandboxd.components import Loaded
from sandboxd.components.binding import Binding
from sandboxd.config import Config
from sandboxd.errors import ComponentError, SandboxdError
from sandboxd.front.ports import Bindings
from sandboxd.log import fields
from sandboxd.metrics import Metrics
from sandboxd.modules.resolve import ResolvedGuest, Resolver
from sandboxd.pool.pool import Pool
from sandboxd.prepare import Report, load_message, module_settings, read_components
from sandboxd.problems import Severity

log = logging.getLogger("sandboxd.catalog")

PROXY = "wasip2-proxy"
"""The `abi` of guests that handle HTTP requests."""

_LEVELS = {
    Severity.ERROR: logging.ERROR,
    Severity.IGNORED: logging.ERROR,
    Severity.WARNING: logging.WARNING,
    Severity.NOTE: logging.INFO,
}


class Catalog:
    """What is served now.

    Parameters:
        config: of the server.
        environ: for references in components.
        pool: is given every new set of guests.
        metrics: is told what was loaded.
        report: is told of downloads and compilations.
    """

    def __init__(
        self, config: Config, environ: Mapping[str, str], pool: Pool, metrics: Metrics, report: Report | None
    ) -> None:
        self._config = config
        self._environ = environ
        self._pool = pool
        self._metrics = metrics
        self._report = report
        self._guests: list[ResolvedGuest] = []
        self.bindings: tuple[Binding, ...] = ()
        """Those that can be called."""
        self.failed: dict[str, str] = {}
        """Bindings that could not be loaded and say ignoreErrors, and why."""
        self.last_error = ""
        """Why the latest reload was refused; empty after one that succeeded."""
        self.appearance: Appearance = {}
        """How all files looked when they were last read, whether or not that led to anything."""
        self._read: tuple[Binding, ...] = ()

    def __repr__(self) -> str:
        return f"<Catalog of {len(self.bindings)} bindings>"

    @property
    def local_files(self) -> tuple[str, ...]:
        """Paths of the guests that come from file://: those served, and those that could not be loaded."""
        urls = (binding.url for binding in (*self.bindings, *self._read))
        return tuple(dict.fromkeys(url.removeprefix("file://") for url in urls if url.startswith("file://")))

    @property
    def remote(self) -> bool:
        """Whether a guest comes from an origin that can be asked for changes."""
        return any(not b.url.startswith("file://") for b in self.bindings)

    async def load(self) -> Bindings:
        """Read, resolve, warm up and swap in. A failure changes nothing of what is served.

        Raises:
            SandboxdError: a component or guest that must load cannot, or workers do not start with the new set.
        """
        # Looked at before reading: a change in between is then noticed, at worst twice.
        self.appearance = appearance(self._config.resources_paths, self.local_files)
        loaded = read_components(self._config, self._environ)
        former, self._read = set(self.local_files), loaded.bindings
        self.appearance |= appearance((), set(self.local_files) - former)
        self._log_problems(loaded)
        if loaded.errors:
            first = loaded.errors[0]
            raise ComponentError(f"{first.place}: {first.message}", remedy=first.remedy)
        guests, failed = await self._resolve(loaded.bindings)
        try:
            return await self._swap(guests, failed)
        except BaseException:
            for guest in guests:
                guest.close()
            raise

    async def unchanged(self) -> bool:
        """Whether resolving everything anew gives the guests that are served already."""
        loaded = read_components(self._config, self._environ)
        if loaded.errors or loaded.bindings != self._read:
            return False
        guests, _ = await self._resolve(loaded.bindings)
        same = [g.digest for g in guests] == [g.digest for g in self._guests]
        for guest in guests:
            guest.close()
        return same

    def close(self) -> None:
        """Let go of all artifacts."""
        for guest in self._guests:
            guest.close()
        self._guests = []

    async def _resolve(self, bindings: tuple[Binding, ...]) -> tuple[list[ResolvedGuest], dict[str, str]]:
        async with Resolver(module_settings(self._config), progress=self._report) as resolver:
            results = await resolver.resolve_all(bindings)
            await resolver.prune()
        guests = [result for result in results if isinstance(result, ResolvedGuest)]
        failed: dict[str, str] = {}
        fatal: SandboxdError | None = None
        for binding, result in zip(bindings, results, strict=True):
            if isinstance(result, ResolvedGuest):
                continue
            if binding.ignore_errors:
                log.error("Ignoring error processing component: %s", result, extra=fields(binding=binding.name))
                failed[binding.name] = str(result)
            else:
                fatal = fatal or result
        if fatal is not None:
            for guest in guests:
                guest.close()
            raise fatal
        return guests, failed

    async def _swap(self, guests: list[ResolvedGuest], failed: dict[str, str]) -> Bindings:
        failures = await self._pool.load(
            load_message(self._config, guests),
            {
                guest.binding.name: concurrency(guest.binding.max_concurrency, self._config.cell_count)
                for guest in guests
            },
            required={guest.binding.name for guest in guests if not guest.binding.ignore_errors},
        )
        for name, why in failures:
            log.error("Ignoring error processing component: binding %s: %s", name, why, extra=fields(binding=name))
        failed |= dict(failures)
        former = {binding.name for binding in self.bindings} | set(self.failed)
        served = tuple(guest.binding for guest in guests if guest.binding.name not in failed)
        proxies = {guest.binding.name for guest in guests if guest.abi == PROXY}
        snapshot = Bindings.of(served, self._metrics, proxies)
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
        for name in failed:
            self._metrics.binding_ready(name, False)
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
