"""The transport that an operator puts between guests and the network: `egress.transport`.

Loaded only where the setting is given. Everything happens before the fork, because workers can neither import modules
nor open files.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hostfuncs import texts
from hostfuncs.outbound.httpx_adapter import HttpxAdapter, Transport
from sandboxd.errors import ConfigError, one_line

_FRAMES = 3
"""Frames of a traceback that a line of log names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BindingSettings:
    """The binding that a transport is for, as its factory is told."""

    name: str
    allowed_outbound_hosts: tuple[str, ...] | None
    """The patterns of its component; None if the component sets none."""


Factory = Callable[[Transport, BindingSettings], Transport]
"""Makes the transport of a binding around the inner transport, a `hostfuncs.outbound.transport.PolicyTransport`."""


def load_factory(named: str) -> Factory:
    """Import the function that `egress.transport` names.

    Parameters:
        named: `package.module:factory`.

    Raises:
        ConfigError: it cannot be imported, or is not a function.
    """
    module_name, _, function_name = named.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"egress.transport: {named} cannot be loaded: {type(error).__name__}: {error}",
            remedy="install its package beside sandboxd, or put the folder's absolute path in PYTHONPATH",
        ) from error
    if not callable(factory):
        raise ConfigError(f"egress.transport: {named} is of type {type(factory).__name__}, not a function")
    loaded: Factory = factory
    return loaded


def make_adapter(named: str, binding: BindingSettings) -> HttpxAdapter:
    """Make the transport of a binding.

    Parameters:
        named: as for `load_factory`.
        binding: whose guest's requests it carries.

    Raises:
        ConfigError: the factory cannot be loaded, raised, or returned no transport.
    """
    factory = load_factory(named)
    try:
        return HttpxAdapter(lambda inner: factory(inner, binding), partial(_report, binding.name))
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"egress.transport: {named} failed for the binding {binding.name}: {type(error).__name__}: {error}",
            remedy="the factory takes the inner transport and the binding, and returns an httpx2.AsyncBaseTransport",
        ) from error


def _report(binding: str, failed: BaseException) -> None:
    """Write one line to stderr, from where the front takes it to the log. Reads no source file: a worker cannot."""
    places = [f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_tb(failed.__traceback__)]
    where = ", ".join(places[: -_FRAMES - 1 : -1])
    text = texts.bounded(f"{binding}: egress.transport raised {type(failed).__name__}: {failed} ({where})")
    print(one_line(text), file=sys.stderr, flush=True)
