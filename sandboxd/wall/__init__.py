"""The second wall behind the sandbox: it limits what a process of the server can do once a guest has escaped into it.

It has two layers, both called by ctypes: seccomp filters (`filters`) and Landlock (`landlock`). Each layer is used if
the kernel has it; `Mode` says what happens if not.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sandboxd.wall import filters, landlock, seccomp
from sandboxd.wall.bpf import ALLOW, Rule, assemble
from sandboxd.wall.syscalls import this_machine

__all__ = ["RESOLVER_FILES", "FolderAccess", "Layer", "Mode", "Wall", "WallError", "enclose_broker", "enclose_compiler"]

RESOLVER_FILES: Final = (
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/services",
    "/sys/devices/system/cpu/online",
)
"""The files that a name look-up reads."""
_NO_LANDLOCK: Final = "the kernel has no Landlock, or it is switched off"


class Mode(StrEnum):
    """The values of `pool.wall`."""

    AUTO = "auto"
    """Each layer is used if the kernel has it."""
    REQUIRED = "required"
    """No process starts if a layer is missing."""
    OFF = "off"
    """No layer is used."""


class Layer(StrEnum):
    """The layers of the wall. The values are labels of `sandboxd_worker_wall`."""

    SECCOMP = "seccomp"
    LANDLOCK = "landlock"


class WallError(Exception):
    """A required layer is missing. The message says which, and why."""


@dataclass(frozen=True, slots=True)
class FolderAccess:
    """Access to a folder and all that lies beneath it, which workers need for a mount."""

    path: str
    writable: bool


class Wall:
    """The wall of one zygote and its workers.

    Parameters:
        mode: the value of `pool.wall`.
        folders: the folders that the guests' mounts need.

    Raises:
        WallError: a required layer is missing.
        OSError: the kernel refused.
    """

    def __init__(self, mode: Mode, *, folders: Sequence[FolderAccess] = ()) -> None:
        self.missing: dict[Layer, str] = {}
        """The layers that are missing, and why."""
        self._ruleset: int | None = None
        self._zygote_filter = b""
        self._worker_filter: seccomp.Filter | None = None
        self._template_filter: seccomp.Filter | None = None
        self._child_filter: seccomp.Filter | None = None
        if mode is Mode.OFF:
            self.missing = dict.fromkeys(Layer, "pool.wall is off")
            return
        machine = this_machine()
        if machine is None:
            self.missing[Layer.SECCOMP] = f"there is no filter for {os.uname().machine}"
        elif not seccomp.available():
            self.missing[Layer.SECCOMP] = "the kernel has no seccomp filters"
        else:
            writing = any(folder.writable for folder in folders)
            rules = filters.zygote(files=bool(folders), writing=writing)
            self._zygote_filter = assemble(machine, rules, filters.DEFAULT)
            worker = assemble(machine, filters.worker(writing=writing), ALLOW)
            pid_at = worker.index(struct.pack("=I", filters.PID_PLACEHOLDER))
            self._worker_filter = seccomp.Filter(worker, pid_at)
            self._template_filter = seccomp.Filter(assemble(machine, filters.template(writing=writing), ALLOW))
            self._child_filter = seccomp.Filter(assemble(machine, filters.template_child(), ALLOW))
        if landlock.abi() == 0:
            self.missing[Layer.LANDLOCK] = _NO_LANDLOCK
        else:
            self._ruleset = landlock.ruleset(
                [folder.path for folder in folders if not folder.writable],
                writable=[folder.path for folder in folders if folder.writable],
            )
        _refuse_missing(mode, self.missing)

    def __repr__(self) -> str:
        return f"<Wall {' '.join(layer for layer in Layer if layer not in self.missing) or 'none'}>"

    def enclose_zygote(self) -> None:
        """Put the zygote's filter around this process. All its code must be mapped already, and all its files open.

        Raises:
            OSError: the kernel refused.
        """
        if self._zygote_filter:
            seccomp.install(self._zygote_filter)

    def enclose_worker(self) -> None:
        """Narrow the zygote's rights to those of a worker. The worker calls it, last before its work.

        Raises:
            OSError: the kernel refused. The worker must not run then.
        """
        self._restrict()
        if self._worker_filter is not None:
            self._worker_filter.install()

    def enclose_template(self) -> None:
        """Narrow the zygote's rights to those of a template. The template calls it, before it runs guest code.

        Raises:
            OSError: the kernel refused. The template must not run then.
        """
        self._restrict()
        if self._template_filter is not None:
            self._template_filter.install()

    def enclose_template_child(self) -> None:
        """Narrow a template's rights to those of a worker. The template's child calls it, before its guest goes on.

        Raises:
            OSError: the kernel refused. The child must not run then.
        """
        if self._child_filter is not None:
            self._child_filter.install()

    def _restrict(self) -> None:
        if self._ruleset is not None:
            landlock.restrict(self._ruleset)
            os.close(self._ruleset)


def enclose_compiler(mode: Mode) -> None:
    """Put the compiler's wall around this process: no file, no socket, no other program.

    Raises:
        WallError: a required layer is missing.
        OSError: the kernel refused.
    """
    if mode is not Mode.OFF:
        _enclose(mode, filters.COMPILER)


def enclose_broker(mode: Mode) -> dict[Layer, str]:
    """Put the egress broker's wall around this process: connections and the resolver's files, and nothing else.

    Returns:
        the layers that are missing, and why.

    Raises:
        WallError: a required layer is missing.
        OSError: the kernel refused.
    """
    return _enclose(mode, filters.BROKER, RESOLVER_FILES, connect=True)


def _enclose(
    mode: Mode, rules: Sequence[Rule], readable: Sequence[str] = (), *, connect: bool = False
) -> dict[Layer, str]:
    missing: dict[Layer, str] = {}
    if landlock.abi():
        ruleset = landlock.ruleset(readable, connect=connect)
        landlock.restrict(ruleset)
        os.close(ruleset)
    else:
        missing[Layer.LANDLOCK] = _NO_LANDLOCK
    machine = this_machine()
    if machine is None or not seccomp.available():
        missing[Layer.SECCOMP] = "the kernel has no seccomp filters for this machine"
    else:
        seccomp.install(assemble(machine, rules, filters.DEFAULT))
    _refuse_missing(mode, missing)
    return missing


def _refuse_missing(mode: Mode, missing: dict[Layer, str]) -> None:
    if mode is Mode.REQUIRED and missing:
        raise WallError(_listed(missing.items()))


def _listed(missing: Iterable[tuple[Layer, str]]) -> str:
    return "; ".join(f"{layer}: {why}" for layer, why in missing)
