"""A folder in memory answers as a folder of the host does, whatever is asked of it: the same calls on both, at random.

Where both refuse, the reason may be another: which of two mistakes is told first is no program's business. Calls that
are about one path and change something give the same reason, too.
"""

import errno
import random
from pathlib import Path

import pytest

from hostfuncs.files import File, Files, FileSettings, Folder, Kind, Mount, Tmp, base
from hostfuncs.limits import Limits

LIMITS = Limits(file_write_bytes=1 << 30, file_entries=1_000_000, open_files=1_000)
NAMES = (
    "a b c a/b a/c b/ a/ . .. a/.. a/../b a/. l l/ l/b m m/x a//b c/b ./a a/b/.. l/.. ./ a/b/ b/../a ../a a/./".split()  # noqa: SIM905 -- a table of words
)
LINKS = "a b l m a/b . .. ../a a/../b missing a/ ./b/".split()  # noqa: SIM905
OPENINGS = (1, 2, 3, 5, 6, 7, 13, 14, 22, 32, 33, 36, 65, 66, 70, 71, 78, 86, 97, 134)


def answer(files: Files, folder: Folder, dice: random.Random) -> tuple[int, object]:
    """Make one call. Gives back its number, and what came of it."""
    call = dice.randrange(12)
    path, other, target = (dice.choice(names).encode() for names in (NAMES, NAMES, LINKS))
    how, follow = dice.choice(OPENINGS), bool(dice.randrange(2))
    try:
        return call, made(files, folder, call, path, other, target, how, follow)
    except OSError as error:
        return call, errno.errorcode[error.errno or 0]


def made(
    files: Files, folder: Folder, call: int, path: bytes, other: bytes, target: bytes, how: int, follow: bool
) -> object:
    match call:
        case 0 | 1:
            found = files.open(folder, path, how)
            told: object = "folder"
            if isinstance(found, File):
                written = found.write([memoryview(b"data")], 3) if call and how & base.WRITE else 0
                told = written, found.size()
            files.release(found)
            return told
        case 2:
            stat = folder.stat(path, follow=follow)
            return stat.kind, (stat.size, stat.links) if stat.kind is not Kind.DIRECTORY else None
        case 3:
            return folder.make_folder(path)
        case 4:
            return folder.remove_folder(path)
        case 5:
            return folder.unlink(path)
        case 6:
            return folder.symlink(target, path)
        case 7:
            return folder.read_link(path)
        case 8:
            return folder.link(path, folder, other)
        case 10:
            return sorted(entry[:2] for entry in folder.entries())
        case 11:
            return folder.set_times(path, 1, 2, follow=follow)
    return folder.rename(path, folder, other)


@pytest.mark.parametrize("block", range(4))
def test_random_calls_end_alike(tmp_path: Path, block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        root = tmp_path / str(seed)
        root.mkdir()
        mount = Mount(source=str(root), target="/host", read_only=False)
        settings = FileSettings(mounts=(mount,), tmp=Tmp(target="/memory", size=1 << 20, files=10_000))
        files = settings.open(LIMITS, strict=False)
        ours = [(folder, random.Random(seed)) for _, folder in files.preopened]
        for step in range(60):
            (call, one), (_, two) = (answer(files, folder, dice) for folder, dice in ours)
            both_refuse = isinstance(one, str) and isinstance(two, str) and "folder" not in (one, two)
            if not both_refuse or call in (3, 4, 5):
                assert one == two, (seed, step, call)
        files.close()
