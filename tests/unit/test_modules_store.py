"""The artifact store: nothing is loaded that is cut off, changed, or made for another guest or machine.

Not tested here: compiling (process/test_compile.py). Artifacts are arbitrary bytes except where wasmtime loads one.
"""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from sandboxd.limits import EngineSettings
from sandboxd.modules import download_cache, fingerprint
from sandboxd.modules.artifact import open_verified
from sandboxd.modules.errors import StoreError
from sandboxd.modules.fingerprint import Fingerprint
from sandboxd.modules.index_key import NAME
from sandboxd.modules.store import Store
from tests.unit.stores import FP, MODULE, OTHER, load, put


def overwrite(path: Path, content: bytes) -> None:
    """Overwrite in place: ext4 writes a file that was truncated first to the disk at once, in each step of a sweep."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def test_what_is_put_in_is_found_and_loaded(store: Store) -> None:
    artifact = put(store, b"machine code")
    digest = hashlib.sha256(b"machine code").hexdigest()
    assert (artifact.digest, artifact.kind, artifact.bytes) == (digest, "module", 12)
    found = Store(store.cache).find(MODULE, FP)
    assert found is not None
    assert (found.path, found.digest) == (artifact.path, digest)
    assert load(found) == b"machine code"
    assert store.find(OTHER, FP) is None
    assert repr(found).startswith(f"<Artifact {digest[:12]} module 12 bytes")
    found.close()
    assert "closed" in repr(found)


def test_everything_is_private_even_with_an_open_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(tmp_path / "cache")
        put(store, b"x")
        download_cache.put_module(store, hashlib.sha256(b"m").hexdigest(), b"m")
    finally:
        os.umask(before)
    for path in [Path(store.cache), Path(store.path), *Path(store.path).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_an_artifact_cut_off_at_every_offset_is_never_loaded(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    content = os.urandom(300)
    path = Path(put(store, content).path)
    for length in range(len(content)):
        overwrite(path, content[:length])
        assert store.find(MODULE, FP) is None, length
        with pytest.raises(StoreError, match="damaged"), open_verified(str(path)):
            pass
    assert "damaged and not used" in caplog.text
    path.write_bytes(content)
    assert store.find(MODULE, FP) is not None


def test_any_changed_byte_is_noticed(store: Store) -> None:
    content = os.urandom(200)
    path = Path(put(store, content).path)
    for at in range(len(content)):
        overwrite(path, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert store.find(MODULE, FP) is None, at
    path.write_bytes(content + b"\0")
    assert store.find(MODULE, FP) is None


def test_an_index_entry_cut_off_or_changed_at_every_offset_leads_to_nothing_else(store: Store) -> None:
    right = put(store, b"right")
    put(store, b"wrong", OTHER)
    index = next(Path(store.path, "index").glob(f"{MODULE}*"))
    whole = index.read_bytes()
    for at in range(len(whole)):
        for broken in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :]):
            overwrite(index, broken)
            found = store.find(MODULE, FP)
            assert found is None or (found.digest == right.digest and load(found) == b"right"), (at, broken)
    index.write_bytes(whole)
    assert store.find(MODULE, FP) is not None


def test_an_entry_moved_to_another_guest_s_place_is_not_used(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put(store, b"code")
    index = next(Path(store.path, "index").iterdir())
    index.rename(index.with_name(index.name.replace(MODULE, OTHER)))
    assert store.find(OTHER, FP) is None
    assert "does not match its name" in caplog.text


def test_a_damaged_entry_is_replaced_by_the_next_one(store: Store) -> None:
    path = Path(put(store, b"code").path)
    path.write_bytes(b"xxxx")
    assert store.find(MODULE, FP) is None
    put(store, b"code")
    found = store.find(MODULE, FP)
    assert found is not None
    assert load(found) == b"code"


def test_what_was_opened_stays_when_the_file_is_replaced(store: Store) -> None:
    artifact = put(store, b"old code")
    with open_verified(artifact.path) as path:
        replacement = Path(store.path, "artifacts", "replacement")
        replacement.write_bytes(b"new code")
        replacement.rename(artifact.path)
        assert Path(path).read_bytes() == b"old code"


# CPUs and engines ----------------------------------------------------------------------------------------------------


def test_code_for_fewer_features_is_used_and_for_more_is_not(store: Store) -> None:
    put(store, b"code")
    more = Fingerprint(engine=FP.engine, machine="x86_64", features=FP.features | {"avx512f"})
    assert store.find(MODULE, more) is not None
    assert store.find(MODULE, Fingerprint(FP.engine, "x86_64", frozenset({"avx"}))) is None
    assert store.find(MODULE, Fingerprint(FP.engine, "aarch64", FP.features)) is None
    assert store.find(MODULE, Fingerprint("f" * 32, "x86_64", FP.features)) is None


def test_the_exact_match_is_preferred(store: Store) -> None:
    put(store, b"for less")
    more = Fingerprint(engine=FP.engine, machine="x86_64", features=FP.features | {"avx512f"})
    put(store, b"for this", fp=more)
    found = store.find(MODULE, more)
    assert found is not None
    assert load(found) == b"for this"


def test_the_fingerprint_follows_what_shapes_code_and_nothing_else() -> None:
    base = fingerprint.current(EngineSettings())
    assert fingerprint.current(EngineSettings(wasm_stack_bytes=1, max_memories=2, keep_resident_bytes=3)) == base
    assert fingerprint.current(EngineSettings(max_memory_bytes=1 << 20)).engine != base.engine


def test_cpu_features_of_both_architectures(tmp_path: Path) -> None:
    x86 = tmp_path / "x86"
    x86.write_text("processor : 0\nflags\t\t: fpu avx2 vme sse4_1\n\nflags : avx512f\n")
    assert fingerprint.cpu_features(str(x86)) == {"avx2", "sse4_1"}
    arm = tmp_path / "arm"
    arm.write_text("processor : 0\nFeatures\t: fp asimd atomics\n")
    assert fingerprint.cpu_features(str(arm)) == {"fp", "asimd", "atomics"}
    assert fingerprint.cpu_features(str(tmp_path / "missing")) == set()


# The key of the index ------------------------------------------------------------------------------------------------


def entry(store: Store, module: str = MODULE) -> Path:
    (found,) = (Path(store.path) / "index").glob(f"{module}-*.json")
    return found


def test_a_digest_alone_is_no_authority(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """An attacker who can write to the store, but has no key, puts an artifact there and names it in the index."""
    put(store, b"honest").close()
    planted = b"planted"
    digest = hashlib.sha256(planted).hexdigest()
    (Path(store.path) / "artifacts" / f"{digest}.cwasm").write_bytes(planted)
    (Path(store.path) / "artifacts" / f"{digest}.cwasm").chmod(0o600)
    record = json.loads(entry(store).read_text())
    overwrite(entry(store), json.dumps({**record, "artifact": digest, "bytes": len(planted)}).encode())
    assert Store(store.cache).find(MODULE, FP) is None
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "was not written with this store's key; its guest is compiled again" in caplog.text


@pytest.mark.parametrize(
    "change", [{"mac": ""}, {"mac": "0" * 64}, {"mac": "\u20ac"}, {"kind": "component"}, {"bytes": 5}]
)
def test_an_entry_with_another_mac_or_another_field_is_not_used(store: Store, change: dict[str, object]) -> None:
    put(store, b"honest").close()
    record = json.loads(entry(store).read_text())
    overwrite(entry(store), json.dumps({**record, **change}).encode())
    assert Store(store.cache).find(MODULE, FP) is None
    put(store, b"honest").close()
    again = Store(store.cache).find(MODULE, FP)
    assert again is not None
    assert load(again) == b"honest"


def test_an_entry_of_another_guest_is_not_used(store: Store) -> None:
    put(store, b"one").close()
    put(store, b"two", OTHER).close()
    record = json.loads(entry(store, OTHER).read_text())
    overwrite(entry(store), json.dumps({**record, "module": MODULE}).encode())
    assert Store(store.cache).find(MODULE, FP) is None


def test_without_its_key_a_store_is_compiled_again(store: Store) -> None:
    put(store, b"honest").close()
    key = Path(store.path) / NAME
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    key.unlink()
    assert Store(store.cache).find(MODULE, FP) is None
    overwrite_with = Store(store.cache)
    put(overwrite_with, b"honest").close()
    assert Store(store.cache).find(MODULE, FP) is not None


def test_a_damaged_key_is_an_error_with_a_remedy(store: Store) -> None:
    put(store, b"honest").close()
    overwrite(Path(store.path) / NAME, b"short")
    with pytest.raises(StoreError, match="is damaged") as caught:
        Store(store.cache).find(MODULE, FP)
    assert "remove it" in str(caught.value)
