"""`sandboxd run`: one guest, here, with the code the workers run."""

import asyncio
import signal
import sys
import time
from pathlib import Path

import msgspec

from sandboxd.components.binding import Binding
from sandboxd.config import Config
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.modules.artifact import open_verified
from sandboxd.modules.resolve import ResolvedGuest, Resolver
from sandboxd.outcome import Outcome
from sandboxd.prepare import ProgressLine, guest_spec, module_settings, outbound_settings
from sandboxd.wire import messages as m


def run(config: Config, file: Path, args: tuple[str, ...], env: tuple[tuple[str, str], ...], timeout_ms: int) -> int:
    """Run a guest once: stdin is read to its end first, stdout is written when the guest is over.

    Parameters:
        file: the guest.
        args: its arguments without argv[0].
        env: its environment.
        timeout_ms: until it is ended.

    Returns:
        the guest's exit code (its lowest 8 bits, as for any process), or FAILED if the host ended it.

    Raises:
        SandboxdError: it cannot be loaded.
    """
    binding = Binding(name=file.stem or "guest", version="v1", url=f"file://{file.absolute()}", env=env)
    guest = asyncio.run(_resolve(config, binding))
    try:
        result = _invoke(config, guest, args, timeout_ms)
    finally:
        guest.close()
    sys.stdout.buffer.write(result.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(result.stderr)
    sys.stderr.buffer.flush()
    if result.outcome is Outcome.COMPLETED:
        return ExitCode.OK
    if result.outcome is Outcome.EXIT_NONZERO:
        return result.exit_code & 0xFF or ExitCode.FAILED
    print(f"sandboxd: {result.outcome}: {result.detail}", file=sys.stderr)
    return ExitCode.FAILED


async def _resolve(config: Config, binding: Binding) -> ResolvedGuest:
    progress = ProgressLine(sys.stderr) if sys.stderr.isatty() else None
    async with Resolver(module_settings(config), progress=progress) as resolver:
        return await resolver.resolve(binding)


def _invoke(config: Config, guest: ResolvedGuest, args: tuple[str, ...], timeout_ms: int) -> m.Result:
    # Late, so that nothing but this command loads wasmtime into the process of the command line.
    from sandboxd.worker import engine, guests
    from sandboxd.worker.runtime import Runtime

    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    built = engine.build(config.wasm)
    with open_verified(guest.artifact.path) as path:
        spec = guest_spec(guest)
        try:
            loaded = guests.load(built, msgspec.structs.replace(spec, artifact=path))
        except guests.GuestError as error:
            raise SandboxdError(f"{guest.binding.url}: {error}") from error
    # Python's own handler raises wherever the process is, which inside a host function would end it badly.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runtime = Runtime(built, [loaded], outbound_settings(config), config.wasm).start()
    try:
        return runtime.run(
            m.Invoke(
                id=1,
                guest=0,
                deadline_ns=time.monotonic_ns() + timeout_ms * 1_000_000,
                args=tuple(arg.encode("utf-8", "surrogateescape") for arg in args),
                stdin=stdin,
            )
        )
    finally:
        runtime.close()
