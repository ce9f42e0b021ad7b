"""Compiles guests in subprocesses with limits of time and memory, by default as many at once as there are CPUs."""

import asyncio
import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from sandboxd.limits import MIB, EngineSettings
from sandboxd.modules import trust
from sandboxd.modules.errors import CompileError, causes_line
from sandboxd.modules.fingerprint import Fingerprint
from sandboxd.modules.preamble import COMPILE_PREFIX
from sandboxd.modules.store import Artifact, Store
from sandboxd.processes import interpreter
from sandboxd.wall.confinement import kept_environment
from sandboxd.wire.messages import GuestKind

_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "PYTHONPATH", "PYTHONHOME")
"""The environment variables that the compiler gets. It compiles hostile input, so it gets no secrets."""

_OUT_OF_MEMORY = re.compile(
    r"memory allocation of \d+ bytes failed|MemoryError|\(os error 12\)|Cannot allocate memory|failed to map segment"
)
"""The messages of Rust's allocator, Python, wasmtime, libc and the dynamic loader when memory is lacking."""

_STDERR_KEPT = 16 * 1024


def _cpus() -> int:
    return max(1, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileSettings:
    """The limits of compilations."""

    timeout_s: float = 120.0
    """The wall-clock time after which the compiler's process group is killed."""
    memory_bytes: int = 4096 * MIB
    """The compiler's address space."""
    artifact_bytes: int = 1024 * MIB
    """The longest artifact."""
    wall: str = "auto"
    """See `sandboxd.wall.Mode`."""
    parallel: int = field(default_factory=_cpus)
    """The most concurrent compilations; at least 1."""


class Compiler:
    """Runs compilations. Use it on one event loop.

    Parameters:
        store: receives the artifacts.
        engine: the settings of the engine for which it compiles.
        fingerprint: the fingerprint of that engine.
        settings: the limits.
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

    async def compile(self, data: bytes, digest: str, kind: GuestKind) -> Artifact:
        """Compile a guest and put the artifact into the store. Cancelling it kills the compiler.

        Parameters:
            data: the guest.
            digest: its sha256, in lower-case hex.
            kind: the kind of the guest.
        Raises:
            CompileError: it is not valid WebAssembly, or the compiler crashed or exceeded a limit.
            StoreError: the store cannot be written.
        """
        async with self._slots:
            draft = await asyncio.to_thread(self._store.draft)
            try:
                with trust.store_errors("hold", "the guest in memory"):
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
                return await asyncio.to_thread(draft.commit, digest, self._fingerprint, kind)
            finally:
                draft.abandon()

    async def _run(self, source: int, target: int, kind: GuestKind) -> None:
        settings = self._settings
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *interpreter.command("sandboxd.modules.compile_main"),
                *("--input", str(source), "--output", str(target), "--parent", str(os.getpid()), "--kind", kind),
                *("--memory", str(settings.memory_bytes), "--cpu", str(int(settings.timeout_s * _cpus()) + 1)),
                *("--wall", settings.wall),
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
            # The compiler may run already, and nothing else would end it.
            await asyncio.shield(_discard(starting))
            raise
        except OSError as error:
            raise CompileError(
                f"{COMPILE_PREFIX}the compiler could not be started: {(error.strerror or str(error)).lower()}",
                remedy="check the limits of processes and memory, and the installation",
            ) from error
        assert process.stdout is not None
        assert process.stderr is not None
        stderr = bytearray()
        try:
            async with asyncio.timeout(settings.timeout_s):
                answer, _ = await asyncio.gather(_head(process.stdout), _tail(process.stderr, stderr))
                await process.wait()
        except TimeoutError:
            last = _last_words(stderr)
            raise CompileError(
                f"{COMPILE_PREFIX}the compiler was stopped, because it was not done after {settings.timeout_s:g} s"
                + (f"; its last words: {last}" if last else ""),
                remedy="raise modules.compileTimeout, or use a smaller guest",
            ) from None
        finally:
            await _end(process)
        self._check_exit(process.returncode, answer, bytes(stderr))

    def _check_exit(self, status: int | None, answer: bytes, stderr: bytes) -> None:
        """Raise the error of a compiler that ended with a status other than 0."""
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
            error = causes_line(str(report.get("error")))
            if report.get("memory") or _OUT_OF_MEMORY.search(error):
                raise out_of_memory
            if isinstance(report.get("errno"), int):
                number = report["errno"]
                raise trust.store_error(OSError(number, os.strerror(number)), "write", str(self._store))
            raise CompileError(f"{COMPILE_PREFIX}{error}", remedy=_remedy(error))
        text = stderr.decode(errors="replace")
        if _OUT_OF_MEMORY.search(text):
            raise out_of_memory
        if status in (-signal.SIGXCPU, -signal.SIGKILL):
            raise CompileError(
                f"{COMPILE_PREFIX}the compiler was killed ({signal.Signals(-status).name})",
                remedy="the machine may be out of memory, or the guest needs more CPU time than modules.compileTimeout",
            )
        end = f"ended by {signal.Signals(-status).name}" if status and status < 0 else f"ended with status {status}"
        last = _last_words(stderr)
        raise CompileError(f"{COMPILE_PREFIX}the compiler {end}{': ' if last else ''}{last}")


def _fill(fd: int, data: bytes) -> None:
    view = memoryview(data)
    with trust.store_errors("hold", "the guest in memory"):
        while view:
            view = view[os.write(fd, view) :]


def _environment() -> dict[str, str]:
    kept = interpreter.environment(kept_environment(os.environ, _KEPT_ENVIRONMENT))
    # Each malloc arena reserves 64 MiB of address space. With one per thread, they would use up the memory limit.
    kept["MALLOC_ARENA_MAX"] = "2"
    return kept


async def _discard(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    with suppress(OSError):  # the process could not be started, which no longer matters
        await _end(await starting)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the compiler if it still runs, and reap it."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # Shielded: a second cancellation must not leave a zombie.
        await asyncio.shield(process.wait())


async def _head(stream: asyncio.StreamReader) -> bytes:
    """Return the first 64 KiB of a stream. The rest is read and dropped."""
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[:65536]
    return kept


async def _tail(stream: asyncio.StreamReader, kept: bytearray) -> None:
    """Read a stream to its end. `kept` always holds the last bytes that were read."""
    while chunk := await stream.read(65536):
        kept += chunk
        del kept[:-_STDERR_KEPT]


def _last_words(stderr: bytes | bytearray) -> str:
    return causes_line("\n".join(stderr.decode(errors="replace").splitlines()[-3:]), 500)


def _remedy(error: str) -> str:
    """Return the remedy for an error of the compiler."""
    if "legacy_exceptions" in error:
        return (
            "the guest has the exceptions that preceded WebAssembly 3; build it with clang's "
            "-fwasm-exceptions -mllvm -wasm-use-legacy-eh=false, or convert it with wasm-opt --translate-to-exnref"
        )
    if "threads" in error or "shared memor" in error:
        return "threads are not supported; build without them (target wasm32-wasip1, not -threads)"
    if ("when" in error and "disabled" in error) or "feature" in error or "proposal" in error:
        return "the guest uses a WebAssembly feature that sandboxd does not have; build it for wasm32-wasip1 without it"
    return "check that the file is a whole, valid guest"
