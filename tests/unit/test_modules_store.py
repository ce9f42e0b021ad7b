"""The artifact store: nothing is loaded that is cut off, changed, or could have been written by somebody else.

Not tested here: compiling (process/test_compile.py). Artifacts are arbitrary bytes except where wasmtime loads one.
"""

import errno
import fcntl
import hashlib
import json
import os
import stat
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxd.limits import EngineSettings
from sandboxd.modules import fingerprint, kept, trust
from sandboxd.modules.artifact import open_verified
from sandboxd.modules.errors import StoreError
from sandboxd.modules.fingerprint import Fingerprint
from sandboxd.modules.prune import PruneSettings, prune
from sandboxd.modules.store import Artifact, Store

FP = Fingerprint(engine="e" * 32, machine="x86_64", features=frozenset({"avx", "avx2"}))
MODULE = "a" * 64
OTHER = "b" * 64
NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def put(store: Store, content: bytes, module: str = MODULE, fp: Fingerprint = FP) -> Artifact:
    draft = store.draft()
    os.write(draft.fd, content)
    return draft.commit(module, fp, "module")


def files(store: Store) -> list[str]:
    return sorted(str(p.relative_to(store.path)) for p in Path(store.path).rglob("*") if p.is_file())


def load(artifact: Artifact) -> bytes:
    with open_verified(artifact.path) as path:
        return Path(path).read_bytes()


def as_nobody(action: Callable[[], None]) -> None:
    """Run it in a child process of another user; fails with what the child raised."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = ""
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
        except BaseException:
            text = traceback.format_exc()
        os.write(write, text.encode()[:60000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    assert text == ""


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
        kept.keep_module(store, hashlib.sha256(b"m").hexdigest(), b"m")
    finally:
        os.umask(before)
    for path in [Path(store.cache), Path(store.path), *Path(store.path).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_an_artifact_cut_off_at_every_offset_is_never_loaded(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    content = os.urandom(300)
    path = Path(put(store, content).path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
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
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
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
            index.write_bytes(broken)
            found = store.find(MODULE, FP)
            assert found is None or (found.digest == right.digest and load(found) == b"right"), (at, broken)
    index.write_bytes(whole)
    assert store.find(MODULE, FP) is not None


def test_an_entry_moved_to_another_guest_s_place_is_not_used(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put(store, b"code")
    index = next(Path(store.path, "index").iterdir())
    index.rename(index.with_name(index.name.replace(MODULE, OTHER)))
    assert store.find(OTHER, FP) is None
    assert "belongs to something else" in caplog.text


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


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
@pytest.mark.parametrize("part", [".", "artifacts", "index"])
def test_a_folder_others_can_write_is_refused(store: Store, mode: int, part: str) -> None:
    artifact = put(store, b"code")
    folder = Path(store.path, part)
    folder.chmod(mode)
    with pytest.raises(StoreError, match=f"mode {mode:04o}") as caught:
        store.draft().abandon() if part == "artifacts" else store.find(MODULE, FP)
    assert "chmod -R go-w" in caught.value.remedy
    if part != "index":
        with pytest.raises(StoreError, match=f"mode {mode:04o}"), open_verified(artifact.path):
            pass
    if part == ".":
        with pytest.raises(StoreError, match=f"mode {mode:04o}"):
            Store(store.cache)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_others_can_write_is_compiled_again(store: Store, mode: int) -> None:
    artifact = put(store, b"code")
    Path(artifact.path).chmod(mode)
    assert store.find(MODULE, FP) is None
    with pytest.raises(StoreError, match=f"mode {mode:04o}"), open_verified(artifact.path):
        pass
    again = put(store, b"code")
    assert load(again) == b"code"


def test_symbolic_links_are_not_followed(tmp_path: Path, store: Store) -> None:
    artifact = put(store, b"code")
    path = Path(artifact.path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert store.find(MODULE, FP) is None
    with pytest.raises(StoreError, match="symbolic link"), open_verified(artifact.path):
        pass
    folder = Path(store.path)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(StoreError, match="symbolic link"):
        store.find(MODULE, FP)
    with pytest.raises(StoreError, match="symbolic link"):
        Store(store.cache)


def test_a_fifo_or_folder_in_an_artifact_s_place_is_no_artifact(store: Store) -> None:
    path = Path(put(store, b"code").path)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert store.find(MODULE, FP) is None
    path.unlink()
    path.mkdir(0o700)
    assert store.find(MODULE, FP) is None


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "artifacts/x.cwasm", "/tmp/artifacts/../" + "a" * 64 + ".cwasm", "/a/b/" + "a" * 64 + ".cwasm"],
)
def test_only_paths_of_artifacts_are_opened(path: str) -> None:
    with pytest.raises(StoreError, match="no path of an artifact"), open_verified(path):
        pass


def test_a_missing_artifact_is_said_to_be_gone(store: Store) -> None:
    artifact = put(store, b"code")
    Path(artifact.path).unlink()
    assert store.find(MODULE, FP) is None
    with pytest.raises(StoreError, match="is gone"), open_verified(artifact.path):
        pass


def test_ownership_is_judged_by_user_and_root_only() -> None:
    def status(uid: int) -> os.stat_result:
        return os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 1, uid, 0, 0, 0, 0, 0))

    trust.check(status(os.geteuid()), "it", folder=True)
    trust.check(status(0), "it", folder=True)
    with pytest.raises(StoreError, match="belongs to user 4711") as caught:
        trust.check(status(4711), "it", folder=True)
    assert f"chown -R {os.geteuid()} it" in caught.value.remedy


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners and users, or mounts")


@needs_root
def test_a_store_of_somebody_else_is_refused(store: Store) -> None:
    artifact = put(store, b"code")
    os.chown(artifact.path, NOBODY, NOBODY)
    assert store.find(MODULE, FP) is None
    os.chown(store.path, NOBODY, NOBODY)
    with pytest.raises(StoreError, match=f"belongs to user {NOBODY}"):
        Store(store.cache)
    with pytest.raises(StoreError, match=f"belongs to user {NOBODY}"), open_verified(artifact.path):
        pass


def make_reachable(path: Path) -> None:
    """pytest's folders are 0700; another user must get through."""
    for folder in (path, *path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)


@needs_root
def test_another_user_can_use_a_filled_store_of_root_s_and_is_told_it_is_read_only(store: Store) -> None:
    artifact = put(store, b"code")
    make_reachable(Path(store.path))

    def sealed() -> None:
        with pytest.raises(StoreError) as caught:
            Store(store.cache).draft()
        assert "permission denied" in caught.value.message
        assert Store(store.cache).find(MODULE, FP) is None  # files are 0600

    def opened() -> None:
        again = Store(store.cache)
        found = again.find(MODULE, FP)
        assert found is not None
        assert load(found) == b"code"
        with pytest.raises(StoreError) as caught:
            again.draft()
        assert "permission denied" in caught.value.message
        assert "sandboxd compile" in caught.value.remedy
        assert prune(again, PruneSettings(max_bytes=0, max_age_s=0)) == 0

    for part in ("artifacts", "index"):
        Path(store.path, part).chmod(0o755)
    as_nobody(sealed)
    Path(artifact.path).chmod(0o644)
    next(Path(store.path, "index").iterdir()).chmod(0o644)
    as_nobody(opened)


@needs_root
def test_a_cache_folder_anybody_can_write_still_gets_a_private_store(tmp_path: Path) -> None:
    cache = tmp_path / "volume"
    cache.mkdir()
    make_reachable(cache)
    cache.chmod(0o777)

    def fill() -> None:
        store = Store(cache)
        assert load(put(store, b"code")) == b"code"
        assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o700

    as_nobody(fill)


@needs_root
def test_a_full_and_a_read_only_file_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr!r}")
    try:
        store = Store(disk)
        put(store, b"small")
        with pytest.raises(StoreError, match="no space left") as caught:
            kept.keep_module(store, OTHER, os.urandom(200_000))
        assert "free space" in caught.value.remedy
        assert not [name for name in files(store) if ".tmp-" in name]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        again = Store(disk)
        found = again.find(MODULE, FP)
        assert found is not None
        assert load(found) == b"small"
        with pytest.raises(StoreError, match="read-only file system") as caught:
            again.draft()
        assert "sandboxd compile" in caught.value.remedy
        found.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG])
def test_every_failed_call_names_cause_and_remedy(number: int) -> None:
    error = trust.explain(OSError(number, os.strerror(number)), "write", "the store")
    assert error.message == f"cannot write the store: {os.strerror(number).lower()}"
    assert error.remedy


@pytest.mark.parametrize("call", ["fsync", "rename", "preadv"])
def test_a_commit_that_fails_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    draft = store.draft()
    os.write(draft.fd, b"code")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreError, match="no space left"):
        draft.commit(MODULE, FP, "module")
    monkeypatch.undo()
    assert "ended" in repr(draft)
    assert files(store) == []


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


# pruning -------------------------------------------------------------------------------------------------------------


def age(store: Store, seconds: float, *patterns: str) -> None:
    for pattern in patterns:
        for path in Path(store.path).glob(pattern):
            moment = path.stat().st_mtime - seconds
            os.utime(path, (moment, moment))


def test_old_entries_go_and_used_ones_stay(store: Store) -> None:
    put(store, b"old").close()
    put(store, b"new", OTHER).close()
    age(store, 1000, f"index/{MODULE}*")
    assert prune(store, PruneSettings(max_age_s=500)) == 3
    assert store.find(MODULE, FP) is None
    assert store.find(OTHER, FP) is not None
    assert len(files(store)) == 2


def test_finding_counts_as_use(store: Store) -> None:
    put(store, b"old").close()
    age(store, 1000, "index/*")
    found = store.find(MODULE, FP)
    assert found is not None
    found.close()
    assert prune(store, PruneSettings(max_age_s=500)) == 0


def test_the_least_recently_used_go_first_until_the_rest_fits(store: Store) -> None:
    for number in range(4):
        put(store, bytes([number]) * 100, f"{number}" * 64).close()
        age(store, 400 - 100 * number, f"index/{number}*")
    kept.keep_module(store, OTHER, b"m" * 100)
    age(store, 250, "modules/*")
    assert prune(store, PruneSettings(max_bytes=250)) == 300
    left = [n for n in range(4) if store.find(f"{n}" * 64, FP) is not None]
    assert left == [2, 3]


def test_what_is_in_use_is_not_removed(store: Store) -> None:
    artifact = put(store, b"code")
    everything = PruneSettings(max_bytes=0, max_age_s=0)
    later = lambda: 4e9  # noqa: E731 -- a clock
    assert prune(store, everything, clock=later) == 0
    found = store.find(MODULE, FP)
    assert found is not None
    artifact.close()
    assert prune(store, everything, clock=later) == 0
    found.close()
    assert prune(store, everything, clock=later) == 4
    assert files(store) == []


def test_what_another_process_writes_or_left_behind(store: Store) -> None:
    draft = store.draft()
    os.write(draft.fd, b"half")
    orphan = Path(store.path, "artifacts", "c" * 64 + ".cwasm")
    orphan.write_bytes(b"orphan")
    orphan.chmod(0o600)
    settings = PruneSettings()
    assert prune(store, settings) == 0
    age(store, 7200, "artifacts/*", "artifacts/.*")
    assert prune(store, settings) == 6  # the orphan; the draft is locked
    os.close(draft.fd)
    assert prune(store, settings) == 4
    draft.fd = -1
    assert files(store) == []


def test_an_artifact_pruned_while_it_is_being_opened_is_not_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, b"code").close()
    lock = fcntl.flock

    def prune_first(fd: int, how: int) -> None:
        if how == fcntl.LOCK_SH:
            next(Path(store.path, "artifacts").iterdir()).unlink()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", prune_first)
    assert store.find(MODULE, FP) is None


# downloads -----------------------------------------------------------------------------------------------------------


def test_kept_downloads_are_checked_and_hold_no_secret(store: Store) -> None:
    url = "https://user:hunter2@example.com/x.wasm?sig=hunter3"
    digest = hashlib.sha256(b"guest").hexdigest()
    kept.keep_module(store, digest, b"guest")
    kept.keep_download(store, url, kept.Download(module=digest, etag='"1"'))
    assert kept.download(store, url) == kept.Download(module=digest, etag='"1"')
    assert kept.download(store, url + "&x") is None
    assert kept.module(store, digest, 100) == b"guest"
    assert kept.module(store, digest, 4) is None
    for path in Path(store.path).rglob("*"):
        assert "hunter" not in path.name
        assert path.is_dir() or b"hunter" not in path.read_bytes()
    path = Path(store.path, "modules", f"{digest}.wasm")
    for length in range(5):
        path.write_bytes(b"guest"[:length])
        assert kept.module(store, digest, 100) is None
    record = next(Path(store.path, "downloads").iterdir())
    record.write_text(json.dumps({"module": "../../etc/passwd"}))
    assert kept.download(store, url) is None
    record.write_text("{")
    assert kept.download(store, url) is None
