"""Ways out of a folder, and ways around the quotas: both kinds of folders, without a guest in between."""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostfuncs.files import File, Files, FileSettings, Folder, Mount, Tmp, base
from hostfuncs.limits import Limits

SECRET = b"not for guests"
LIMITS = Limits(file_write_bytes=1000, file_entries=20, directory_entries=30, open_files=8, path_bytes=200)


class Place:
    """A folder for a guest, in the host's or in memory, beside a secret."""

    def __init__(self, folder: Path, kind: str, *, read_only: bool = False) -> None:
        self.on_host = kind == "host"
        folder.mkdir(exist_ok=True)
        self.inside = folder / "inside"
        self.secret = folder / "secret"
        self.secret.write_bytes(SECRET)
        self.inside.mkdir()
        if kind == "host":
            settings = FileSettings(mounts=(Mount(source=str(self.inside), target="/", read_only=read_only),))
        else:
            settings = FileSettings(tmp=Tmp(target="/", size=1000, files=20))
        self.files: Files = settings.open(LIMITS, strict=False)
        self.folder: Folder = self.files.preopened[0][1]

    def open(self, path: bytes, how: int = base.READ) -> File | Folder:
        return self.files.open(self.folder, path, how)

    def make(self, path: bytes, data: bytes = b"") -> None:
        opened = self.open(path, base.WRITE | base.CREATE)
        assert isinstance(opened, File)
        if data:
            opened.write([memoryview(data)], 0)
        self.files.release(opened)


@pytest.fixture(params=["host", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, request.param)
    made.make(b"file", b"data")
    made.folder.make_folder(b"folder")
    yield made
    made.files.close()
    assert made.secret.read_bytes() == SECRET


def refused(number: int, call: Callable[..., object], *arguments: object, **options: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments, **options)
    assert caught.value.errno == number, errno.errorcode.get(caught.value.errno or 0)


def of_path(folder: Folder, path: bytes) -> list[Callable[[], object]]:
    """Every call that a path can be given to."""
    return [
        lambda: folder.open(path, base.READ),
        lambda: folder.open(path, base.WRITE | base.CREATE),
        lambda: folder.open(path, base.WRITE | base.CREATE | base.EXCLUSIVE),
        lambda: folder.open(path, base.READ | base.FOLLOW),
        lambda: folder.open(path, base.READ | base.TRUNCATE),
        lambda: folder.stat(path, follow=False),
        lambda: folder.stat(path, follow=True),
        lambda: folder.set_times(path, 0, 0, follow=False),
        lambda: folder.set_times(path, 0, 0, follow=True),
        lambda: folder.make_folder(path),
        lambda: folder.remove_folder(path),
        lambda: folder.unlink(path),
        lambda: folder.symlink(b"file", path),
        lambda: folder.read_link(path),
        lambda: folder.link(path, folder, b"new"),
        lambda: folder.link(b"file", folder, path),
        lambda: folder.rename(path, folder, b"new"),
        lambda: folder.rename(b"file", folder, path),
    ]


@pytest.mark.parametrize(
    "path", [b"../secret", b"folder/../../secret", b"./../secret", b"/secret", b"../inside/../secret", b"up/secret"]
)
def test_no_argument_leads_out(place: Place, path: bytes) -> None:
    place.folder.symlink(b"..", b"up")
    for call in of_path(place.folder, path):
        refused(errno.EPERM, call)


def test_links_cannot_be_absolute_and_those_that_are_lead_nowhere(place: Place, tmp_path: Path) -> None:
    refused(errno.EPERM, place.folder.symlink, str(place.secret).encode(), b"link")
    targets = {"absolute": place.secret, "out": "../secret", "root": "/", "up": ".."}
    for name, target in targets.items():
        (place.inside / name).symlink_to(target)
    if place.on_host:
        refused(errno.EPERM, place.open, b"absolute", base.READ | base.FOLLOW)
        refused(errno.EPERM, place.open, b"out", base.READ | base.FOLLOW)
        refused(errno.EPERM, place.open, b"out", base.WRITE | base.FOLLOW | base.TRUNCATE)
        # A slash at the end makes Linux follow a link that it was told not to follow.
        for link in (b"root/", b"up/", b"up/."):
            refused(errno.EPERM, place.folder.stat, link, follow=False)
            refused(errno.EPERM, place.folder.set_times, link, 0, 0, follow=False)
            refused(errno.EPERM, place.folder.read_link, link)
            refused(errno.EPERM, place.folder.open, link, base.READ)
        for call in (place.folder.unlink, place.folder.remove_folder):
            refused(errno.ENOTDIR, call, b"root/")


def test_a_link_that_changes_all_the_time(tmp_path: Path) -> None:
    place = Place(tmp_path, "host")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(SECRET)
    real = place.inside / "real"
    real.mkdir()
    (real / "file").write_bytes(b"data")
    (place.inside / "good").symlink_to("real")
    (place.inside / "bad").symlink_to(outside)
    over = threading.Event()

    def swap() -> None:
        at = 0
        while not over.is_set():
            at += 1
            fresh = place.inside / "fresh"
            fresh.symlink_to("real" if at % 2 else outside)
            fresh.replace(place.inside / "at")

    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[bytes] = set()
    errors: set[int | None] = set()
    try:
        for _ in range(2000):
            try:
                opened = place.open(b"at/file", base.READ | base.FOLLOW)
            except OSError as error:
                errors.add(error.errno)
                continue
            assert isinstance(opened, File)
            buffer = bytearray(100)
            seen.add(bytes(buffer[: opened.read([memoryview(buffer)], 0)]))
            place.files.release(opened)
    finally:
        over.set()
        thread.join(10)
        place.files.close()
    assert seen <= {b"data"}
    assert errors <= {errno.EPERM, errno.ENOENT, errno.EAGAIN}


def test_a_folder_that_is_moved_away_is_still_its_own_root(tmp_path: Path) -> None:
    place = Place(tmp_path, "host")
    (place.inside / "a" / "b").mkdir(parents=True)
    folder = place.open(b"a/b", base.DIRECTORY)
    assert isinstance(folder, Folder)
    (place.inside / "a" / "b").rename(tmp_path / "b")
    for path in (b"../secret", b"../inside/a", b".."):
        refused(errno.EPERM, folder.stat, path, follow=True)
    place.files.close()


def test_magic_links_of_proc_are_not_followed() -> None:
    files = FileSettings(mounts=(Mount(source="/proc", target="/"),)).open(Limits(), strict=False)
    folder = files.preopened[0][1]
    with open("/etc/hostname", "rb") as held:
        for path in (b"self/root", b"self/cwd", b"self/exe", b"self/fd/%d" % held.fileno(), b"self/root/etc/hostname"):
            with pytest.raises(OSError) as caught:
                folder.open(path, base.READ | base.FOLLOW)
            assert caught.value.errno in (errno.ELOOP, errno.EPERM)
    files.close()


def test_what_is_no_file_is_not_opened_and_blocks_nobody(tmp_path: Path) -> None:
    place = Place(tmp_path, "host")
    os.mkfifo(place.inside / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place.inside / "socket"))
        for path in (b"pipe", b"socket"):
            for how in (base.READ, base.WRITE, base.READ | base.WRITE):
                with pytest.raises(OSError) as caught:
                    place.open(path, how)
                assert caught.value.errno in (errno.EACCES, errno.ENXIO)
    place.files.close()
    devices = FileSettings(mounts=(Mount(source="/dev", target="/", read_only=False),)).open(Limits(), strict=False)
    for path in (b"null", b"zero", b"random"):
        refused(errno.EACCES, devices.open, devices.preopened[0][1], path, base.READ)
    devices.close()


def test_sparse_files_count_in_full(place: Place) -> None:
    full = errno.EDQUOT if place.on_host else errno.ENOSPC
    opened = place.open(b"file", base.READ | base.WRITE)
    assert isinstance(opened, File)
    refused(full, opened.truncate, 1 << 40)
    refused(full, opened.allocate, 1 << 40, 1)
    assert opened.size() == 4
    opened.truncate(900)
    opened.truncate(0)


def test_a_quota_that_is_exactly_reached(place: Place) -> None:
    opened = place.open(b"file", base.READ | base.WRITE)
    assert isinstance(opened, File)
    left = 1000 - 4
    assert opened.write([memoryview(bytes(left - 1))], 4) == left - 1
    # What fits is written; the byte that does not is not.
    assert opened.write([memoryview(b"ab"), memoryview(b"cd")], 4 + left - 1) == 1
    refused(errno.EDQUOT if place.on_host else errno.ENOSPC, opened.write, [memoryview(b"x")], 1000)
    assert opened.size() == 1000
    assert opened.write([], 0) == 0
    if place.on_host:
        assert place.files.quota.reached == "file_write_bytes"


def test_entries_are_counted(place: Place) -> None:
    for number in range(18):
        place.folder.make_folder(b"%d" % number)
    full = errno.EDQUOT if place.on_host else errno.ENOSPC
    refused(full, place.folder.make_folder, b"more")
    refused(full, place.folder.symlink, b"file", b"more")
    refused(full, place.open, b"more", base.WRITE | base.CREATE)
    refused(errno.EEXIST, place.folder.make_folder, b"1")
    place.make(b"file")  # it is there already
    if not place.on_host:
        place.folder.remove_folder(b"1")
        place.folder.make_folder(b"more")


def test_a_folder_with_too_many_entries_is_not_listed(tmp_path: Path) -> None:
    place = Place(tmp_path, "host")
    for number in range(30):
        (place.inside / str(number)).touch()
    assert len(place.folder.entries()) == 30
    (place.inside / "more").touch()
    refused(errno.EOVERFLOW, place.folder.entries)
    place.files.close()


def test_open_files_are_counted_and_closed_ones_are_not(place: Place) -> None:
    opened = [place.open(b"file") for _ in range(8)]
    refused(errno.EMFILE, place.open, b"file")
    refused(errno.EMFILE, place.open, b"missing")
    place.files.release(opened.pop())
    place.open(b"file")


@pytest.mark.parametrize("path", [b"a" * 201, b"a/" * 101])
def test_paths_are_bounded(place: Place, path: bytes) -> None:
    for call in of_path(place.folder, path):
        refused(errno.ENAMETOOLONG, call)
    refused(errno.ENAMETOOLONG, place.folder.symlink, path, b"link")


def test_nul_and_emptiness(place: Place) -> None:
    for call in of_path(place.folder, b"file\0"):
        refused(errno.EINVAL, call)
    for call in of_path(place.folder, b""):
        refused(errno.ENOENT, call)


def test_nothing_changes_in_a_read_only_mount(tmp_path: Path) -> None:
    place = Place(tmp_path, "host", read_only=True)
    (place.inside / "file").write_bytes(b"data")
    (place.inside / "folder").mkdir()
    folder = place.folder
    outer = FileSettings(mounts=(Mount(source=str(tmp_path), target="/", read_only=False),))
    writable = outer.open(LIMITS, strict=False)
    other = writable.preopened[0][1]
    opened = folder.open(b"file", base.READ)
    assert isinstance(opened, base.File)
    for call in (
        lambda: folder.open(b"file", base.WRITE),
        lambda: folder.open(b"file", base.READ | base.TRUNCATE),
        lambda: folder.open(b"new", base.READ | base.CREATE),
        lambda: folder.open(b"new", base.WRITE | base.CREATE | base.EXCLUSIVE),
        lambda: folder.make_folder(b"new"),
        lambda: folder.remove_folder(b"folder"),
        lambda: folder.unlink(b"file"),
        lambda: folder.symlink(b"file", b"new"),
        lambda: folder.set_times(b"file", 0, 0, follow=True),
        lambda: opened.set_times(0, 0),
        # A second name elsewhere would make it writable there.
        lambda: folder.link(b"file", other, b"new"),
        lambda: folder.rename(b"file", other, b"new"),
        lambda: other.rename(b"secret", folder, b"new"),
        lambda: other.link(b"secret", folder, b"new"),
    ):
        refused(errno.EROFS, call)
    assert sorted(os.listdir(place.inside)) == ["file", "folder"]
    assert (place.inside / "file").read_bytes() == b"data"
    opened.close()
    place.files.close()
    writable.close()


def test_folders_of_different_kinds_do_not_share_files(tmp_path: Path) -> None:
    host, memory = Place(tmp_path / "a", "host"), Place(tmp_path / "b", "memory")
    host.make(b"file")
    memory.make(b"file")
    for one, two in ((host, memory), (memory, host)):
        refused(errno.EXDEV, one.folder.rename, b"file", two.folder, b"new")
        refused(errno.EXDEV, one.folder.link, b"file", two.folder, b"new")
    host.files.close()
    memory.files.close()


def test_strict_folders_tell_nothing_of_the_host(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    for settings in (
        FileSettings(mounts=(Mount(source=str(tmp_path), target="/"),)),
        FileSettings(tmp=Tmp(target="/", size=100, files=10)),
    ):
        files = settings.open(Limits(), strict=True)
        folder = files.preopened[0][1]
        if settings.tmp is not None:
            for name in (b"b", b"a", b"c"):
                folder.open(name, base.WRITE | base.CREATE)
        assert [(entry.name, entry.inode) for entry in folder.entries()] == [(b"a", 0), (b"b", 0), (b"c", 0)]
        found = folder.stat(b"a", follow=True)
        assert (found.device, found.inode, found.links) == (0, 0, 1)
        assert {found.accessed_ns, found.modified_ns, found.changed_ns} == {1_640_995_200 * 10**9}
        files.close()
