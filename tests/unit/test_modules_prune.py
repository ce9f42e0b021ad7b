"""Pruning the artifact store: what goes, what stays, and the downloads that are kept beside it."""

import fcntl
import hashlib
import json
import os
from pathlib import Path

import pytest

from sandboxd.modules import download_cache
from sandboxd.modules.prune import PruneSettings, prune
from sandboxd.modules.store import Store
from tests.unit.stores import FP, MODULE, OTHER, files, put


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
    download_cache.put_module(store, OTHER, b"m" * 100)
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
    download_cache.put_module(store, digest, b"guest")
    download_cache.put_record(store, url, download_cache.DownloadRecord(module=digest, etag='"1"'))
    assert download_cache.get_record(store, url) == download_cache.DownloadRecord(module=digest, etag='"1"')
    assert download_cache.get_record(store, url + "&x") is None
    assert download_cache.get_module(store, digest, 100) == b"guest"
    assert download_cache.get_module(store, digest, 4) is None
    for path in Path(store.path).rglob("*"):
        assert "hunter" not in path.name
        assert path.is_dir() or b"hunter" not in path.read_bytes()
    path = Path(store.path, "modules", f"{digest}.wasm")
    for length in range(5):
        path.write_bytes(b"guest"[:length])
        assert download_cache.get_module(store, digest, 100) is None
    record = next(Path(store.path, "downloads").iterdir())
    record.write_text(json.dumps({"module": "../../etc/passwd"}))
    assert download_cache.get_record(store, url) is None
    record.write_text("{")
    assert download_cache.get_record(store, url) is None
