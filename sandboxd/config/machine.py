"""The number of CPUs that this process may use."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def cpu_count() -> int:
    """Return the number of CPUs that this process may use: its affinity mask, or less by a cgroup quota; at least 1."""
    cpus = len(os.sched_getaffinity(0))
    quota = cgroup_cpus(_CGROUPS, _OWN_CGROUP)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def may_poll() -> bool:
    """Return whether polling is affordable: there is a second CPU, and no quota meters their use."""
    return len(os.sched_getaffinity(0)) > 1 and cgroup_cpus(_CGROUPS, _OWN_CGROUP) is None


def cgroup_cpus(root: Path, own: Path) -> float | None:
    """Return the smallest `cpu.max` quota of a process's cgroup and its parents, in CPUs; None if none is set.

    Source: Linux Documentation/admin-guide/cgroup-v2.rst, `cpu.max`: "$MAX $PERIOD", in microseconds, `max` for none.

    Parameters:
        root: where cgroup2 is mounted.
        own: the process's /proc/PID/cgroup; its `0::` line names the cgroup.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None  # no cgroups: nothing limits this process
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if path is None or ".." in path.split("/"):
        return None
    folder = root / path.lstrip("/")
    smallest: float | None = None
    for candidate in (folder, *folder.parents):
        if candidate != root and root not in candidate.parents:
            break
        quota = _quota(candidate / "cpu.max")
        if quota is not None and (smallest is None or quota < smallest):
            smallest = quota
    return smallest


def _quota(file: Path) -> float | None:
    try:
        words = file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None  # the controller is off here, or this is the real root
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])
