"""Compile guests in subprocesses with limits of time and memory, as many at once as there are cores."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sandboxd.limits import MIB, EngineSettings
from sandboxd.modules import trust
from sandboxd.modules.errors import CompileError, one_line
from sandboxd.modules.fingerprint import Fingerprint
from sandboxd.modules.preamble import COMPILE_PREFIX
from sandboxd.modules.store import Artifact, Store

_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "PYTHONPATH", "PYTHONHOME")
"""A compiler of hostile input is given no secrets: everything else in the environment is left out."""

_OUT_OF_MEMORY = re.compile(
    r"memory allocation of \d+ bytes failed|MemoryError|\(os error 12\)|Cannot allocate memory|failed to map segment"
)
"""Rust's allocator aborts with the first, Python raises the second; wasmtime, libc and the loader say the others."""

_STDERR_KEPT = 16 * 1024


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileSettings:
    """Limits of one compilation."""

    timeout_s: float = 120.0
    """Wall clock; the process group is killed."""
    memory_bytes: int = 4096 * MIB
    """Address space of the compiler."""
    artifact_bytes: int = 1024 * MIB
    """Longest artifact."""
    parallel: int = field(default_factory=_cores)
    """Compilations at once. From 1."""


class Compiler:
    """Runs compilations. For use from one event loop.

    Parameters:
        store: where artifacts go.
        engine: what they are for.
        fingerprint: of that engine.
    """

    def __init__(
        self, store: Store, engine: EngineSettings, fingerprint: Fingerprint, settings: CompileSettings
    ) -> None:
        self._store = store
        self._engine = engine
        self._fingerprint = fingerprint
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.parallel)

    def __repr__(self) -> str:
        return f"<Compiler into {self._store}, {self._settings.parallel} at once>"

    async def compile(self, data: bytes, digest: str, kind: str) -> tuple[Artifact, float]:
        """Compile a guest and put the artifact into the store. Cancelling kills the compiler.

        Parameters:
            data: the guest; `digest` is its sha256.
            kind: `module` or `component`.
        Returns:
            the artifact and the seconds the compiler ran, waiting for a core not counted.
        Raises:
            CompileError: not valid WebAssembly, or the compiler crashed or passed a limit.
            StoreError: the store cannot be written.
        """
        async with self._slots:
            began = time.monotonic()
            draft = await asyncio.to_thread(self._store.draft)
            try:
                with trust.explained("hold", "the guest in memory"):
                    source = os.memfd_create("guest", os.MFD_CLOEXEC)
                try:
                    await asyncio.to_thread(_fill, source, data)
                    await self._run(source, draft.fd, kind)
                finally:
                    os.close(source)
                if os.fstat(draft.fd).st_size == 0:
                    raise CompileError(
                        f"{COMPILE_PREFIX}the compiler wrote no artifact", remedy="check the installation"
                    )
                artifact = await asyncio.to_thread(draft.commit, digest, self._fingerprint, kind)
            finally:
                draft.abandon()
            return artifact, time.monotonic() - began

    async def _run(self, source: int, target: int, kind: str) -> None:
        settings = self._settings
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "sandboxd.modules.compile_main"),
                *("--input", str(source), "--output", str(target), "--parent", str(os.getpid()), "--kind", kind),
                *("--memory", str(settings.memory_bytes), "--cpu", str(int(settings.timeout_s * _cores()) + 1)),
                *("--file", str(settings.artifact_bytes), "--settings", msgspec.json.encode(self._engine).decode()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(source, target),
                start_new_session=True,
                env=_environment(),
            )
        )
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Halfway through: the child may exist already, and nobody else knows of it.
            await asyncio.shield(_discard(starting))
            raise
        except OSError as error:
            raise CompileError(
                f"{COMPILE_PREFIX}the compiler could not be started: {(error.strerror or str(error)).lower()}",
                remedy="check the limits of processes and memory, and the installation",
            ) from error
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(settings.timeout_s):
                answer, noise = await asyncio.gather(_head(process.stdout), _tail(process.stderr))
                await process.wait()
        except TimeoutError:
            raise CompileError(
                f"{COMPILE_PREFIX}not done after {settings.timeout_s:g} s, stopped",
                remedy="raise modules.compileTimeout, or use a smaller guest",
            ) from None
        finally:
            await _end(process)
        self._judge(process.returncode, answer, noise)

    def _judge(self, status: int | None, answer: bytes, noise: bytes) -> None:
        """Raise what went wrong, if anything did."""
        if status == 0:
            return
        limit = self._settings.memory_bytes // MIB
        out_of_memory = CompileError(
            f"{COMPILE_PREFIX}the compiler needs more than {limit} MiB of memory",
            remedy="raise modules.compileMemory, or use a smaller guest",
        )
        report: object = None
        with suppress(ValueError):
            report = json.loads(answer)
        if isinstance(report, dict):
            error = one_line(str(report.get("error")))
            if report.get("memory") or _OUT_OF_MEMORY.search(error):
                raise out_of_memory
            if isinstance(report.get("errno"), int):
                number = report["errno"]
                raise trust.explain(OSError(number, os.strerror(number)), "write", str(self._store))
            raise CompileError(f"{COMPILE_PREFIX}{error}", remedy="check that the file is a whole, valid guest")
        text = noise.decode(errors="replace")
        if _OUT_OF_MEMORY.search(text):
            raise out_of_memory
        if status in (-signal.SIGXCPU, -signal.SIGKILL):
            raise CompileError(
                f"{COMPILE_PREFIX}the compiler was killed ({signal.Signals(-status).name})",
                remedy="the machine may be out of memory, or modules.compileTimeout of processor time was used up",
            )
        how = f"ended by {signal.Signals(-status).name}" if status and status < 0 else f"ended with status {status}"
        last = one_line("\n".join(text.splitlines()[-3:]), 500)
        raise CompileError(f"{COMPILE_PREFIX}the compiler {how}{': ' if last else ''}{last}")


def _fill(fd: int, data: bytes) -> None:
    view = memoryview(data)
    with trust.explained("hold", "the guest in memory"):
        while view:
            view = view[os.write(fd, view) :]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    # -P keeps the working directory out of sys.path; the package may still be a source tree that is not installed.
    root = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH"))))
    # Every arena reserves 64 MiB of address space; with one per thread the memory limit would say nothing.
    kept["MALLOC_ARENA_MAX"] = "2"
    return kept


async def _discard(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    with suppress(OSError):  # it could not be started, which no longer matters
        await _end(await starting)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Whatever happened, leave no compiler behind."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # Shielded: a second cancellation must not leave a zombie.
        await asyncio.shield(process.wait())


async def _head(stream: asyncio.StreamReader) -> bytes:
    """The first 64 KiB; the rest is read and dropped."""
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[:65536]
    return kept


async def _tail(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[-_STDERR_KEPT:]
    return kept
