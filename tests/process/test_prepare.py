"""From a binding to an artifact: fetched, compiled once, found again, and the words where that fails.

Not tested here: the compiler's process (test_compile.py).
"""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
import wasmtime
import wasmtime.component

from sandboxd.components.binding import Binding
from sandboxd.errors import ComponentError
from sandboxd.modules.artifact import open_verified
from sandboxd.modules.errors import ModuleError
from sandboxd.modules.prepare import ModuleSettings, PreparedGuest, Preparer, Progress, compile_all
from sandboxd.modules.prune import PruneSettings
from sandboxd.worker import engine
from tests.process.test_compile import CPYTHON, ENGINE, SMALL, children


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return f"file://{path}"


def binding(url: str, name: str = "one", **options: object) -> Binding:
    return Binding(name=name, version="v1", url=url, **options)  # type: ignore[arg-type]


def settings(tmp_path: Path, **options: object) -> ModuleSettings:
    return ModuleSettings(cache=tmp_path / "cache", engine=ENGINE, **options)  # type: ignore[arg-type]


def test_a_binding_is_compiled_once_and_then_found(tmp_path: Path) -> None:
    url = write(tmp_path / "my-guest.wasm", SMALL)
    steps: list[Progress] = []

    async def main() -> None:
        async with Preparer(settings(tmp_path), progress=steps.append) as preparer:
            guests = await preparer.prepare_all([binding(url, name) for name in ("a", "b", "c")])
            for guest in guests:
                assert isinstance(guest, PreparedGuest)
                assert (guest.kind, guest.abi, guest.scheme) == ("module", "none", "file")
                assert guest.binding.argv0 == "my-guest"
                assert guest.digest == hashlib.sha256(SMALL).hexdigest()
                guest.close()
            assert sorted(g.cached for g in guests if isinstance(g, PreparedGuest)) == [False, True, True]
        async with Preparer(settings(tmp_path)) as again:
            guest = await again.prepare(binding(url))
            assert guest.cached
            guest.close()

    asyncio.run(main())
    assert [s.phase for s in steps].count("compile") == 1
    assert sorted(s.binding for s in steps if s.phase == "ready") == ["a", "b", "c"]
    assert sorted(s.detail for s in steps if s.phase == "ready") == ["cached", "cached", "compiled"]


def test_damage_to_the_cache_is_repaired_by_compiling_again(tmp_path: Path) -> None:
    url = write(tmp_path / "guest.wasm", SMALL)

    async def prepare() -> PreparedGuest:
        async with Preparer(settings(tmp_path)) as preparer:
            return await preparer.prepare(binding(url))

    first = asyncio.run(prepare())
    first.close()
    path = Path(first.artifact.path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = asyncio.run(prepare())
    assert not again.cached
    with open_verified(again.artifact.path) as opened:
        wasmtime.Module.deserialize_file(engine.build(ENGINE), opened)
    again.close()


def test_failures_name_the_component_in_daprd_s_words_and_do_not_touch_others(tmp_path: Path) -> None:
    good = write(tmp_path / "good.wasm", SMALL)
    http = bytes(wasmtime.wat2wasm('(module (import "types" "drop-fields" (func (param i32))))'))
    cases = {
        binding(f"file://{tmp_path}/none.wasm", "missing"): "open .*/none.wasm: no such file or directory",
        binding(
            write(tmp_path / "text.wasm", b"(module)"), "text"
        ): "wasm: error compiling binary: invalid magic number",
        binding(write(tmp_path / "cut.wasm", SMALL[:-1]), "cut"): "wasm: error compiling binary: ",
        binding(write(tmp_path / "http.wasm", http), "strict", strict_sandbox=True): (
            "can not instantiate wasi-http with strict sandbox"
        ),
        binding(good, "pinned", sha256="0" * 64): "has sha256 .* and the component pins",
        binding("oci://x", "oci"): "wasm: failed to parse metadata: TODO oci",
    }
    steps: list[Progress] = []

    async def main() -> None:
        results = await compile_all([*cases, binding(good, "good")], settings(tmp_path), progress=steps.append)
        for (bad, text), result in zip(cases.items(), results[:-1], strict=True):
            assert isinstance(result, ComponentError)
            assert isinstance(result.__cause__, ModuleError)
            start = (
                f"process component {bad.name} error: [INIT_COMPONENT_FAILURE]: initialization error occurred for "
                f"{bad.name} (bindings.wasm/v1): "
            )
            assert result.message.startswith(start)
            with pytest.raises(ComponentError, match=text):
                raise result
            assert result.exit_code == 65
        assert isinstance(results[-1], PreparedGuest)

    asyncio.run(main())
    assert sorted(s.binding for s in steps if s.phase == "failed") == sorted(b.name for b in cases)


def test_init_timeout_ends_a_compilation(tmp_path: Path) -> None:
    before = children()
    slow = binding(f"file://{CPYTHON}", "slow", init_timeout_s=1.0)

    async def main() -> None:
        async with Preparer(settings(tmp_path, min_init_timeout_s=0.0)) as preparer:
            with pytest.raises(ComponentError) as caught:
                await preparer.prepare(slow)
            assert "init timeout for component slow (bindings.wasm/v1) exceeded after 1s" in caught.value.message

    asyncio.run(main())
    assert children() <= before


def test_compile_all_prunes_what_nothing_uses(tmp_path: Path) -> None:
    url = write(tmp_path / "guest.wasm", SMALL)
    other = write(tmp_path / "other.wasm", bytes(wasmtime.wat2wasm("(module)")))

    async def main() -> None:
        await compile_all([binding(url)], settings(tmp_path))
        for path in (tmp_path / "cache").rglob("*.json"):
            os.utime(path, (0, 0))
        await compile_all([binding(other)], settings(tmp_path, prune=PruneSettings(max_age_s=1000)))

    asyncio.run(main())
    digest = hashlib.sha256(Path(other.removeprefix("file://")).read_bytes()).hexdigest()
    (left,) = (tmp_path / "cache").rglob("*.json")
    assert left.name.startswith(digest)
    assert len(list((tmp_path / "cache").rglob("*.cwasm"))) == 1
