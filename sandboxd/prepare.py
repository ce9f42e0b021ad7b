"""From settings to what a pool can load: components read, modules fetched and compiled. Shared by all commands."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from sandboxd import components
from sandboxd.components.binding import Binding
from sandboxd.config import Config
from sandboxd.errors import ComponentError, ConfigError, ExitCode
from sandboxd.identity import worker_ids
from sandboxd.modules.compiler import CompileSettings
from sandboxd.modules.download import FetchSettings
from sandboxd.modules.resolve import ModuleSettings, Progress, ResolvedGuest, Resolver, compile_all
from sandboxd.problems import Problem, Severity, one_line
from sandboxd.wire import messages as m

Report = Callable[[Progress], None]
"""Is told of every step of a download or compilation."""


def module_settings(config: Config) -> ModuleSettings:
    """The settings that the modules room is told."""
    modules = config.modules
    return ModuleSettings(
        cache=config.cache.folder,
        engine=config.wasm,
        fetch=FetchSettings(
            max_bytes=modules.max_download_bytes,
            connect_timeout_s=modules.connect_timeout_ms / 1000,
            total_timeout_s=modules.download_timeout_ms / 1000,
            attempts=modules.retries + 1,
            backoff_s=modules.retry_backoff_ms / 1000,
        ),
        compile=CompileSettings(
            timeout_s=modules.compile_timeout_ms / 1000,
            memory_bytes=modules.compile_memory_bytes,
            parallel=modules.compile_parallelism,
        ),
    )


def outbound_settings(config: Config) -> m.OutboundSettings:
    """The settings that workers' outbound engines are told."""
    egress = config.egress
    return m.OutboundSettings(
        block_networks=egress.block_networks,
        default_allowed_hosts=egress.default_allowed_hosts,
        ca_files=tuple(str(Path(file).absolute()) for file in egress.ca_files),
        client_certificates=tuple(
            (origin, str(Path(certificate).absolute()), str(Path(key).absolute()))
            for origin, certificate, key in egress.client_certificates
        ),
        proxy=egress.proxy,
        http2=egress.http2,
        connections=egress.connections,
        connect_timeout_ms=egress.connect_timeout_ms,
        first_byte_timeout_ms=egress.first_byte_timeout_ms,
        between_bytes_timeout_ms=egress.between_bytes_timeout_ms,
    )


def guest_spec(guest: ResolvedGuest) -> m.GuestSpec:
    """One resolved binding as workers need it."""
    binding = guest.binding
    return m.GuestSpec(
        binding=binding.name,
        kind=guest.kind,
        artifact=str(guest.artifact.path),
        argv0=guest.argv0.encode(),
        env=tuple((name.encode(), value.encode()) for name, value in binding.env),
        strict_sandbox=binding.strict_sandbox,
        limits=binding.limits,
        allowed_outbound_hosts=binding.allowed_outbound_hosts,
    )


def load_message(config: Config, guests: list[ResolvedGuest]) -> m.Load:
    """What a zygote is given.

    Raises:
        ConfigError: workers cannot run as the configured user or group.
    """
    uid, gid = worker_ids(config.pool.user, config.pool.group)
    return m.Load(
        engine=config.wasm,
        outbound=outbound_settings(config),
        guests=tuple(guest_spec(guest) for guest in guests),
        confinement=m.Confinement(uid=uid, gid=gid, host_memory_bytes=config.pool.host_memory_bytes),
    )


def read_components(config: Config, environ: Mapping[str, str]) -> components.Loaded:
    """The components of all resources paths."""
    return components.load(
        [Path(folder) for folder in config.resources_paths],
        app_id=config.app_id,
        namespace=config.namespace,
        environ=environ,
        limits=config.limits,
        ceilings=config.ceilings,
        strict_sandbox=config.strict_sandbox,
        check_pattern=check_pattern,
    )


class ProgressLine:
    """Shows downloads and compilations: one line that renews itself on a terminal, a plain line per step elsewhere.

    Parameters:
        stream: usually stderr.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._last: dict[str, str] = {}

    def __call__(self, progress: Progress) -> None:
        if self._terminal:
            total = f" of {progress.total_bytes / 2**20:.1f}" if progress.total_bytes else ""
            size = f" {progress.bytes / 2**20:.1f}{total} MiB" if progress.bytes else ""
            end = "\n" if progress.phase in ("ready", "failed") else ""
            text = f"{progress.binding}: {progress.phase}{size} {progress.detail} {progress.seconds:.1f} s"
            self._stream.write(f"\r\x1b[2K{one_line(text)}{end}")
            self._stream.flush()
        elif self._last.get(progress.binding) != progress.phase:
            self._last[progress.binding] = progress.phase
            if progress.phase != "download":
                detail = f" {progress.detail}" if progress.detail else ""
                text = f"{progress.binding}: {progress.phase}{detail} {progress.seconds:.1f} s"
                print(one_line(text), file=self._stream)


def compile_all_bindings(config: Config, problems: tuple[Problem, ...]) -> int:
    """`sandboxd compile`: fill the artifact store.

    Returns:
        the exit status: COMPONENT if a guest that must load cannot.
    """
    loaded = read_components(config, os.environ)
    for problem in (*problems, *loaded.problems):
        print(problem, file=sys.stderr)
    results = asyncio.run(
        compile_all(loaded.bindings, module_settings(config), progress=ProgressLine(sys.stderr)),
    )
    failed = any(p.severity is Severity.ERROR for p in loaded.problems)
    for binding, result in zip(loaded.bindings, results, strict=True):
        if isinstance(result, ComponentError):
            print(f"sandboxd: {binding.path}:{binding.line}: {result}", file=sys.stderr)
            failed = failed or not binding.ignore_errors
        else:
            print(f"{binding.name} {result.kind} {result.digest[:16]} {result.artifact.path}")
    return ExitCode.COMPONENT if failed else ExitCode.OK


def check_all(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> int:
    """`sandboxd check`: list every problem of settings, components and modules.

    Returns:
        the exit status: FAILED if there is a problem to repair.
    """
    checked = components.check(
        path,
        environ=environ,
        overrides=overrides,
        check_modules=lambda bindings, config: _check_workers(config) + asyncio.run(_check_modules(config, bindings)),
        check_pattern=check_pattern,
    )
    return ExitCode.FAILED if components.report(checked, sys.stdout) else ExitCode.OK


def check_pattern(pattern: str) -> None:
    """Raise ValueError for what is no egress pattern."""
    # Not at the top: it brings the HTTP client along, which takes a tenth of a warm start.
    from hostfuncs.outbound.policy import Policy

    Policy.parse([pattern])


def _check_workers(config: Config) -> list[Problem]:
    try:
        # Only looked up: whoever checks need not be who serves.
        worker_ids(config.pool.user, config.pool.group, changing=False)
    except ConfigError as error:
        return [Problem(severity=Severity.ERROR, message=error.message, remedy=error.remedy)]
    return []


async def _check_modules(config: Config, bindings: Sequence[Binding]) -> list[Problem]:
    async with Resolver(module_settings(config), progress=ProgressLine(sys.stderr)) as resolver:
        results = await resolver.resolve_all(bindings)
    problems = []
    for binding, result in zip(bindings, results, strict=True):
        if isinstance(result, ComponentError):
            problems.append(
                Problem(
                    severity=Severity.IGNORED if binding.ignore_errors else Severity.ERROR,
                    message=result.message,
                    remedy=result.remedy,
                    file=binding.path,
                    line=binding.line,
                    component=binding.name,
                )
            )
        else:
            result.close()
    return problems
