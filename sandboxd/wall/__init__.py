"""The second wall behind the sandbox: what a process of ours can still do once a guest has escaped into it.

Two layers of the kernel's, both by ctypes: seccomp filters (`filters`) and Landlock (`landlock`). Each stands where the
kernel offers it; `Mode` says what happens where it does not.
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

__all__ = ["RESOLVER_FILES", "Layer", "Mode", "Reach", "Wall", "WallError", "enclose_broker", "enclose_compiler"]

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


class Mode(StrEnum):
    """The values of `pool.wall`."""

    AUTO = "auto"
    """Each layer stands where the kernel offers it."""
    REQUIRED = "required"
    """Nothing starts where a layer is missing."""
    OFF = "off"
    """No layer stands."""


class Layer(StrEnum):
    """One layer of the wall; the label of `sandboxd_worker_wall`."""

    SECCOMP = "seccomp"
    LANDLOCK = "landlock"


class WallError(Exception):
    """A layer is required and cannot stand. The text says which, and why."""


@dataclass(frozen=True, slots=True)
class Reach:
    """A folder that workers need for a mount, with all that lies beneath it."""

    path: str
    writable: bool


class Wall:
    """The wall of one zygote and its workers.

    Parameters:
        mode: see there.
        folders: what their guests' mounts need.

    Raises:
        WallError: a required layer cannot stand.
        OSError: the kernel refused.
    """

    def __init__(self, mode: Mode, *, folders: Sequence[Reach] = ()) -> None:
        self.missing: dict[Layer, str] = {}
        """The layers that do not stand, and why."""
        self._ruleset: int | None = None
        self._wide = b""
        self._narrow: seccomp.Prepared | None = None
        self._template: seccomp.Prepared | None = None
        self._child: seccomp.Prepared | None = None
        if mode is Mode.OFF:
            self.missing = dict.fromkeys(Layer, "pool.wall is off")
            return
        machine = this_machine()
        if machine is None:
            self.missing[Layer.SECCOMP] = f"no filter is known for {os.uname().machine}"
        elif not seccomp.available():
            self.missing[Layer.SECCOMP] = "the kernel takes no seccomp filters"
        else:
            writing = any(folder.writable for folder in folders)
            self._wide = assemble(machine, filters.zygote(files=bool(folders), writing=writing), filters.DEFAULT)
            narrow = assemble(machine, filters.worker(writing=writing), ALLOW)
            pid_at = narrow.index(struct.pack("=I", filters.PID_TO_COME))
            self._narrow = seccomp.Prepared(narrow, pid_at)
            self._template = seccomp.Prepared(assemble(machine, filters.template(writing=writing), ALLOW))
            self._child = seccomp.Prepared(assemble(machine, filters.template_child(), ALLOW))
        if landlock.abi() == 0:
            self.missing[Layer.LANDLOCK] = "the kernel has no Landlock, or it is switched off"
        else:
            self._ruleset = landlock.ruleset(
                [folder.path for folder in folders if not folder.writable],
                writable=[folder.path for folder in folders if folder.writable],
            )
        _refuse_missing(mode, self.missing)

    def __repr__(self) -> str:
        return f"<Wall {' '.join(layer for layer in Layer if layer not in self.missing) or 'none'}>"

    def enclose_zygote(self) -> None:
        """Put the wide filter around this process. Everything it maps as code must be mapped, all it reads open.

        Raises:
            OSError: the kernel refused.
        """
        if self._wide:
            seccomp.install(self._wide)

    def enclose_worker(self) -> None:
        """Narrow what the zygote may to what a worker may. Called in the worker, as the last step before its work.

        Raises:
            OSError: the kernel refused. The worker must not run then.
        """
        self._restrict()
        if self._narrow is not None:
            self._narrow.install()

    def enclose_template(self) -> None:
        """Narrow what the zygote may to what a template may. Called in the template, before it runs guest code.

        Raises:
            OSError: the kernel refused. The template must not run then.
        """
        self._restrict()
        if self._template is not None:
            self._template.install()

    def enclose_template_child(self) -> None:
        """Narrow what a template may to what a worker may. Called in a template's child, before its guest goes on.

        Raises:
            OSError: the kernel refused. The child must not run then.
        """
        if self._child is not None:
            self._child.install()

    def _restrict(self) -> None:
        if self._ruleset is not None:
            landlock.restrict(self._ruleset)
            os.close(self._ruleset)


def enclose_compiler(mode: Mode) -> None:
    """Put the compiler's wall around this process: no file, no socket, no other program.

    Raises:
        WallError: a required layer cannot stand.
        OSError: the kernel refused.
    """
    if mode is not Mode.OFF:
        _enclose(mode, filters.COMPILER)


def enclose_broker(mode: Mode) -> dict[Layer, str]:
    """Put the egress broker's wall around this process: it connects, and reads the files of the resolver.

    Returns:
        the layers that do not stand, and why.

    Raises:
        WallError: a required layer cannot stand.
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
        missing[Layer.LANDLOCK] = "the kernel has no Landlock, or it is switched off"
    machine = this_machine()
    if machine is None or not seccomp.available():
        missing[Layer.SECCOMP] = "the kernel takes no seccomp filters for this machine"
    else:
        seccomp.install(assemble(machine, rules, filters.DEFAULT))
    _refuse_missing(mode, missing)
    return missing


def _refuse_missing(mode: Mode, missing: dict[Layer, str]) -> None:
    if mode is Mode.REQUIRED and missing:
        raise WallError(_listed(missing.items()))


def _listed(missing: Iterable[tuple[Layer, str]]) -> str:
    return "; ".join(f"{layer}: {why}" for layer, why in missing)
