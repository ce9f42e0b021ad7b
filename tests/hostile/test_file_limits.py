"""Ways around the limits of files that a review found: each was possible once."""

import ctypes
import errno
import gc
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hostfuncs.files import Files, FileSettings, Folder, Mount, Tmp, base
from hostfuncs.files.base import File
from hostfuncs.files.nodes import Node
from hostfuncs.limits import Limit, Limits
from hostfuncs.wasip1 import FUNCTIONS
from hostfuncs.wasip1.program import OpenFolder
from tests.host.wat import Bench

LIMITS = Limits(file_write_bytes=1000, file_entries=20, directory_entries=30, open_files=8, path_bytes=200)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return opened(tmp_path)


def opened(folder: Path, *, read_only: bool = False) -> Files:
    mount = Mount(source=str(folder), target="/", read_only=read_only)
    return FileSettings(mounts=(mount,), tmp=Tmp(target="/tmp", size=1000, files=20)).open(LIMITS, strict=False)


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number, errno.errorcode.get(caught.value.errno or 0)


def open_file(files: Files, at: int, path: bytes, how: int) -> File:
    found = files.open(files.preopened[at][1], path, how)
    assert isinstance(found, File)
    return found


@pytest.mark.parametrize("at", [0, 1])
def test_a_gap_before_what_is_written_counts_as_written(files: Files, at: int) -> None:
    """Growing a file counts too. Otherwise one byte would make a file of 8 EiB, which is read whole when copied."""
    file = open_file(files, at, b"file", base.WRITE | base.CREATE)
    full = (errno.EDQUOT, errno.ENOSPC)[at]
    refused(full, file.write, [memoryview(b"x")], 1 << 40)
    refused(full, file.write, [memoryview(b"x")], 1000)
    assert file.size() == 0
    assert file.write([memoryview(b"xyz")], 998) == 2
    assert file.size() == 1000
    refused(full, file.write, [memoryview(b"x")], 1000)


def test_a_gap_is_counted_once(files: Files) -> None:
    file = open_file(files, 0, b"file", base.WRITE | base.CREATE)
    file.write([memoryview(b"x")], 499)
    file.write([memoryview(b"x")], 10)  # in the gap: written, but no growth
    file.write([memoryview(b"x")], 998)
    assert (files.quota.bytes_left, file.size()) == (0, 999)


def test_room_made_within_a_file_counts(files: Files, tmp_path: Path) -> None:
    """A sparse file of the host's has more room to fill than the guest may write."""
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 20)
    file = open_file(files, 0, b"sparse", base.WRITE)
    refused(errno.EDQUOT, file.allocate, 0, 1 << 20)
    assert (tmp_path / "sparse").stat().st_blocks == 0
    file.allocate(0, 1000)
    refused(errno.EDQUOT, file.allocate, 4096, 1)


@pytest.mark.parametrize("at", [0, 1])
def test_a_file_can_be_used_as_it_was_opened_only(files: Files, at: int) -> None:
    open_file(files, at, b"file", base.WRITE | base.CREATE)
    reading = open_file(files, at, b"file", base.READ)
    refused(errno.EBADF, reading.write, [memoryview(b"x")], 0)
    with pytest.raises(OSError):
        reading.truncate(10)
    with pytest.raises(OSError):
        reading.allocate(0, 10)
    writing = open_file(files, at, b"file", base.WRITE)
    refused(errno.EBADF, writing.read, [memoryview(bytearray(1))], 0)
    assert reading.size() == 0


def test_nothing_of_a_folder_in_memory_is_left_for_the_collector(files: Files) -> None:
    """Workers collect cycles seldom, and what a run kept in memory must be gone at its end."""
    gc.collect()
    gc.disable()
    try:
        folder = files.preopened[1][1]
        folder.make_folder(b"a")
        folder.make_folder(b"a/b")
        files.release(files.open(folder, b".", base.DIRECTORY))
        file = files.open(folder, b"a/b/file", base.WRITE | base.CREATE)
        assert isinstance(file, File)
        file.write([memoryview(bytes(500))], 0)
        del folder, file
        assert len(nodes()) == 4
        files.close()
        assert len(nodes()) == 1  # the root, which this test still holds
    finally:
        gc.enable()


def nodes() -> list[object]:
    return [found for found in gc.get_objects() if isinstance(found, Node)]


def test_slashes_and_dots_of_a_path_are_looked_at_once(files: Files) -> None:
    """One call took seconds: at each part of a path, the slashes at its end were gone through."""
    folder = files.preopened[1][1]
    folder.make_folder(b"d")
    target = b"d"
    for number in range(18):
        folder.symlink(b"./" * 20 + target, b"%d" % number)
        target = b"%d" % number
    for _ in range(30):
        assert folder.stat(target + b"/" * 150, follow=False).kind is base.Kind.DIRECTORY
        refused(errno.ENOTDIR, folder.remove_folder, target + b"/" * 150)
    assert not folder.read_link(b"0").startswith(b"/")


def test_a_slash_does_not_lead_through_a_link_to_what_is_removed(files: Files) -> None:
    for _, folder in files.preopened:
        folder.make_folder(b"folder")
        folder.symlink(b"folder", b"link")
        for call in (folder.remove_folder, folder.unlink):
            refused(errno.ENOTDIR, call, b"link/")
        refused(errno.ENOTDIR, folder.rename, b"link/", folder, b"new")
        refused(errno.EEXIST, folder.make_folder, b"link/")
        refused(errno.EISDIR, folder.open, b"folder", base.READ | base.CREATE)
        assert folder.stat(b"folder", follow=False).kind is base.Kind.DIRECTORY


LISTER = """(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) ".")
    (func (export "open") (result i32)
        (drop (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 2)
            (i64.const 0x4000) (i64.const 0) (i32.const 0) (i32.const 8)))
        (i32.load (i32.const 8)))
    (func (export "list") (param i32) (result i32)
        (call $list (local.get 0) (i32.const 16) (i32.const 30) (i64.const 0) (i32.const 8)))
    (func (export "close") (param i32) (result i32) (call $close (local.get 0))))"""


def test_listings_that_are_held_count_together(tmp_path: Path) -> None:
    """Or else each of 256 descriptors holds a listing of 100,000 entries: gigabytes."""
    assert "fd_readdir" in FUNCTIONS
    for number in range(20):
        (tmp_path / str(number)).touch()
    settings = FileSettings(mounts=(Mount(source=str(tmp_path), target="/"),))
    guest = Bench(LISTER, new_files=lambda: settings.open(LIMITS, strict=False))
    one, two = guest.call("open"), guest.call("open")
    assert guest.call("list", one) == 0
    assert guest.call("list", one) == 0  # anew
    assert guest.call("list", two) == 61  # overflow
    assert guest.program.files is not None
    assert guest.program.files.quota.reached == Limit.DIRECTORY_ENTRIES
    assert guest.call("close", one) == 0
    assert guest.call("list", two) == 0
    guest.program.end()


def test_a_name_of_the_host_that_is_not_utf_8_goes_both_ways(files: Files, tmp_path: Path) -> None:
    name = b"caf\xe9\xff"
    (Path(os.fsdecode(bytes(tmp_path) + b"/" + name))).write_bytes(b"data")
    folder = files.preopened[0][1]
    assert [entry.name for entry in folder.entries()] == [name]
    assert folder.stat(name, follow=True).size == 4


def test_a_mount_on_which_files_are_exchanged(files: Files, tmp_path: Path) -> None:
    """A file and a folder, a pipe and a link out, in turns under one name: only the file is ever read."""
    inside = tmp_path / "m"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    held = opened(inside, read_only=True)
    over = threading.Event()

    def exchange() -> None:
        at = 0
        while not over.is_set():
            at += 1
            fresh = inside / f"fresh{at % 4}"
            if at % 4 == 0:
                fresh.write_bytes(b"data")
            elif at % 4 == 1:
                os.mkfifo(fresh)
            elif at % 4 == 2:
                fresh.symlink_to("../secret")
            else:
                fresh.symlink_to("/proc/self/environ")
            fresh.replace(inside / "name")

    thread = threading.Thread(target=exchange)
    thread.start()
    seen: set[bytes] = set()
    errors: set[int | None] = set()
    try:
        for _ in range(1500):
            try:
                found = held.open(held.preopened[0][1], b"name", base.READ | base.FOLLOW)
            except OSError as error:
                errors.add(error.errno)
                continue
            assert isinstance(found, File)
            buffer = bytearray(100)
            seen.add(bytes(buffer[: found.read([memoryview(buffer)], 0)]))
            held.release(found)
    finally:
        over.set()
        thread.join(10)
        held.close()
    assert seen <= {b"data", b""}
    assert errors <= {errno.EPERM, errno.EACCES, errno.ENOENT, errno.EAGAIN, errno.ELOOP}


def test_an_update_of_a_config_map_during_a_run(tmp_path: Path) -> None:
    """As Kubernetes makes one: `..data` is replaced. Whoever mounts `..data` itself sees one state of it to the end."""
    volume = tmp_path / "volume"
    volume.mkdir()
    for version in ("1", "2"):
        (volume / version).mkdir()
        for name in ("a", "b"):
            (volume / version / name).write_text(version)
    (volume / "..data").symlink_to("1")
    for name in ("a", "b"):
        (volume / name).symlink_to(f"..data/{name}")
    whole, data = opened(volume, read_only=True), opened(volume / "..data", read_only=True)
    seen: dict[Files, list[bytes]] = {whole: [], data: []}

    def read(name: bytes) -> None:
        for files, texts in seen.items():
            buffer = bytearray(1)
            open_file(files, 0, name, base.READ | base.FOLLOW).read([memoryview(buffer)], 0)
            texts.append(bytes(buffer))

    read(b"a")
    (volume / "..fresh").symlink_to("2")
    (volume / "..fresh").replace(volume / "..data")
    read(b"b")
    assert seen == {whole: [b"1", b"2"], data: [b"1", b"1"]}
    for files in seen:
        files.close()


def test_a_guest_makes_no_device_no_pipe_and_no_nameless_file(files: Files) -> None:
    """There is no way to ask for O_TMPFILE, and what is made is a file, a folder or a link."""
    folder = files.preopened[0][1]
    for how in range(1 << 10):
        try:
            found = files.open(folder, b"made", how)
        except OSError:
            continue
        assert folder.stat(b"made", follow=False).kind in (base.Kind.REGULAR_FILE, base.Kind.DIRECTORY)
        files.release(found)
    assert {entry.kind for entry in folder.entries()} <= {base.Kind.REGULAR_FILE}


def test_a_hard_link_does_not_make_a_read_only_file_writable(tmp_path: Path) -> None:
    """Two mounts of one folder, one of them read-only: a name made through the writable one is writable, as before."""
    (tmp_path / "file").write_bytes(b"data")
    mounts = (
        Mount(source=str(tmp_path), target="/ro"),
        Mount(source=str(tmp_path), target="/rw", read_only=False),
    )
    held = FileSettings(mounts=mounts).open(LIMITS, strict=False)
    reading, writing = (folder for _, folder in held.preopened)
    refused(errno.EROFS, reading.link, b"file", writing, b"new")
    refused(errno.EROFS, writing.link, b"file", reading, b"new")
    refused(errno.EROFS, reading.rename, b"file", writing, b"new")
    assert sorted(os.listdir(tmp_path)) == ["file"]
    held.close()


def test_every_descriptor_is_closed_at_the_end(tmp_path: Path) -> None:
    """Of files that are open, of those that failed, and of lookups that found nothing."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    os.mkfifo(tmp_path / "pipe")
    before = set(os.listdir("/proc/self/fd"))
    held = opened(tmp_path)
    folder = held.preopened[0][1]
    paths = (b"folder", b"link", b"pipe", b"file", b"missing/file", b"folder/file", b"link/", b"..", b"folder/../pipe")
    for path in paths:
        for call in calls_of(held, folder, path):
            try:
                call()
            except OSError:
                continue
    held.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def calls_of(held: Files, folder: Folder, path: bytes) -> list[Callable[[], object]]:
    return [
        *(lambda how=how: held.open(folder, path, how) for how in (1, 2, 3, 6, 7, 33, 65, 97)),
        lambda: folder.stat(path, follow=False),
        lambda: folder.set_times(path, 0, None, follow=True),
        lambda: folder.read_link(path),
        lambda: folder.make_folder(path),
        lambda: folder.symlink(b"x", path),
        lambda: folder.link(path, folder, path),
        lambda: folder.rename(path, folder, path),
        lambda: folder.entries(),
        lambda: folder.sync(),
        lambda: folder.unlink(path),
        lambda: folder.remove_folder(path),
    ]


@pytest.mark.parametrize("read_only", [False, True])
def test_no_sequence_of_calls_leaves_the_mount(tmp_path: Path, read_only: bool) -> None:
    """Renames of the folders that a path leads through, while it is looked up, towards the outside and back."""
    inside, outside = tmp_path / "m", tmp_path / "outside"
    (inside / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "secret").write_bytes(b"secret")
    held = opened(inside, read_only=read_only)
    folder = held.preopened[0][1]
    rename = ctypes.CDLL(None, use_errno=True).rename
    over = threading.Event()

    def move() -> None:
        ways = [bytes(inside / "a" / "b"), bytes(tmp_path / "b")]
        while not over.is_set():
            rename(ways[0], ways[1])
            ways.reverse()

    thread = threading.Thread(target=move)
    thread.start()
    try:
        for _ in range(1500):
            for path in (b"a/b/../secret", b"a/b/../../secret", b"a/b/../../outside/secret", b"a/b/../../../secret"):
                with pytest.raises(OSError) as caught:
                    folder.open(path, base.READ | base.FOLLOW)
                assert caught.value.errno in (errno.EPERM, errno.ENOENT, errno.EAGAIN)
    finally:
        over.set()
        thread.join(10)
        held.close()


def test_a_failure_to_close_is_told_and_leaves_nothing_open(tmp_path: Path) -> None:
    """As network file systems have it, when there was no room after all. Here the descriptor is closed already."""
    before = set(os.listdir("/proc/self/fd"))
    settings = FileSettings(mounts=(Mount(source=str(tmp_path), target="/"),))
    guest = Bench(LISTER, new_files=lambda: settings.open(LIMITS, strict=False))
    failing, whole, last = guest.call("open"), guest.call("open"), guest.call("open")
    for number in (failing, last):
        descriptor = guest.program.open_descriptors()[number]
        assert isinstance(descriptor, OpenFolder)
        os.close(descriptor.folder.descriptor)  # type: ignore[attr-defined]
    assert guest.call("close", failing) == 8  # badf, of close(2)
    assert guest.call("close", failing) == 8  # badf: it is not open
    assert guest.call("open") == failing
    assert guest.call("close", whole) == 0
    guest.program.end()
    del guest
    assert set(os.listdir("/proc/self/fd")) <= before


def test_records_of_a_listing_are_cut_at_any_size_and_go_on_anywhere(tmp_path: Path) -> None:
    for name in ("one", "three", "b" * 255):
        (tmp_path / name).touch()
    settings = FileSettings(mounts=(Mount(source=str(tmp_path), target="/"),))
    text = LISTER.replace(
        "(param i32) (result i32)\n        (call $list (local.get 0) (i32.const 16) (i32.const 30) (i64.const 0)",
        "(param i32 i32 i64) (result i32)\n        (call $list (local.get 0) "
        "(i32.const 16) (local.get 1) (local.get 2)",
    )
    guest = Bench(text, new_files=lambda: settings.open(LIMITS, strict=False))
    assert guest.call("list", 3, 65000, 0) == 0
    (whole,) = struct.unpack("<I", guest.read(8, 12))
    records = guest.read(16, 16 + whole)
    names: list[bytes] = []
    at, places = 0, [0]
    while at < whole:
        cookie, _, length, _ = struct.unpack_from("<QQIB3x", records, at)
        assert cookie == len(names) + 1
        names.append(records[at + 24 : at + 24 + length])
        at += 24 + length
        places.append(at)
    assert (names[:2], set(names[2:])) == ([b".", b".."], {b"one", b"three", b"b" * 255})
    for cookie in (1, 3, 5, 6, (1 << 64) - 1):
        for size in (0, 1, 23, 24, 30, 400):
            assert guest.call("list", 3, size, cookie) == 0
            (used,) = struct.unpack("<I", guest.read(8, 12))
            begin = places[min(cookie, 5)]
            assert guest.read(16, 16 + used) == records[begin : begin + size]
    guest.program.end()
