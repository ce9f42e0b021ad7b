"""A census of the server's processes by role, with their descriptors and memory, read from /proc."""

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Census:
    """Counts at one instant."""

    zygotes: int
    workers: int
    others: int
    """Compilers, say. 0 at rest."""
    zombies: int
    front_fds: int
    zygote_fds: int
    worker_fds: int
    """The most any worker holds."""
    front_kib: int
    """Private memory."""
    zygote_kib: int
    """Private memory and its share of what it has in common with its workers (PSS)."""
    worker_kib: int
    """Private memory of the largest worker."""

    def asdict(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)


def children(pid: int) -> list[int]:
    """Direct children."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


def zygotes(front: int) -> list[int]:
    """Zygotes below a front."""
    return [pid for pid in children(front) if b"sandboxd.zygote.main" in _read(pid, "cmdline")]


def workers(front: int) -> list[int]:
    """Workers below all zygotes of a front, youngest last."""
    return [worker for zygote in zygotes(front) for worker in children(zygote)]


def take(front: int) -> Census:
    """Count now."""
    of_zygotes = zygotes(front)
    of_workers = workers(front)
    others = set(children(front)) - set(of_zygotes)
    zombies = [pid for pid in (*others, *of_zygotes, *of_workers) if _state(pid) == "Z"]
    return Census(
        zygotes=len(of_zygotes),
        workers=len(of_workers),
        others=len(others),
        zombies=len(zombies),
        front_fds=descriptors(front),
        zygote_fds=sum(descriptors(pid) for pid in of_zygotes),
        worker_fds=max((descriptors(pid) for pid in of_workers), default=0),
        front_kib=memory_kib(front)["private"],
        zygote_kib=sum(memory_kib(pid)["pss"] for pid in of_zygotes),
        worker_kib=max((memory_kib(pid)["private"] for pid in of_workers), default=0),
    )


def settled(front: int, *, workers_wanted: int, former: Census | None = None, timeout_s: float = 15.0) -> Census:
    """Count once one zygote, that many workers and nothing else are left; or after `timeout_s`, whatever there is.

    Parameters:
        former: also wait until the front has no more descriptors than then; without it, until their number rests.
    """
    end = time.monotonic() + timeout_s
    rested, last = 0, -1
    while time.monotonic() < end:
        fds = descriptors(front)
        rested = rested + 1 if fds == last else 0
        last = fds
        at_rest = fds <= former.front_fds if former is not None else rested >= 20
        if at_rest and len(zygotes(front)) == 1 and len(workers(front)) == workers_wanted and len(children(front)) == 1:
            break
        time.sleep(0.05)
    return take(front)


def descriptors(pid: int) -> int:
    """Open descriptors; 0 for a process that is gone."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def memory_kib(pid: int) -> dict[str, int]:
    """`private` and `pss` of a process in KiB; zeros for one that is gone."""
    found = {"private": 0, "pss": 0}
    for line in _read(pid, "smaps_rollup").splitlines():
        name, _, rest = line.partition(b":")
        if name in (b"Private_Clean", b"Private_Dirty"):
            found["private"] += int(rest.split()[0])
        elif name == b"Pss":
            found["pss"] += int(rest.split()[0])
    return found


def resident_kib(pid: int) -> int:
    """Resident memory: cheap enough to be read many times a second."""
    fields = _read(pid, "statm").split()
    return int(fields[1]) * PAGE // 1024 if len(fields) > 1 else 0


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if len(fields) > 12 else 0.0


def _state(pid: int) -> str:
    return (_read(pid, "stat").rpartition(b")")[2].split() or [b""])[0].decode()


def _read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
