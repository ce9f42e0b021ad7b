"""Finds the entry points of a component, and resolves its imports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import wasmtime
from wasmtime import component as wc

from hostfuncs.running.errors import GuestError
from hostfuncs.wasip2 import INTERFACES, Host, IncomingRequest, Linked, LinkError, ResponseOutparam, link
from hostfuncs.wasip2.types import Own, Result, Signature, matches

RUN = ("wasi:cli/run", "run", Signature((), Result()))
HANDLER = ("wasi:http/incoming-handler", "handle", Signature((Own(IncomingRequest), Own(ResponseOutparam))))

OUTGOING_HANDLER = "wasi:http/outgoing-handler"
STRICT_HTTP = "can not instantiate wasi-http with strict sandbox"
"""Dapr's message (bindings/wasm, for core modules)."""

_NAME = re.compile(r"(?P<interface>[^@]+)@(?P<version>.+)")


@dataclass(frozen=True, slots=True)
class EntryPoints:
    """The functions of a component that the host can call; None for each that the component does not export."""

    run: wc.ExportIndex | None
    handle: wc.ExportIndex | None


def find_entry_points(engine: wasmtime.Engine, component: wc.Component) -> EntryPoints:
    """Find the component's exports of `wasi:cli/run` and `wasi:http/incoming-handler`.

    Raises:
        GuestError: the component exports neither, or exports one by another type, or only for a version of WASI that
            this host does not have.
    """
    exports = component.type.exports(engine)
    found = EntryPoints(
        _entry_point(engine, component, exports, *RUN), _entry_point(engine, component, exports, *HANDLER)
    )
    if found.run is None and found.handle is None:
        newer = [name for name in exports if re.match(r"wasi:(cli/run|http/(incoming-)?handler)@0\.[3-9]", name)]
        if newer:
            raise GuestError(
                f"the component exports {newer[0]}: WASI 0.3 components cannot be run; build it for WASI 0.2"
            )
        listed = ", ".join(sorted(exports)[:8]) or "nothing"
        raise GuestError(
            f"the component exports neither {RUN[0]} nor {HANDLER[0]} of WASI 0.2, so there is nothing to call; "
            f"it exports {listed}"
        )
    return found


def _entry_point(
    engine: wasmtime.Engine,
    component: wc.Component,
    exports: Mapping[str, Any],
    interface: str,
    function: str,
    signature: Signature,
) -> wc.ExportIndex | None:
    for name, extern in exports.items():
        parsed = _NAME.fullmatch(name)
        if parsed is None or parsed["interface"] != interface or not parsed["version"].startswith("0.2."):
            continue
        instance = extern.ty
        inner = instance.exports(engine).get(function) if isinstance(instance, wc.ComponentInstanceType) else None
        if inner is None or not isinstance(inner.ty, wc.FuncType) or not matches(signature, inner.ty):
            raise GuestError(f"the component exports {name} by another type than WASI 0.2 gives it")
        return component.get_export_index(function, component.get_export_index(name))
    return None


def imports_http(engine: wasmtime.Engine, component: wc.Component) -> bool:
    """Return whether a component can make outbound requests. All of them need an interface of wasi:http."""
    return any(name.startswith("wasi:http/") for name in component.type.imports(engine))


def link_component(engine: wasmtime.Engine, component: wc.Component, host: Host, *, strict: bool) -> Linked:
    """Define all imports of a component.

    Parameters:
        engine: the engine for which the component was compiled.
        component: the component.
        host: the state of the host functions.
        strict: whether to refuse outbound HTTP.

    Raises:
        GuestError: the component imports something that this host does not have, or HTTP in the strict sandbox.
    """
    if strict and any(name.startswith(OUTGOING_HANDLER) for name in component.type.imports(engine)):
        raise GuestError(STRICT_HTTP)
    try:
        return link(engine, component, host, INTERFACES)
    except LinkError as error:
        raise GuestError(str(error)) from None
