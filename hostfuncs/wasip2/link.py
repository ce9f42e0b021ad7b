"""Link a component: check its imports against the interfaces of this host, and define them once, before any fork.

The boundary between a component and Python is here too: no exception of a host function leaves `_callback`.
"""

import ctypes
import re
from collections.abc import Mapping
from ctypes import memmove, string_at
from typing import Any

import wasmtime
from wasmtime import component as wc

from hostfuncs.abi import capi as abi
from hostfuncs.ending import HostTrap
from hostfuncs.wasip2 import capi
from hostfuncs.wasip2.capi import VAL_SIZE
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import HostFunction, Interface
from hostfuncs.wasip2.lift import argument_lifters
from hostfuncs.wasip2.lower import lowerer
from hostfuncs.wasip2.types import Signature, matches

_INSTANCE_NAME = re.compile(r"(?P<interface>(?P<package>[^/@]+)/[^/@]+)(?:@(?P<version>.+))?")


class LinkError(ValueError):
    """The component cannot be linked with this host. The text is for the operator."""


class Linked:
    """A component with all its imports defined.

    Attributes:
        linker: address of the `wasmtime_component_linker_t`.
        component: address of the `wasmtime_component_t`.
        host: the state that the imports work on. It serves one invocation at a time.
    """

    def __init__(self, component: wc.Component, linker: wc.Linker, host: Host, kept: list[Any]) -> None:
        self._owned = (component, linker, kept)
        self.component = abi.address_of(component)
        self.linker = abi.address_of(linker)
        self.host = host

    def instantiate(self, instance: Any) -> int:
        """Make an instance in the store that `host` has entered.

        Parameters:
            instance: a buffer of `capi.INSTANCE_SIZE` bytes, which is filled in.

        Returns:
            0, or the address of a `wasmtime_error_t`, which the caller owns.
        """
        error: int | None = capi.instantiate(self.linker, self.host.context, self.component, ctypes.addressof(instance))
        return error or 0


def link(engine: wasmtime.Engine, component: wc.Component, host: Host, interfaces: Mapping[str, Interface]) -> Linked:
    """Define every import of a component.

    Parameters:
        engine: the engine that compiled the component.
        component: the component to link.
        host: the state that is passed to the host functions.
        interfaces: the interfaces on offer, by `Interface.name`.

    Raises:
        LinkError: the component imports something that this host does not have, or imports it by another type.
    """
    linker = wc.Linker(engine)
    kept: list[Any] = []
    root = capi.linker_root(abi.address_of(linker))
    try:
        for name, extern in component.type.imports(engine).items():
            found = extern.ty
            parsed = _INSTANCE_NAME.fullmatch(name)
            if parsed is None or not isinstance(found, wc.ComponentInstanceType):
                raise LinkError(f"the component imports {name!r}, which is not an interface of WASI 0.2")
            _check_version(name, parsed)
            interface = interfaces.get(parsed["interface"])
            if interface is None:
                raise LinkError(f"the component imports {name!r}, which this host does not provide")
            _define_instance(root, name, interface, found.exports(engine), host, kept)
    finally:
        capi.linker_instance_delete(root)
    return Linked(component, linker, host, kept)


def _check_version(name: str, parsed: re.Match[str]) -> None:
    version = parsed["version"] or ""
    if parsed["package"].startswith("wasi:") and not version.startswith("0.2."):
        why = "WASI 0.3 components cannot be run" if version.startswith("0.3") else "only WASI 0.2 is supported"
        raise LinkError(f"the component imports {name!r}: {why}; build it for WASI 0.2")


def _define_instance(
    root: int, name: str, interface: Interface, exports: Mapping[str, Any], host: Host, kept: list[Any]
) -> None:
    text = name.encode()
    slot = ctypes.c_void_p()
    _require(capi.add_instance(root, text, len(text), ctypes.addressof(slot)), name)
    instance = slot.value
    try:
        for item, extern in exports.items():
            found = extern.ty
            if isinstance(found, wc.FuncType):
                native = _function(interface, name, item, found, host)
                kept.append(native)
                export = item.encode()
                _require(capi.add_func(instance, export, len(export), native, None, None), f"{name} {item}")
            elif isinstance(found, wc.ResourceType):
                kept.append(_define_resource(instance, interface, name, item, host))
    finally:
        capi.linker_instance_delete(instance)


def _define_resource(instance: int | None, interface: Interface, name: str, item: str, host: Host) -> Any:
    cls = interface.resources.get(item)
    if cls is None:
        raise LinkError(f"the component imports resource {item!r} of {name!r}, which this host does not provide")
    destructor = capi.Destructor(_destructor(cls.RESOURCE, host))
    kind = capi.resource_type_new(cls.RESOURCE)
    export = item.encode()
    error = capi.add_resource(instance, export, len(export), kind, destructor, None, None)
    capi.resource_type_delete(kind)
    _require(error, f"{name} {item}")
    return destructor


def _require(error: int | None, what: str) -> None:
    if error:
        raise LinkError(f"{what} cannot be defined: {abi.take_error(error)}")


def _function(interface: Interface, name: str, item: str, found: Any, host: Host) -> Any:
    known = interface.functions.get(item)
    if known is None:
        if not interface.unreachable:
            raise LinkError(f"the component imports {item!r} of {name!r}, which this host does not provide")
        return capi.HostCallback(_trapping(f"{interface.name} {item}: {interface.unreachable}", host))
    signature, function = known
    if not matches(signature, found):
        raise LinkError(f"the component imports {item!r} of {name!r} by another type than WASI 0.2 gives it")
    return capi.HostCallback(_callback(signature, function, host))


def _trapping(message: str, host: Host) -> Any:
    def call(_data: Any, _context: Any, _type: Any, _args: Any, _count: int, _results: Any, _result_count: int) -> int:
        return host.fail(HostTrap(message))

    return call


def _destructor(kind: int, host: Host) -> Any:
    def destroy(_data: Any, _context: Any, rep: int) -> int:
        try:
            host.table.take(rep, kind).drop(host)
        except BaseException as error:  # noqa: BLE001 - the boundary, see the module's docstring
            return host.fail(error)
        return 0

    return destroy


def _callback(signature: Signature, function: HostFunction, host: Host) -> Any:
    """Return the raw callback of a host function. It has one of four forms, chosen by the number of values it takes."""
    lifts = argument_lifters(signature.params)
    size = len(lifts) * VAL_SIZE
    lower = lowerer(signature.result) if signature.result is not None else None
    fail = host.fail

    if len(lifts) == 1 and lower is not None:
        lift = lifts[0][0]

        def call_method(
            _data: Any, _context: Any, _type: Any, args: int, _count: int, results: int, _result_count: int
        ) -> int:
            try:
                memmove(results, lower(function(host, lift(string_at(args, VAL_SIZE), 0, host)), host), VAL_SIZE)
            except BaseException as error:  # noqa: BLE001 - the boundary
                return fail(error)
            return 0

        return call_method

    if lower is None:

        def call_without_result(
            _data: Any, _context: Any, _type: Any, args: int, _count: int, _results: Any, _result_count: int
        ) -> int:
            try:
                raw = string_at(args, size) if size else b""
                function(host, *[lift(raw, at, host) for lift, at in lifts])
            except BaseException as error:  # noqa: BLE001 - the boundary
                return fail(error)
            return 0

        return call_without_result

    if not lifts:

        def call_bare(
            _data: Any, _context: Any, _type: Any, _args: Any, _count: int, results: int, _result_count: int
        ) -> int:
            try:
                memmove(results, lower(function(host), host), VAL_SIZE)
            except BaseException as error:  # noqa: BLE001 - the boundary
                return fail(error)
            return 0

        return call_bare

    def call(_data: Any, _context: Any, _type: Any, args: int, _count: int, results: int, _result_count: int) -> int:
        try:
            raw = string_at(args, size)
            memmove(results, lower(function(host, *[lift(raw, at, host) for lift, at in lifts]), host), VAL_SIZE)
        except BaseException as error:  # noqa: BLE001 - the boundary
            return fail(error)
        return 0

    return call
