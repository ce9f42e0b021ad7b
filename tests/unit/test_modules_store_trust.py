"""The artifact store loads nothing that somebody else could have written. Failed calls name cause and remedy."""

import errno
import os
import stat
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxd.modules import download_cache, trust
from sandboxd.modules.artifact import open_verified
from sandboxd.modules.errors import StoreError
from sandboxd.modules.index_key import NAME
from sandboxd.modules.prune import PruneSettings, prune
from sandboxd.modules.store import Store
from tests.unit.stores import FP, MODULE, OTHER, files, load, put

NOBODY = 65534


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
    with pytest.raises(StoreError, match="not the path of an artifact"), open_verified(path):
        pass


def test_a_missing_artifact_is_said_to_be_gone(store: Store) -> None:
    artifact = put(store, b"code")
    Path(artifact.path).unlink()
    assert store.find(MODULE, FP) is None
    with pytest.raises(StoreError, match="is missing"), open_verified(artifact.path):
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
            download_cache.put_module(store, OTHER, os.urandom(200_000))
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
    error = trust.store_error(OSError(number, os.strerror(number)), "write", "the store")
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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_store_that_only_root_can_write_needs_no_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The store of an image: compiled by root, made readable, served by another user who has no key."""
    root = Path("/tmp") / f"sandboxd-{os.getpid()}-{tmp_path_factory.mktemp('x').name}"
    try:
        store = Store(root)
        put(store, b"honest").close()
        (Path(store.path) / NAME).unlink()
        subprocess.run(["chmod", "-R", "a+rX", root], check=True)

        def find() -> None:
            found = Store(root).find(MODULE, FP)
            assert found is not None
            assert load(found) == b"honest"

        as_nobody(find)
        assert Store(root).find(MODULE, FP) is None, "root could have written it"
    finally:
        subprocess.run(["rm", "-rf", root], check=True)
