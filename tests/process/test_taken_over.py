"""A reload takes over the guests whose local files have not changed, and reads and compiles the others."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import wasmtime

from sandboxd.components.binding import Binding
from sandboxd.errors import ComponentError
from sandboxd.files import state
from sandboxd.modules.prepare import ModuleSettings, PreparedGuest, Preparer
from sandboxd.modules.store import Store


def guest_bytes(name: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f'(module (memory (export "memory") 1) (func (export "_start")) (func ${name}))'))


SMALL = guest_bytes("a")
OTHER = SMALL + b"\0\x05\x04more"
"""The same module with a custom section."""


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guest's file. Its state counts as settled at once."""
    monkeypatch.setattr(state, "SETTLED_NS", 0)
    file = tmp_path / "guest.wasm"
    file.write_bytes(SMALL)
    return file


def settings(tmp_path: Path) -> ModuleSettings:
    return ModuleSettings(cache=tmp_path / "cache")


def binding(file: Path, **fields: object) -> Binding:
    return Binding(name="guest", version="v1", url=f"file://{file}", **fields)  # type: ignore[arg-type]


def load(
    tmp_path: Path, wanted: Sequence[Binding], former: Sequence[PreparedGuest] = ()
) -> list[PreparedGuest | ComponentError]:
    async def prepare() -> list[PreparedGuest | ComponentError]:
        async with Preparer(settings(tmp_path), former=former) as preparer:
            return await preparer.prepare_all(wanted)

    return asyncio.run(prepare())


def one(found: list[PreparedGuest | ComponentError]) -> PreparedGuest:
    (guest,) = found
    assert isinstance(guest, PreparedGuest)
    return guest


def forget_index(tmp_path: Path) -> None:
    """Without its index, the store finds no artifact: who looks for one there compiles the guest again."""
    for entry in Path(Store(tmp_path / "cache").path, "index").iterdir():
        entry.unlink()


def test_an_unchanged_guest_is_neither_read_nor_looked_for(tmp_path: Path, guest: Path) -> None:
    first = one(load(tmp_path, [binding(guest)]))
    assert not first.cached
    forget_index(tmp_path)
    second = one(load(tmp_path, [binding(guest, content_type="text/plain")], [first]))
    assert second.cached
    assert second.binding.content_type == "text/plain"
    assert (second.digest, second.artifact.path, second.kind) == (first.digest, first.artifact.path, first.kind)
    first.close()
    third = one(load(tmp_path, [binding(guest)], [second]))
    assert third.cached, "its artifact is held by a lock of its own"
    second.close()
    third.close()


def test_a_guest_that_changed_is_read_again(tmp_path: Path, guest: Path) -> None:
    first = one(load(tmp_path, [binding(guest)]))
    before = guest.stat()
    guest.write_bytes(OTHER)
    os.utime(guest, ns=(before.st_atime_ns, before.st_mtime_ns))  # only the time of the last change tells
    second = one(load(tmp_path, [binding(guest)], [first]))
    assert second.digest != first.digest
    assert not second.cached


def test_a_file_that_changed_just_before_it_was_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SETTLED_NS", 3600 * 10**9)  # however long the machine takes to read it
    file = tmp_path / "guest.wasm"
    file.write_bytes(SMALL)
    first = one(load(tmp_path, [binding(file)]))
    assert first.file is None
    forget_index(tmp_path)
    assert not one(load(tmp_path, [binding(file)], [first])).cached


def test_an_artifact_that_was_removed_is_compiled_again(tmp_path: Path, guest: Path) -> None:
    first = one(load(tmp_path, [binding(guest)]))
    Path(first.artifact.path).unlink()
    second = one(load(tmp_path, [binding(guest)], [first]))
    assert not second.cached
    assert Path(second.artifact.path).is_file()


def test_a_guest_that_was_closed_is_not_taken_over(tmp_path: Path, guest: Path) -> None:
    first = one(load(tmp_path, [binding(guest)]))
    first.close()
    forget_index(tmp_path)
    assert not one(load(tmp_path, [binding(guest)], [first])).cached


def test_a_pin_that_no_longer_fits_is_an_error(tmp_path: Path, guest: Path) -> None:
    first = one(load(tmp_path, [binding(guest)]))
    assert one(load(tmp_path, [binding(guest, sha256=first.digest)], [first])).cached
    (failure,) = load(tmp_path, [binding(guest, sha256="0" * 64)], [first])
    assert isinstance(failure, ComponentError)
    assert "and the component pins" in failure.message


def test_a_guest_that_the_binding_now_refuses_is_an_error(tmp_path: Path, guest: Path) -> None:
    wat = '(module (import "types" "new-fields" (func (param i32 i32) (result i32))) (func (export "_start")))'
    guest.write_bytes(bytes(wasmtime.wat2wasm(wat)))
    first = one(load(tmp_path, [binding(guest)]))
    (failure,) = load(tmp_path, [binding(guest, strict_sandbox=True)], [first])
    assert isinstance(failure, ComponentError)


def test_a_guest_whose_file_is_gone_is_an_error(tmp_path: Path, guest: Path) -> None:
    first = one(load(tmp_path, [binding(guest)]))
    guest.unlink()
    (failure,) = load(tmp_path, [binding(guest)], [first])
    assert isinstance(failure, ComponentError)
    assert "no such file" in failure.message


def test_bindings_of_one_guest_and_new_ones_keep_their_order(tmp_path: Path, guest: Path) -> None:
    other = tmp_path / "other.wasm"
    other.write_bytes(OTHER)
    first = one(load(tmp_path, [binding(guest)]))
    wanted = [binding(other), binding(guest), binding(guest), binding(other)]
    found = load(tmp_path, wanted, [first])
    assert [isinstance(g, PreparedGuest) and g.binding for g in found] == wanted
    assert [isinstance(g, PreparedGuest) and g.digest == first.digest for g in found] == [False, True, True, False]
