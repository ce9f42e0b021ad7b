"""`sandboxd check`: lists every problem of the settings, the components and the modules."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from sandboxd.commands.linking import faults
from sandboxd.components.binding import Binding, init_error_prefix
from sandboxd.components.loader import WASM_TYPE, Loaded, load
from sandboxd.components.metadata import PatternCheck
from sandboxd.config import Config, Reading, read
from sandboxd.config.users import worker_ids
from sandboxd.errors import ComponentError, ConfigError, ExitCode, SandboxdError, one_line
from sandboxd.files.problems import Problem, Severity
from sandboxd.limits import Limits
from sandboxd.limits.keys import LIMITS
from sandboxd.modules.prepare import Preparer
from sandboxd.server.progress import ProgressLine
from sandboxd.server.translate import check_pattern, module_settings, mount_policy

ModuleCheck = Callable[[Sequence[Binding], Config], Iterable[Problem]]
"""Fetches and compiles the modules of the bindings, and returns a problem for each that fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The result of a check."""

    problems: tuple[Problem, ...]
    bindings: tuple[Binding, ...]
    """The bindings that can be served."""
    reading: Reading

    @property
    def count(self) -> int:
        """The number of problems to repair: all but the notes."""
        return sum(problem.severity is not Severity.NOTE for problem in self.problems)


def check_all(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> int:
    """Run `sandboxd check`.

    Parameters:
        path: sandboxd.yaml; None if there is none.
        environ: the environment.
        overrides: the settings of the command line.

    Returns:
        the exit status: FAILED if there is a problem to repair.
    """
    checked = check(
        path,
        environ=environ,
        overrides=overrides,
        check_modules=lambda bindings, config: (
            _check_workers(config) + _check_transport(config, bindings) + asyncio.run(_check_modules(config, bindings))
        ),
        check_pattern=check_pattern,
    )
    return ExitCode.FAILED if report(checked, sys.stdout) else ExitCode.OK


def check(
    config_path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    check_modules: ModuleCheck | None = None,
    check_pattern: PatternCheck | None = None,
) -> Checked:
    """Check sandboxd.yaml, the component folders that it or `overrides` names, and the modules.

    Wrong settings do not stop the check of the components: each wrong setting is replaced by its default.

    Parameters:
        config_path: sandboxd.yaml; None if there is none.
        environ: the environment.
        overrides: the settings of the command line, as for sandboxd.config.load; `resourcesPaths` is --resources-path.
        check_modules: called with the valid bindings; None skips the modules.
        check_pattern: raises ValueError if its argument is not an egress pattern; None accepts every text.
    """
    reading = read(config_path, environ=environ, overrides=overrides)
    config = reading.fallback
    problems = [*reading.problems, *_files(config), *_patterns(config, check_pattern)]
    loaded = _components(config, reading.config is None, environ, check_pattern)
    problems.extend(loaded.problems)
    if not loaded.bindings and all(problem.severity is Severity.NOTE for problem in loaded.problems):
        problems.append(_nothing(config))
    bindings = loaded.bindings
    if check_modules is not None:
        found = list(check_modules(bindings, config))
        problems.extend(found)
        unfit = {problem.component for problem in found if problem.severity is not Severity.WARNING}
        bindings = tuple(binding for binding in bindings if binding.name not in unfit)
    return Checked(problems=tuple(problems), bindings=bindings, reading=reading)


def report(checked: Checked, out: TextIO) -> int:
    """Print every problem as `file:line: severity: message (remedy)`, then a line that counts them.

    Returns:
        the number of problems to repair.
    """
    for problem in checked.problems:
        print(_plain(problem), file=out)
    names = ", ".join(binding.name for binding in checked.bindings)
    bindings = f"bindings that can be served: {names}" if names else "no binding can be served"
    count = checked.count
    print(one_line(f"{count} {'problem' if count == 1 else 'problems'}; {bindings}"), file=out)
    return count


def _plain(problem: Problem) -> Problem:
    """Return a problem without the 120 characters that daprd puts before what is wrong with a component."""
    _, begin, rest = problem.message.partition(f"{init_error_prefix(problem.component)} (")
    _, end, message = rest.partition("): ")
    if not problem.component or not begin or not end:
        return problem
    return replace(problem, message=f"component {problem.component}: {message}")


def _nothing(config: Config) -> Problem:
    return Problem(
        severity=Severity.ERROR,
        message=f"there is nothing to serve: no component of type {WASM_TYPE} for the app id {config.app_id} in "
        + ", ".join(config.resources_paths),
        remedy="put a component file there, or set --resources-path",
    )


def _components(
    config: Config, config_failed: bool, environ: Mapping[str, str], check_pattern: PatternCheck | None
) -> Loaded:
    if not config.resources_paths:
        problem = Problem(
            severity=Severity.ERROR,
            message="no folder of components is configured",
            remedy="set --resources-path, or resourcesPaths in sandboxd.yaml",
        )
        return Loaded(bindings=(), problems=(problem,))
    # With wrong settings the ceilings are unknown. No ceiling is better than blaming a component for the default one.
    ceilings = Limits(**{field: about.high for field, about in LIMITS.items()}) if config_failed else config.ceilings
    return load(
        [Path(path) for path in config.resources_paths],
        app_id=config.app_id,
        namespace=config.namespace,
        environ=environ,
        limits=config.limits,
        ceilings=ceilings,
        strict_sandbox=config.strict_sandbox,
        check_pattern=check_pattern,
        mounts=mount_policy(config),
    )


def _files(config: Config) -> Iterable[Problem]:
    """Yield a problem for each file of the settings that cannot be read."""
    named = [("engine.tlsCertificate", config.engine.tls_certificate), ("engine.tlsKey", config.engine.tls_key)]
    named += [("egress.caFiles", path) for path in config.egress.ca_files]
    for _, certificate, key in config.egress.client_certificates:
        named += [("egress.clientCertificates", certificate), ("egress.clientCertificates", key)]
    for key, path in named:
        if path is None:
            continue
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            message = f"{key}: {path} cannot be read: {error.strerror}"
            yield Problem(
                severity=Severity.ERROR, message=message, remedy="the path is relative to the working directory"
            )


def _patterns(config: Config, check_pattern: PatternCheck | None) -> Iterable[Problem]:
    if check_pattern is None:
        return
    patterns = [("egress.defaultAllowedHosts", pattern) for pattern in config.egress.default_allowed_hosts or ()]
    patterns += [("egress.clientCertificates", origin) for origin, _, _ in config.egress.client_certificates]
    for key, pattern in patterns:
        try:
            check_pattern(pattern)
        except ValueError as error:
            yield Problem(
                severity=Severity.ERROR,
                message=f"{key}: {pattern!r}: {error}",
                remedy="write patterns such as https://api.example.com or *",
            )


def _check_workers(config: Config) -> list[Problem]:
    try:
        # The user and group are only looked up: the user who checks need not be the one who serves.
        worker_ids(config.pool.user, config.pool.group, changing=False)
    except ConfigError as error:
        return [Problem(severity=Severity.ERROR, message=error.message, remedy=error.remedy)]
    return []


def _check_transport(config: Config, bindings: Sequence[Binding]) -> list[Problem]:
    if config.egress.transport is None:
        return []
    # Imported here: it loads the operator's own code, and an HTTP client.
    from sandboxd.worker.transport import BindingSettings, load_factory, make_adapter

    try:
        load_factory(config.egress.transport)
        for binding in bindings:
            settings = BindingSettings(name=binding.name, allowed_outbound_hosts=binding.allowed_outbound_hosts)
            make_adapter(config.egress.transport, settings)
    except ConfigError as error:
        return [Problem(severity=Severity.ERROR, message=error.message, remedy=error.remedy)]
    return []


async def _check_modules(config: Config, bindings: Sequence[Binding]) -> list[Problem]:
    async with Preparer(module_settings(config), progress=ProgressLine(sys.stderr, failures=False)) as preparer:
        results = await preparer.prepare_all(bindings)
    problems = []
    guests = []
    for binding, result in zip(bindings, results, strict=True):
        if isinstance(result, ComponentError):
            problems.append(
                Problem(
                    severity=Severity.IGNORED if binding.ignore_errors else Severity.ERROR,
                    message=result.message,
                    remedy=result.remedy,
                    file=binding.path,
                    line=binding.url_line,
                    component=binding.name,
                )
            )
        else:
            guests.append(result)
    try:
        problems.extend(faults(config, guests))
    except SandboxdError as error:
        problems.append(Problem(severity=Severity.ERROR, message=error.message, remedy=error.remedy))
    finally:
        for guest in guests:
            guest.close()
    return problems
