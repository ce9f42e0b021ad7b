"""Prepares the guests of bindings for loading: fetches each, checks it, and finds or compiles its artifact."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from sandboxd.components.binding import Binding, init_error_prefix
from sandboxd.errors import ComponentError, SandboxdError
from sandboxd.files.state import FileState, state_of
from sandboxd.limits import EngineSettings
from sandboxd.modules import fingerprint, preamble, source
from sandboxd.modules.compiler import Compiler, CompileSettings
from sandboxd.modules.download import Downloader, FetchSettings
from sandboxd.modules.errors import ModuleError
from sandboxd.modules.preamble import Abi, Preamble
from sandboxd.modules.prune import PruneSettings, prune
from sandboxd.modules.store import Artifact, Store
from sandboxd.wire.messages import GuestKind

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedGuest:
    """A binding whose guest is ready to be loaded. Keep it for as long as workers may load `artifact`."""

    binding: Binding
    kind: GuestKind
    artifact: Artifact
    digest: str
    """sha256 of the guest's bytes."""
    scheme: str
    """file, http or https."""
    abi: Abi
    cached: bool
    """Whether the artifact was in the store, so that nothing was compiled for this binding."""
    seconds: float
    """The time that preparing it took, by the wall clock."""
    has_start: bool
    """Whether the guest has an entry point. Without one, it is a module without `_start`: a library or a reactor."""
    preamble: Preamble
    file: FileState | None
    """The state of the local file from which it was read; None if it came from elsewhere, or could change unseen."""

    def again(self, binding: Binding) -> "PreparedGuest | None":
        """Return this guest for a binding with the same URL. Blocks.

        Parameters:
            binding: the binding, as it is now.

        Returns:
            None if it must be prepared anew: its file or its artifact has changed, or the binding refuses it.
        """
        if self.file is None or binding.sha256 not in (None, self.digest):
            return None
        try:
            if state_of(os.stat(source.path_of(binding.url))) != self.file:
                return None
            preamble.refuse(self.preamble, strict_sandbox=binding.strict_sandbox)
        except (OSError, ModuleError):
            return None
        artifact = self.artifact.shared()
        return replace(self, binding=binding, artifact=artifact, cached=True, seconds=0.0) if artifact else None

    def close(self) -> None:
        """Release the artifact: pruning may remove it from now on."""
        self.artifact.close()


NO_START = "the guest exports no _start: replies will be empty, as in Dapr"
NO_START_REMEDY = "build it as a command, not as a library or reactor"


class Phase(StrEnum):
    """The phases of preparing a guest."""

    DOWNLOAD = "download"
    COMPILE = "compile"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One step in preparing the guest of one binding."""

    binding: str
    phase: Phase
    seconds: float = 0.0
    """The time since the binding's preparation began."""
    bytes: int = 0
    """Download: the bytes so far. Compile: the guest's size. Ready: the artifact's size."""
    total_bytes: int = 0
    """Download: the announced size; 0 if none was announced."""
    detail: str = ""
    """Ready: `cached` or `compiled`. Failed: the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleSettings:
    """All settings of `sandboxd.modules`."""

    cache: Path
    """The cache folder; the store is a folder inside it."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    compile: CompileSettings = field(default_factory=CompileSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    min_init_timeout_s: float = 120.0
    """The lowest initTimeout. A lower one of a binding is raised to it: Dapr's default of 5 s was chosen for a faster
    and simpler compiler, and components that load there must load here."""


class Preparer:
    """Prepares the guests of bindings. Use it on one event loop, as an async context manager.

    Parameters:
        settings: all settings.
        progress: called at each step.
        downloader: the HTTP client; None makes one from the settings.
        former: the guests of an earlier load with the same settings, not closed. Those whose local files have not
            changed are taken over.

    Raises:
        StoreError: the store cannot be used at all.
    """

    def __init__(
        self,
        settings: ModuleSettings,
        *,
        progress: Callable[[Progress], None] | None = None,
        downloader: Downloader | None = None,
        former: Sequence[PreparedGuest] = (),
    ) -> None:
        self._settings = settings
        self._report = progress if progress is not None else _unreported
        self._store = Store(settings.cache)
        self._fingerprint = fingerprint.current(settings.engine)
        self._compiler = Compiler(self._store, settings.engine, self._fingerprint, settings.compile)
        self._downloader = downloader if downloader is not None else Downloader(settings.fetch)
        self._compiling: dict[str, asyncio.Lock] = {}
        self._former = {guest.binding.url: guest for guest in former if guest.file is not None}

    def __repr__(self) -> str:
        return f"<Preparer into {self._store}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._downloader.__aexit__(kind, error, traceback)

    async def prepare(self, binding: Binding) -> PreparedGuest:
        """Prepare one binding's guest. Cancelling it stops the download or the compiler.

        Raises:
            ComponentError: the guest cannot be prepared. The message is in Dapr's words and names the component.
        """
        began = time.monotonic()
        limit = max(binding.init_timeout_s, self._settings.min_init_timeout_s)
        try:
            async with asyncio.timeout(limit):
                guest = await self._prepare(binding, began)
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
            self._report_progress(binding, Phase.READY, began, guest.artifact.bytes, detail=detail)
            return guest
        self._report_progress(binding, Phase.FAILED, began, detail=str(failure))
        raise failure

    async def prepare_all(self, bindings: Sequence[Binding]) -> list[PreparedGuest | ComponentError]:
        """Prepare many guests at once. Return the guest or the error of each binding, in the same order."""
        # Those of the former load in one thread: what each takes is less than the way to a thread and back.
        out: dict[int, PreparedGuest | ComponentError] = {}
        if self._former:
            out |= await asyncio.to_thread(self._again, bindings)
        new = [number for number in range(len(bindings)) if number not in out]
        results = await asyncio.gather(*(self.prepare(bindings[number]) for number in new), return_exceptions=True)
        for number, result in zip(new, results, strict=True):
            if isinstance(result, BaseException) and not isinstance(result, ComponentError):
                for other in (*results, *out.values()):
                    if isinstance(other, PreparedGuest):
                        other.close()
                raise result
            out[number] = result
        return [out[number] for number in range(len(bindings))]

    def _again(self, bindings: Sequence[Binding]) -> dict[int, PreparedGuest]:
        """Return those of the former guests that are as they were, by the numbers of their bindings."""
        found = {}
        for number, binding in enumerate(bindings):
            former = self._former.get(binding.url)
            guest = former.again(binding) if former is not None else None
            if guest is not None:
                found[number] = guest
        return found

    async def prune(self) -> int:
        """Remove old entries until the store is within its limits. Entries in use by any process stay.

        Returns:
            the number of bytes freed.
        """
        return await asyncio.to_thread(prune, self._store, self._settings.prune)

    async def _prepare(self, binding: Binding, began: float) -> PreparedGuest:
        fetched = await source.fetch(
            binding.url,
            pin=binding.sha256,
            store=self._store,
            downloader=self._downloader,
            settings=self._settings.fetch,
            on_bytes=lambda done, total: self._report_progress(binding, Phase.DOWNLOAD, began, done, total),
        )
        guest = await asyncio.to_thread(preamble.read, fetched.data)
        preamble.refuse(guest, strict_sandbox=binding.strict_sandbox)
        # One lock per guest: if several bindings have the same guest, one compiles it and the others find the artifact.
        async with self._compiling.setdefault(fetched.digest, asyncio.Lock()):
            artifact = await asyncio.to_thread(self._store.find, fetched.digest, self._fingerprint)
            cached = artifact is not None
            if artifact is None:
                self._report_progress(binding, Phase.COMPILE, began, len(fetched.data))
                artifact = await self._compiler.compile(fetched.data, fetched.digest, guest.kind)
        return PreparedGuest(
            binding=binding,
            kind=guest.kind,
            artifact=artifact,
            digest=fetched.digest,
            scheme=fetched.scheme,
            abi=guest.abi,
            cached=cached,
            seconds=time.monotonic() - began,
            has_start=guest.kind is not GuestKind.MODULE or "_start" in guest.exports,
            preamble=guest,
            file=fetched.file,
        )

    def _report_progress(
        self, binding: Binding, phase: Phase, began: float, size: int = 0, total: int = 0, detail: str = ""
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
    """Return the error of a binding that cannot be loaded, in daprd's words (pkg/runtime/errors, processor)."""
    return ComponentError(
        f"{init_error_prefix(binding.name)} (bindings.wasm/{binding.version}): {text}",
        remedy=remedy,
    )


async def compile_all(
    bindings: Sequence[Binding],
    settings: ModuleSettings,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> list[PreparedGuest | ComponentError]:
    """Fill the store with the artifacts of all bindings, then prune it. `sandboxd compile` uses it.

    Returns:
        for each binding, in order, its closed guest or its error.
    Raises:
        SandboxdError: the store cannot be used at all.
    """
    async with Preparer(settings, progress=progress) as preparer:
        results = await preparer.prepare_all(bindings)
        await preparer.prune()
    for result in results:
        if not isinstance(result, SandboxdError):
            result.close()
    return results


def _unreported(_: Progress) -> None:
    """Ignore progress."""
