"""Finds the target of `sandboxd run`: a file, the binding of a component file, or a binding by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sandboxd.components import Loaded
from sandboxd.components.binding import Binding
from sandboxd.config import Config
from sandboxd.errors import ExitCode, SandboxdError, one_line
from sandboxd.files.problems import Problem, Severity
from sandboxd.limits import units
from sandboxd.server.translate import check_pattern, read_components


def binding_of(config: Config, environ: Mapping[str, str], target: str, folders: Sequence[str]) -> Binding:
    """Return the binding to run.

    Parameters:
        config: all settings.
        environ: for `envRef` in components.
        target: a `.wasm` file, a component file, or the name of a binding.
        folders: of component files, in which a name is looked for.

    Raises:
        SandboxdError: there is no such binding, or its component has a mistake.
    """
    path = Path(target)
    if path.suffix.lower() in (".yaml", ".yml"):
        if not path.is_file():
            raise SandboxdError(one_line(f"{target} is not a file"), exit_code=ExitCode.COMPONENT)
        return _in_file(read_components(config, environ, (str(path.parent),)), path)
    if path.suffix or "/" in target or path.exists():
        return Binding(name=path.stem or "guest", version="v1", url=f"file://{path.absolute()}")
    if not folders:
        raise SandboxdError(
            one_line(f"{target} is not a file"),
            remedy="to run a binding by its name, say with --resources-path where its component is",
            exit_code=ExitCode.COMPONENT,
        )
    loaded = read_components(config, environ, folders)
    problems = [problem for problem in loaded.problems if problem.component == target]
    return _one([binding for binding in loaded.bindings if binding.name == target], problems, target, loaded)


def _in_file(loaded: Loaded, path: Path) -> Binding:
    found = [binding for binding in loaded.bindings if _same(binding.path, path)]
    problems = [problem for problem in loaded.problems if problem.place.startswith((f"{path}:", str(path)))]
    return _one(found, problems, str(path), loaded)


def _same(one: Path, other: Path) -> bool:
    return one.absolute() == other.absolute()


def _one(found: Sequence[Binding], problems: Sequence[Problem], target: str, loaded: Loaded) -> Binding:
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(binding.name for binding in found)
        raise SandboxdError(
            one_line(f"{target} has several bindings: {names}"),
            remedy="give the name of one, and its folder with --resources-path",
            exit_code=ExitCode.USAGE,
        )
    grave = (Severity.ERROR, Severity.IGNORED)
    for problem in sorted(problems, key=lambda problem: problem.severity not in grave):
        raise SandboxdError(
            one_line(f"{problem.place}: {problem.message}"), remedy=problem.remedy, exit_code=ExitCode.COMPONENT
        )
    known = ", ".join(binding.name for binding in loaded.bindings) or "none"
    raise SandboxdError(
        one_line(f"there is no binding {target}; there are: {known}"),
        remedy="sandboxd check names what is wrong with the components",
        exit_code=ExitCode.COMPONENT,
    )


def allowing(binding: Binding, hosts: Sequence[str]) -> Binding:
    """Return a binding that may also call these hosts, patterns as of `allowedOutboundHosts`.

    Raises:
        SandboxdError: one is not a pattern.
    """
    for pattern in hosts:
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise SandboxdError(one_line(f"--allow-host {pattern}: {error}"), exit_code=ExitCode.USAGE) from error
    return (
        replace(binding, allowed_outbound_hosts=(*(binding.allowed_outbound_hosts or ()), *hosts)) if hosts else binding
    )


def limited(binding: Binding, *, timeout: str | None, memory: str | None) -> Binding:
    """Return a binding with other limits, as an operator writes them; None leaves its own.

    Raises:
        SandboxdError: one is not a duration or size.
    """
    limits = binding.limits
    try:
        if timeout is not None:
            limits = replace(limits, timeout_ms=units.parse_duration_ms(timeout))
    except ValueError as error:
        raise SandboxdError(f"--timeout: {error}", exit_code=ExitCode.USAGE) from error
    try:
        if memory is not None:
            limits = replace(limits, memory_bytes=units.parse_size(memory))
    except ValueError as error:
        raise SandboxdError(f"--memory-limit: {error}", exit_code=ExitCode.USAGE) from error
    return replace(binding, limits=limits)
