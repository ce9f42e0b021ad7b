"""What a worker with mounts can do once a guest has escaped into it: the wall itself, around a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxd.wall import landlock, seccomp

pytestmark = pytest.mark.skipif(
    not landlock.abi() or not seccomp.available(), reason="the kernel has no Landlock or no seccomp filters"
)

SCRIPT = """
import ctypes, json, os, sys
from sandboxd.wall import FolderAccess, Mode, Wall
from sandboxd.wall.confinement import forbid_new_privileges
from hostfuncs.files.calls import open_beneath, set_times
folder, folders = sys.argv[1], [FolderAccess(path, writable) for path, writable in json.loads(sys.argv[2])]
libc = ctypes.CDLL(None, use_errno=True)
def open2(path, flags):
    how = flags.to_bytes(8, "little") + (0o600 if flags & os.O_CREAT else 0).to_bytes(8, "little") + bytes(8)
    found = libc.syscall(437, -100, path.encode(), how, 24)
    return "open" if found >= 0 else ctypes.get_errno()
def attempt(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return "done"
forbid_new_privileges()
wall = Wall(Mode.REQUIRED, folders=folders)
root = os.open(folder, os.O_PATH)
wall.enclose_zygote()
wall.enclose_worker()
new = os.O_WRONLY | os.O_CREAT
print(json.dumps({
    "read mounted": open2(folder + "/ro/file", os.O_RDONLY),
    "write mounted": open2(folder + "/ro/file", os.O_WRONLY),
    "make in read-only": open2(folder + "/ro/new", new),
    "read writable": open2(folder + "/rw/file", os.O_RDONLY),
    "make in writable": open2(folder + "/rw/new", new),
    "read beside": open2(folder + "/secret", os.O_RDONLY),
    "read far away": open2("/etc/passwd", os.O_RDONLY),
    "unlink in read-only": attempt(lambda: os.unlink("ro/file", dir_fd=root)),
    "unlink beside": attempt(lambda: os.unlink("secret", dir_fd=root)),
    "move out": attempt(lambda: os.rename("rw/file", "moved", src_dir_fd=root, dst_dir_fd=root)),
    "link in": attempt(lambda: os.link("secret", "rw/secret", src_dir_fd=root, dst_dir_fd=root)),
    "make a pipe": attempt(lambda: os.mkfifo("rw/pipe", dir_fd=root)),
    "by the old call": attempt(lambda: os.open(folder + "/ro/file", os.O_RDONLY)),
}))
"""
EPERM, EACCES, EXDEV = 1, 13, 18


def attempts(folder: Path, reaches: list[tuple[str, bool]]) -> dict[str, object]:
    for name in ("ro", "rw"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    (folder / "secret").touch()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps([(str(folder / name), w) for name, w in reaches])],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_worker_reaches_its_mounts_and_nothing_else(tmp_path: Path) -> None:
    found = attempts(tmp_path, [("ro", False), ("rw", True)])
    assert {name: found[name] for name in ("read mounted", "read writable", "make in writable")} == {
        "read mounted": "open",
        "read writable": "open",
        "make in writable": "open",
    }
    rest = {name: end for name, end in found.items() if end not in ("open", "done")}
    assert len(rest) == len(found) - 3
    assert set(rest.values()) <= {EPERM, EACCES, EXDEV}, found
    assert (tmp_path / "secret").exists()
    assert not (tmp_path / "rw" / "secret").exists()


def test_without_writable_mounts_no_call_changes_a_file(tmp_path: Path) -> None:
    found = attempts(tmp_path, [("ro", False)])
    assert found.pop("read mounted") == "open"
    assert set(found.values()) <= {EPERM, EACCES}, found
    for name in ("unlink in read-only", "unlink beside", "move out", "link in"):
        assert found[name] == EPERM, name


def test_openat2_is_denied_without_mounts(tmp_path: Path) -> None:
    assert set(attempts(tmp_path, []).values()) == {EPERM}
