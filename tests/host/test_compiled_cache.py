"""What a program keeps in its cache folder, and what it refuses to load from there."""

import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import wasmtime

from hostfuncs import GuestError, Program
from tests.guests import path as guest


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The guests that were compiled."""
    seen: list[bytes] = []
    compile_module = wasmtime.Module.__init__

    def counted(module: wasmtime.Module, engine: wasmtime.Engine, data: bytes) -> None:
        seen.append(data)
        compile_module(module, engine, data)

    monkeypatch.setattr(wasmtime.Module, "__init__", counted)
    return seen


def upper(cache: Path) -> bytes:
    with Program(guest("upper"), cache=cache) as program:
        return program.run(stdin=b"hello").stdout


def test_the_second_program_compiles_nothing(tmp_path: Path, compiled: list[bytes]) -> None:
    folder = tmp_path / "a" / "cache"
    assert upper(folder) == b"HELLO"
    assert upper(folder) == b"HELLO"
    assert len(compiled) == 1
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [entry.suffix for entry in folder.iterdir()] == [".compiled"]


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "another engine", "writable", "link", "fifo"])
def test_a_file_that_is_not_to_be_trusted_is_replaced(tmp_path: Path, compiled: list[bytes], damage: str) -> None:
    upper(tmp_path)
    [kept] = tmp_path.iterdir()
    content = kept.read_bytes()
    if damage == "cut":
        kept.write_bytes(content[:-1])
    elif damage == "empty":
        kept.write_bytes(b"")
    elif damage == "changed":
        kept.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    elif damage == "another engine":
        code = wasmtime.Module(wasmtime.Engine(), guest("upper").read_bytes()).serialize()
        compiled.pop()
        kept.write_bytes(sha256(code).digest() + code)
    elif damage == "writable":
        kept.chmod(0o666)
    else:
        kept.rename(tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", kept) if damage == "link" else os.mkfifo(kept)
    assert upper(tmp_path) == b"HELLO"
    assert len(compiled) == 2
    assert upper(tmp_path) == b"HELLO"
    assert len(compiled) == 2
    assert kept.is_file()
    assert not kept.is_symlink()


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match=r"other users may write into .*/open.*chmod go-w"):
        Program(guest("upper"), cache=folder)


def test_a_guest_that_cannot_be_compiled_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(GuestError):
        Program(b"\0asm\1\0\0\0garbage", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanished_keeps_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    compile_guest = wasmtime.Module.__init__

    def vanish(*arguments: object) -> None:
        compile_guest(*arguments)  # type: ignore[arg-type]
        shutil.rmtree(folder)

    monkeypatch.setattr(wasmtime.Module, "__init__", vanish)
    assert upper(folder) == b"HELLO"
    assert "the compiled guest cannot be stored" in caplog.text


def test_what_was_not_used_for_long_is_removed(tmp_path: Path) -> None:
    upper(tmp_path)
    [kept] = tmp_path.iterdir()
    other = tmp_path / "notes.txt"
    other.write_text("not ours")
    os.utime(kept, (0, 0))
    os.utime(other, (0, 0))
    upper(tmp_path)  # uses it
    assert kept.exists()
    os.utime(kept, (0, 0))
    with Program(guest("args"), cache=tmp_path):
        assert not kept.exists()
    assert other.exists()
