"""From a configured binding to an artifact that workers can load: fetch, look, find or compile. Many at once."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from sandboxd.components.binding import Binding
from sandboxd.errors import ComponentError, SandboxdError
from sandboxd.limits import EngineSettings
from sandboxd.modules import fingerprint, preamble, source
from sandboxd.modules.compiler import Compiler, CompileSettings
from sandboxd.modules.download import Downloader, FetchSettings
from sandboxd.modules.errors import ModuleError
from sandboxd.modules.prune import PruneSettings, prune
from sandboxd.modules.store import Artifact, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedGuest:
    """A binding whose guest is ready to be loaded. Keep it as long as the guest may be loaded from `artifact`."""

    binding: Binding
    kind: str
    """`module` or `component`."""
    artifact: Artifact
    digest: str
    """sha256 of the guest's bytes."""
    scheme: str
    """file, http or https."""
    how: str
    """As in source.Fetched: read, downloaded, revalidated, pinned or offline."""
    abi: str
    """wasip1, wasip1-http, none, wasip2-command or wasip2-proxy."""
    argv0: str
    cached: bool
    """The artifact was in the store; nothing was compiled for this binding."""
    seconds: float
    """Wall clock, all of it."""
    compile_seconds: float = 0.0
    has_start: bool = True
    """A core module without `_start` loads, and does nothing when invoked."""

    def close(self) -> None:
        """Let go of the artifact: pruning may remove it from now on."""
        self.artifact.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One step of one binding, for whoever shows it."""

    binding: str
    phase: str
    """download, compile, ready or failed."""
    seconds: float = 0.0
    """Since this binding was begun."""
    bytes: int = 0
    """download: so far; compile: of the guest; ready: of the artifact."""
    total_bytes: int = 0
    """download: as announced, 0 if it was not."""
    detail: str = ""
    """ready: `cached` or `compiled`; failed: why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleSettings:
    """Everything this room can be told."""

    cache: Path
    """The cache folder. The store is a folder of its own inside."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    compile: CompileSettings = field(default_factory=CompileSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    min_init_timeout_s: float = 120.0
    """A binding's initTimeout below this does not count: Dapr's default of 5 s was made for a faster, cruder compiler,
    and components that load there must load here."""


class Resolver:
    """Resolves bindings. For use from one event loop, as an async context manager.

    Raises (at construction):
        StoreError: the store cannot be used at all.
    """

    def __init__(
        self,
        settings: ModuleSettings,
        *,
        progress: Callable[[Progress], None] | None = None,
        downloader: Downloader | None = None,
    ) -> None:
        self._settings = settings
        self._report = progress if progress is not None else _unreported
        self._store = Store(settings.cache)
        self._fingerprint = fingerprint.current(settings.engine)
        self._compiler = Compiler(self._store, settings.engine, self._fingerprint, settings.compile)
        self._downloader = downloader if downloader is not None else Downloader(settings.fetch)
        self._compiling: dict[str, asyncio.Lock] = {}

    def __repr__(self) -> str:
        return f"<Resolver into {self._store}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._downloader.__aexit__(kind, error, traceback)

    async def resolve(self, binding: Binding) -> ResolvedGuest:
        """Make one binding's guest ready. Cancelling stops its download or compiler.

        Raises:
            ComponentError: it cannot be; message in Dapr's wording, naming the component.
        """
        began = time.monotonic()
        limit = max(binding.init_timeout_s, self._settings.min_init_timeout_s)
        try:
            async with asyncio.timeout(limit):
                guest = await self._resolve(binding, began)
        except TimeoutError:
            name = f"{binding.name} (bindings.wasm/{binding.version})"
            failure = init_error(
                binding, f"init timeout for component {name} exceeded after {limit:g}s", "raise spec.initTimeout"
            )
        except ModuleError as error:
            failure = init_error(binding, error.message, error.remedy)
            failure.__cause__ = error
        else:
            detail = "cached" if guest.cached else "compiled"
            self._tell(binding, "ready", began, guest.artifact.bytes, detail=detail)
            return guest
        self._tell(binding, "failed", began, detail=str(failure))
        raise failure

    async def resolve_all(self, bindings: Sequence[Binding]) -> list[ResolvedGuest | ComponentError]:
        """Make many ready at once; for each its guest or its error, in the same order."""
        results = await asyncio.gather(*(self.resolve(b) for b in bindings), return_exceptions=True)
        out: list[ResolvedGuest | ComponentError] = []
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, ComponentError):
                for other in results:
                    if isinstance(other, ResolvedGuest):
                        other.close()
                raise result
            out.append(result)
        return out

    async def prune(self) -> int:
        """Bring the store within its bounds; the bytes freed. What any process holds stays."""
        return await asyncio.to_thread(prune, self._store, self._settings.prune)

    async def _resolve(self, binding: Binding, began: float) -> ResolvedGuest:
        fetched = await source.fetch(
            binding.url,
            pin=binding.sha256,
            store=self._store,
            downloader=self._downloader,
            settings=self._settings.fetch,
            on_bytes=lambda done, total: self._tell(binding, "download", began, done, total),
        )
        guest = await asyncio.to_thread(preamble.read, fetched.data)
        preamble.refuse(guest, strict_sandbox=binding.strict_sandbox)
        compile_seconds = 0.0
        # One lock per guest: bindings of one guest compile it once, and the others find it.
        async with self._compiling.setdefault(fetched.digest, asyncio.Lock()):
            artifact = await asyncio.to_thread(self._store.find, fetched.digest, self._fingerprint)
            cached = artifact is not None
            if artifact is None:
                self._tell(binding, "compile", began, len(fetched.data))
                artifact, compile_seconds = await self._compiler.compile(fetched.data, fetched.digest, guest.kind)
        return ResolvedGuest(
            binding=binding,
            kind=guest.kind,
            artifact=artifact,
            digest=fetched.digest,
            scheme=fetched.scheme,
            how=fetched.how,
            abi=guest.abi,
            argv0=source.guest_name(binding.url),
            cached=cached,
            seconds=time.monotonic() - began,
            compile_seconds=compile_seconds,
            has_start=guest.has_start or guest.kind == "component",
        )

    def _tell(
        self, binding: Binding, phase: str, began: float, size: int = 0, total: int = 0, detail: str = ""
    ) -> None:
        self._report(
            Progress(
                binding=binding.name,
                phase=phase,
                seconds=time.monotonic() - began,
                bytes=size,
                total_bytes=total,
                detail=detail,
            )
        )


def init_error(binding: Binding, text: str, remedy: str = "") -> ComponentError:
    """A failure to load in the words of daprd (pkg/runtime/errors, processor)."""
    return ComponentError(
        f"process component {binding.name} error: [INIT_COMPONENT_FAILURE]: initialization error occurred for "
        f"{binding.name} (bindings.wasm/{binding.version}): {text}",
        remedy=remedy,
    )


async def compile_all(
    bindings: Sequence[Binding],
    settings: ModuleSettings,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> list[ResolvedGuest | ComponentError]:
    """What `sandboxd compile` does: fill the store with the artifacts of all bindings, then prune it.

    Returns:
        for each binding, in order, its (closed) guest or why it failed. The caller prints and chooses the exit code.
    Raises:
        SandboxdError: the store cannot be used at all.
    """
    async with Resolver(settings, progress=progress) as resolver:
        results = await resolver.resolve_all(bindings)
        await resolver.prune()
    for result in results:
        if not isinstance(result, SandboxdError):
            result.close()
    return results


def _unreported(_: Progress) -> None:
    """For callers that show nothing."""
