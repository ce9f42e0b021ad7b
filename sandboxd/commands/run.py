"""`sandboxd run`: runs one guest in this process, with the code that workers use."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import replace

import msgspec

from sandboxd.commands.printing import OutputEnded, Printer
from sandboxd.components.binding import Binding
from sandboxd.config import Config
from sandboxd.errors import ExitCode, SandboxdError, one_line
from sandboxd.front.answering.outcomes import result_hints
from sandboxd.modules.artifact import open_verified
from sandboxd.modules.prepare import NO_START, NO_START_REMEDY, PreparedGuest, Preparer
from sandboxd.outcome import Outcome
from sandboxd.server.progress import ProgressLine
from sandboxd.server.translate import guest_spec, module_settings, outbound_settings
from sandboxd.wire import messages as m


def run(config: Config, binding: Binding, args: tuple[str, ...]) -> int:
    """Run a guest once. Its whole stdin is read first; its stdout and stderr are passed on while it runs.

    Parameters:
        config: all settings.
        binding: the guest, with its limits, environment, folders and the hosts that it may call. Whoever runs the
            command may read the folders, so no setting restricts them.
        args: its arguments, without argv[0].

    Returns:
        the guest's exit code (its lowest 8 bits, as for any process), or FAILED if the host ended it. Where the reader
        of stdout or stderr has gone, this process ends by SIGPIPE, as any filter does.

    Raises:
        SandboxdError: the guest cannot be loaded, or what it writes cannot be passed on.
    """
    # Whoever runs a guest by hand wants to know where it failed, and pays for it once.
    config = replace(config, wasm=replace(config.wasm, trace_lines=True))
    mounts, timeout_ms = binding.mounts or binding.tmp, binding.limits.timeout_ms
    guest = asyncio.run(_prepare(config, binding))
    if not guest.has_start:
        print(f"sandboxd: {NO_START} ({NO_START_REMEDY})", file=sys.stderr)
    # As much as the limits let a server hold: stdout never makes the guest wait.
    printer = Printer(sys.stdout, sys.stderr, binding.limits.stdout_bytes + binding.limits.stderr_bytes)
    result = m.Result(id=0, outcome=Outcome.CANCELLED)
    try:
        with contextlib.suppress(OutputEnded):  # `close` tells why
            result = _invoke(config, guest, args, timeout_ms, printer)
    finally:
        failed = printer.close()
        guest.close()
    if failed is not None:
        stream, error = failed
        if isinstance(error, BrokenPipeError):
            return _end_by_sigpipe()
        raise SandboxdError(f"cannot write {stream}: {error.strerror}")
    if result.outcome is Outcome.COMPLETED:
        return ExitCode.OK
    if result.outcome is Outcome.EXIT_NONZERO:
        _tell(result, mounts=bool(mounts), reason=False)
        return result.exit_code & 0xFF or ExitCode.FAILED
    _tell(result, mounts=bool(mounts))
    return ExitCode.FAILED


def _end_by_sigpipe() -> int:
    """End this process as one ends that does not handle SIGPIPE. Returns only in process 1, which no signal ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    return 128 + signal.SIGPIPE


def _tell(result: m.Result, *, mounts: bool, reason: bool = True) -> None:
    """Print why a guest failed, and what the host knows about it.

    Parameters:
        result: how it ended.
        mounts: whether it has folders.
        reason: whether to print the outcome too. A guest's exit status needs no explanation.
    """
    lines = [f"{result.outcome}: {result.detail}", *result.trace.split("\n")[1:]] if reason else []
    lines += result_hints(result, result.detail, mounts=mounts)
    for line in lines:
        indent = line[: len(line) - len(line.lstrip("\t"))]
        print(f"{indent or 'sandboxd: '}{one_line(line.lstrip(chr(9)))}", file=sys.stderr)


async def _prepare(config: Config, binding: Binding) -> PreparedGuest:
    progress = ProgressLine(sys.stderr) if sys.stderr.isatty() else None
    async with Preparer(module_settings(config), progress=progress) as preparer:
        return await preparer.prepare(binding)


def _invoke(config: Config, guest: PreparedGuest, args: tuple[str, ...], timeout_ms: int, printer: Printer) -> m.Result:
    # Imported here, so that only this command loads wasmtime into the process of the command line.
    from sandboxd.worker import engine, guests, load
    from sandboxd.worker.runtime import Runtime

    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    built = engine.build(config.wasm)
    with open_verified(guest.artifact.path) as path:
        spec = guest_spec(guest)
        try:
            loaded = load.load(built, msgspec.structs.replace(spec, artifact=path), config.wasm)
        except guests.GuestError as error:
            raise SandboxdError(f"{guest.binding.url}: {error}") from error
    # Python's handler would raise KeyboardInterrupt anywhere, even inside a host function that wasmtime calls.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runtime = Runtime(built, [loaded], outbound_settings(config), echo=printer.echo).start()
    try:
        return runtime.run(
            m.Invoke(
                id=1,
                guest=0,
                call=m.Call(
                    deadline_ns=time.monotonic_ns() + timeout_ms * 1_000_000,
                    args=tuple(arg.encode("utf-8", "surrogateescape") for arg in args),
                    stdin=stdin,
                ),
            )
        )
    finally:
        runtime.close()
