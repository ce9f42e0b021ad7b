"""Reads a guest's kind, imports and exports from its bytes, without wasmtime, and refuses guests that cannot run here.

It does not validate the guest; the compiler does that, in its subprocess. Guests that could never run are refused here,
early and in clear words. Formats: WebAssembly core specification, section 5.5; component-model, design/mvp/Binary.md.
"""

from dataclasses import dataclass
from enum import StrEnum

from hostfuncs.imports import LEGACY_HTTP, WASIP1, WASIP1_FUNCTIONS
from sandboxd.modules.binary import MalformedError, Reader
from sandboxd.modules.errors import RefusedError
from sandboxd.wire.messages import GuestKind

COMPILE_PREFIX = "wasm: error compiling binary: "
"""Dapr's prefix of the compiler's messages (bindings/wasm/output.go)."""

MAGIC = b"\0asm"
CORE_VERSION = b"\x01\0\0\0"
COMPONENT_LAYER = b"\x01\0"

MAX_IMPORTS = 10_000
MAX_EXPORTS = 200_000

WASIP2_PACKAGES = frozenset({"io", "http", "cli", "clocks", "filesystem", "sockets", "random"})

_CORE_EXTERNS = ("func", "table", "memory", "global", "tag")
_COMPONENT_EXTERNS = ("core module", "func", "value", "type", "component", "instance")


@dataclass(frozen=True, slots=True)
class Import:
    """One import. In a component, `module` is empty and `name` is the interface."""

    module: str
    name: str
    kind: str


class Abi(StrEnum):
    """The interface by which a guest is run: the `abi` label of `sandboxd_module_info`."""

    NONE = "none"
    """A module that imports no WASI."""
    WASIP1 = "wasip1"
    WASIP1_HTTP = "wasip1-http"
    """A module that imports Dapr's wasi-http, too."""
    WASIP2_COMMAND = "wasip2-command"
    WASIP2_PROXY = "wasip2-proxy"
    WASIP2_COMMAND_PROXY = "wasip2-command-proxy"
    """A component that exports both."""
    WASIP2_OTHER = "wasip2-other"
    """A component that exports neither; it is refused."""

    @property
    def is_program(self) -> bool:
        """Whether it can be run as a command. A module without `_start` counts: it loads, and does nothing."""
        return self not in (Abi.WASIP2_PROXY, Abi.WASIP2_OTHER)

    @property
    def handles_http(self) -> bool:
        """Whether it can be called with an HTTP request."""
        return self in (Abi.WASIP2_PROXY, Abi.WASIP2_COMMAND_PROXY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preamble:
    """A guest's kind, imports and exports."""

    kind: GuestKind
    imports: tuple[Import, ...] = ()
    exports: frozenset[str] = frozenset()
    """The names of the exported functions (module) or of all exports (component)."""
    memory64: bool = False
    """Whether a memory, defined or imported, has 64-bit addresses."""
    memories: int = 0
    """The number of a core module's memories, imported ones included."""

    @property
    def imports_http(self) -> bool:
        """Whether it imports HTTP requests: Dapr's wasi-http (module) or wasi:http (component)."""
        if self.kind is GuestKind.COMPONENT:
            return any(i.name.startswith("wasi:http/") for i in self.imports)
        return any(i.module in LEGACY_HTTP for i in self.imports)

    @property
    def abi(self) -> Abi:
        """The interface by which it is run."""
        if self.kind is GuestKind.COMPONENT:
            command = any(e.startswith("wasi:cli/run@") for e in self.exports)
            if any(e.startswith("wasi:http/incoming-handler@") for e in self.exports):
                return Abi.WASIP2_COMMAND_PROXY if command else Abi.WASIP2_PROXY
            return Abi.WASIP2_COMMAND if command else Abi.WASIP2_OTHER
        if self.imports_http:
            return Abi.WASIP1_HTTP
        return Abi.WASIP1 if any(i.module == WASIP1 for i in self.imports) else Abi.NONE


def read(data: bytes) -> Preamble:
    """Read a guest's kind, imports and exports.

    Parameters:
        data: the whole file; it may be hostile.
    Raises:
        RefusedError: it is not a WebAssembly binary (in Dapr's words: `invalid magic number`, `invalid version
            header`), or its import or export section cannot be read.
    """
    if data[:4] != MAGIC:
        raise RefusedError(f"{COMPILE_PREFIX}invalid magic number", remedy=_what_it_looks_like(data))
    if len(data) < 8 or (data[4:8] != CORE_VERSION and data[6:8] != COMPONENT_LAYER):
        raise RefusedError(
            f"{COMPILE_PREFIX}invalid version header", remedy="the file is cut off, or newer than this server knows"
        )
    try:
        return _component(data) if data[6:8] == COMPONENT_LAYER else _module(data)
    except MalformedError as error:
        raise RefusedError(f"{COMPILE_PREFIX}{error}", remedy="the file is damaged; build or fetch it again") from error


def refuse(guest: Preamble, *, strict_sandbox: bool) -> None:
    """Refuse a guest that cannot run here, before time is spent on compiling it.

    Parameters:
        guest: the guest as `read` returned it.
        strict_sandbox: whether the binding has strictSandbox.
    Raises:
        RefusedError: the guest needs an ABI or import that sandboxd does not provide, or 64-bit or several memories, or
            wasi-http under strictSandbox (Dapr's message, bindings/wasm/output.go).
    """
    if guest.kind is GuestKind.COMPONENT:
        _refuse_component(guest)
    else:
        _refuse_module(guest)
    if strict_sandbox and guest.imports_http:
        raise RefusedError(
            "can not instantiate wasi-http with strict sandbox",
            remedy="remove strictSandbox from the component, or use a guest that imports no HTTP",
        )


def _what_it_looks_like(data: bytes) -> str:
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"(module", b"(component", b";;", b"(;")):
        return "the file is WebAssembly text; convert it with wat2wasm first"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "the file is a web page; the URL must lead to the binary itself"
    if data.startswith(b"version https://git-lfs"):
        return "the file is a Git LFS pointer; fetch the file to which it points"
    if data.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")):
        return "the file is compressed; unpack it first"
    if data.startswith(b"\x7fELF"):
        return "the file is a native program or a precompiled artifact; use the .wasm from which it was made"
    if not data:
        return "the file is empty; build or fetch it again"
    return "the file is not a WebAssembly binary; name the .wasm that the compiler made"


def _refuse_module(guest: Preamble) -> None:
    modules = {i.module for i in guest.imports}
    if "wasi_unstable" in modules:
        raise RefusedError(
            "wasm: error instantiating host functions: module[wasi_unstable] not instantiated",
            remedy="the guest was built for the snapshot before WASI preview 1; rebuild it for wasi_snapshot_preview1 "
            "(target wasm32-wasip1)",
        )
    if guest.memory64:
        raise RefusedError(
            f"{COMPILE_PREFIX}64-bit memory is not supported",
            remedy="WASI preview 1 has 32-bit pointers; build for wasm32",
        )
    if guest.memories > 1:
        # The memory limit applies to each memory. WASI preview 1 has one memory, and wazero supports one.
        raise RefusedError(
            f"{COMPILE_PREFIX}the guest has {guest.memories} memories and may have only one",
            remedy="build it without the multi-memory feature",
        )
    for i in guest.imports:
        known = i.module in LEGACY_HTTP or (i.module == WASIP1 and i.name in WASIP1_FUNCTIONS)
        if not known or i.kind != "func":
            raise RefusedError(
                f"wasm: error instantiating host functions: {i.kind} {i.module}.{i.name} is imported "
                f"and there is no such host function{_built_with_threads(i)}",
                remedy=_import_remedy(i),
            )


def _import_remedy(i: Import) -> str:
    if i.module == "wasi" and i.name == "thread-spawn":
        return "threads are not supported; build without them (target wasm32-wasip1, not -threads)"
    if i.kind == "memory":
        return "build it without threads: without -pthread, and for wasm32-wasip1 instead of wasm32-wasip1-threads"
    if i.module in ("gojs", "go"):
        return "the guest was built for browsers (GOOS=js); build it with GOOS=wasip1"
    if i.module in ("wbg", "__wbindgen_placeholder__"):
        return "the guest was built for wasm-bindgen; build it for wasm32-wasip1"
    if i.module.startswith("wasi:"):
        return "this is the core module of a component; make the component from it with wasm-tools component new"
    if i.module == "env" and i.name == "abort":
        return "AssemblyScript needs a host for this; build with the package @assemblyscript/wasi-shim (asc --config)"
    if i.module == "http_handler":
        return "this is a guest of Dapr's middleware.http.wasm, not of bindings.wasm; leave it to daprd"
    return f"guests may import {WASIP1} and Dapr's wasi-http ({', '.join(LEGACY_HTTP)})"


def _refuse_component(guest: Preamble) -> None:
    for name in sorted({i.name for i in guest.imports} | guest.exports):
        if name.startswith("wasi:") and "@0.3." in name:
            raise RefusedError(
                f"wasm: error instantiating host functions: {name} is WASI 0.3, which is not supported",
                remedy="sandboxd runs WASI 0.2.0 to 0.2.12; build the guest for wasm32-wasip2",
            )
    for i in guest.imports:
        package, _, version = i.name.partition("@")
        namespace, _, rest = package.partition(":")
        supported = namespace == "wasi" and rest.partition("/")[0] in WASIP2_PACKAGES and _is_0_2(version)
        if not supported:
            raise RefusedError(
                f"wasm: error instantiating host functions: {i.kind} {i.name} is imported and is not provided",
                remedy="components may import wasi:io, http, cli, clocks, filesystem, sockets and random of WASI 0.2",
            )
    if guest.abi is Abi.WASIP2_OTHER:
        raise RefusedError(
            "wasm: the component exports neither wasi:cli/run nor wasi:http/incoming-handler of WASI 0.2",
            remedy="build it as a command (wasi:cli/command) or as an HTTP handler (wasi:http/proxy)",
        )


def _is_0_2(version: str) -> bool:
    major_minor, _, patch = version.rpartition(".")
    return major_minor == "0.2" and patch.isdecimal()


def _module(data: bytes) -> Preamble:
    imports: list[Import] = []
    exports: set[str] = set()
    memory64 = False
    memories = 0
    for number, section in Reader(data, 8).sections():
        if number == 2:
            for _ in range(section.count("imports", MAX_IMPORTS)):
                module, name = section.name(), section.name()
                kind = section.choice(_CORE_EXTERNS, "import kind")
                memory64 |= _core_extern(section, kind)
                memories += kind == "memory"
                imports.append(Import(module, name, kind))
        elif number == 5:
            own = section.count("memories", MAX_IMPORTS)
            memories += own
            for _ in range(own):
                memory64 |= section.limits()
        elif number == 7:
            for _ in range(section.count("exports", MAX_EXPORTS)):
                name = section.name()
                if section.choice(_CORE_EXTERNS, "export kind") == "func":
                    exports.add(name)
                section.u32()
    return Preamble(
        kind=GuestKind.MODULE, imports=tuple(imports), exports=frozenset(exports), memory64=memory64, memories=memories
    )


def _core_extern(section: Reader, kind: str) -> bool:
    """Skip an import's description. Return whether it is a memory with 64-bit addresses."""
    if kind == "func":
        section.u32()
    elif kind == "table":
        section.value_type()
        section.limits()
    elif kind == "memory":
        return section.limits()
    elif kind == "global":
        section.value_type()
        section.byte()
    else:
        section.byte()
        section.u32()
    return False


def _component(data: bytes) -> Preamble:
    imports: list[Import] = []
    exports: set[str] = set()
    for number, section in Reader(data, 8).sections():
        if number == 10:
            for _ in range(section.count("imports", MAX_IMPORTS)):
                name = section.extern_name()
                imports.append(Import("", name, _component_extern(section)))
        elif number == 11:
            for _ in range(section.count("exports", MAX_EXPORTS)):
                exports.add(section.extern_name())
                if section.byte() == 0:  # a core sort has a second byte
                    section.byte()
                section.u32()
                if section.byte() == 1:
                    _component_extern(section)
    return Preamble(kind=GuestKind.COMPONENT, imports=tuple(imports), exports=frozenset(exports))


def _component_extern(section: Reader) -> str:
    kind = section.choice(_COMPONENT_EXTERNS, "import kind")
    if kind == "core module":
        section.byte()
        section.u32()
    elif kind == "value":
        if section.byte() == 0:
            section.u32()
        else:
            section.value_type()
    elif kind == "type":
        if section.byte() == 0:
            section.u32()
    else:
        section.u32()
    return kind


def _built_with_threads(imported: Import) -> str:
    """Return the likely cause of an imported memory: targets with threads share theirs."""
    return ": the guest was built with threads, which sandboxd does not have" if imported.kind == "memory" else ""
