"""`sandboxd check`: everything wrong with the settings, the components and, if asked, the modules."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from sandboxd.components.binding import Binding
from sandboxd.components.loader import Loaded, load
from sandboxd.components.metadata import PatternCheck
from sandboxd.config import Config, Reading, read
from sandboxd.limit_keys import LIMITS
from sandboxd.limits import Limits
from sandboxd.problems import Problem, Severity, one_line

ModuleCheck = Callable[[Sequence[Binding], Config], Iterable[Problem]]
"""Tries to fetch and compile the modules of the bindings and reports what fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a check found."""

    problems: tuple[Problem, ...]
    bindings: tuple[Binding, ...]
    """Those that can be served."""
    reading: Reading

    @property
    def count(self) -> int:
        """Problems to repair: all but notes."""
        return sum(problem.severity is not Severity.NOTE for problem in self.problems)


def check(
    config_path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    check_modules: ModuleCheck | None = None,
    check_pattern: PatternCheck | None = None,
) -> Checked:
    """Validate sandboxd.yaml, all component folders it (or `overrides`) names, and the modules.

    Components are checked although the settings are wrong, with the defaults in place of what is wrong.

    Parameters:
        config_path: sandboxd.yaml; None if there is none.
        environ: the environment.
        overrides: settings of the command line, as for sandboxd.config.load; `resourcesPaths` is --resources-path.
        check_modules: called with the bindings that can be made; None leaves modules alone.
        check_pattern: raises ValueError for what is no egress pattern; None accepts all.
    """
    reading = read(config_path, environ=environ, overrides=overrides)
    config = reading.fallback
    problems = [*reading.problems, *_files(config), *_patterns(config, check_pattern)]
    loaded = _components(config, reading.config is None, environ, check_pattern)
    problems.extend(loaded.problems)
    bindings = loaded.bindings
    if check_modules is not None:
        found = list(check_modules(bindings, config))
        problems.extend(found)
        unfit = {problem.component for problem in found}
        bindings = tuple(binding for binding in bindings if binding.name not in unfit)
    return Checked(problems=tuple(problems), bindings=bindings, reading=reading)


def report(checked: Checked, out: TextIO) -> int:
    """Print every problem as `file:line: severity: message (remedy)` and a line that counts them.

    Returns:
        the number of problems to repair.
    """
    for problem in checked.problems:
        print(problem, file=out)
    names = ", ".join(binding.name for binding in checked.bindings)
    bindings = f"bindings that can be served: {names}" if names else "no binding can be served"
    count = checked.count
    print(one_line(f"{count} {'problem' if count == 1 else 'problems'}; {bindings}"), file=out)
    return count


def _components(
    config: Config, config_failed: bool, environ: Mapping[str, str], check_pattern: PatternCheck | None
) -> Loaded:
    if not config.resources_paths:
        problem = Problem(
            severity=Severity.ERROR,
            message="no folder of components is named",
            remedy="give --resources-path, or resourcesPaths in sandboxd.yaml",
        )
        return Loaded(bindings=(), components=(), problems=(problem,))
    # With wrong settings the ceilings are not known: none is better than blaming a component for the default ones.
    ceilings = Limits(**{row.field: row.high for row in LIMITS}) if config_failed else config.ceilings
    return load(
        [Path(path) for path in config.resources_paths],
        app_id=config.app_id,
        namespace=config.namespace,
        environ=environ,
        limits=config.limits,
        ceilings=ceilings,
        strict_sandbox=config.strict_sandbox,
        check_pattern=check_pattern,
    )


def _files(config: Config) -> Iterable[Problem]:
    """Files the settings name and that cannot be read."""
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
