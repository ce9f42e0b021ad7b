"""Reads the keys `mounts` and `tmp` of a component: the folders that its guest finds.

A value is a list or a mapping in YAML, or a text that contains one in YAML or JSON, since Dapr's metadata hold texts.
"""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxd.components.properties import InvalidError, Property
from sandboxd.files.problems import did_you_mean
from sandboxd.files.yamltext import Mapping, Node, Scalar, YamlError, describe, parse
from sandboxd.files.yamltext import Sequence as YamlSequence
from sandboxd.limits.about import About, Kind
from sandboxd.limits.units import MIB, Unit

MAX_MOUNTS: Final = 64
"""The most mounts of one component."""

_MOUNT_KEYS: Final = ("source", "target", "readOnly")
_TMP_KEYS: Final = ("target", "size", "files")
_SIZE: Final = About(
    key="tmp.size", kind=Kind.NUMBER, unit=Unit.SIZE, low=1, high=4096 * MIB, meaning="bytes of all files together"
)
_FILES: Final = About(
    key="tmp.files", kind=Kind.NUMBER, unit=Unit.COUNT, low=1, high=1_000_000, meaning="files and folders together"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MountSettings:
    """A mount: a folder of the host that a guest finds."""

    anchor: str
    """The absolute path of the allowed folder that holds the source. Each run looks the source up beneath it."""
    source: str
    """The source, relative to the anchor; `.` for the anchor itself."""
    target: str
    """The absolute path by which the guest finds it."""
    read_only: bool = True

    @property
    def path(self) -> str:
        """The source's absolute path."""
        return posixpath.normpath(posixpath.join(self.anchor, self.source))

    @property
    def reach(self) -> str:
        """The folder beneath which the source lies, wherever links on its path lead; without links, the source."""
        at = self.anchor
        for part in self.source.split("/"):
            below = posixpath.join(at, part)
            if os.path.islink(below):
                return at
            at = below
        return posixpath.normpath(at)


@dataclass(frozen=True, kw_only=True, slots=True)
class TmpSettings:
    """A folder in memory that each run finds empty."""

    target: str
    size: int
    """The most bytes of all files together."""
    files: int
    """The most files, folders and links together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MountPolicy:
    """The folders that the operator lets components mount.

    Parameters:
        allowed: folders that sources may lie beneath.
        whole: whether such a folder may itself be a source.
        max_tmp_bytes: the greatest size of a folder in memory.
    """

    allowed: tuple[str, ...]
    whole: bool = False
    max_tmp_bytes: int = 256 * MIB


def policy_for(allowed: Sequence[str] | None, resources: Sequence[Path | str], max_tmp_bytes: int) -> MountPolicy:
    """Return the policy of a server.

    Parameters:
        allowed: `mounts.allowedSources`. None allows what lies beneath the folders of component files. Those folders
            themselves are not allowed, because they may hold secrets.
        resources: the folders of component files.
        max_tmp_bytes: `mounts.maxTmpSize`.
    """
    folders = resources if allowed is None else allowed
    return MountPolicy(
        allowed=tuple(os.path.abspath(folder) for folder in folders),
        whole=allowed is not None,
        max_tmp_bytes=max_tmp_bytes,
    )


def read_mounts(prop: Property, folder: Path, policy: MountPolicy) -> tuple[MountSettings, ...]:
    """Read `mounts`.

    Parameters:
        prop: the key's property.
        folder: the folder of the component's file. Relative sources begin there.
        policy: the folders that may be mounted.

    Raises:
        InvalidError: the value is not a list of mounts, or a folder does not exist or is not allowed.
    """
    root = _parsed(prop)
    if root is None:
        return ()
    if not isinstance(root, YamlSequence):
        raise InvalidError(f"mounts is {describe(root)}, not a list", _EXAMPLE)
    if len(root.items) > MAX_MOUNTS:
        raise InvalidError(f"mounts has {len(root.items)} entries; at most {MAX_MOUNTS} are read")
    found = tuple(_mount(node, folder, policy) for node in root.items)
    targets = [mount.target for mount in found]
    for target in targets:
        if targets.count(target) > 1:
            raise InvalidError(f"mounts: two mounts have the target {target}")
    return found


_EXAMPLE: Final = "write a list such as [{source: data, target: /data}]"
_TMP_EXAMPLE: Final = "write a mapping such as {target: /tmp, size: 16Mi, files: 1000}"


def _mount(node: Node, folder: Path, policy: MountPolicy) -> MountSettings:
    entries = _entries(node, "mounts", _MOUNT_KEYS, _EXAMPLE)
    source = os.path.abspath(folder / _text(entries, "source", "mounts", _EXAMPLE))
    target = _target(_text(entries, "target", "mounts", _EXAMPLE), "mounts")
    anchor = _anchor(source, policy)
    if not os.path.isdir(source):
        raise InvalidError(f"mounts: {source} is not a folder that can be read", "create it, or name another source")
    return MountSettings(
        anchor=anchor,
        source=os.path.relpath(source, anchor),
        target=target,
        read_only=_flag(entries, "readOnly", default=True),
    )


def _anchor(source: str, policy: MountPolicy) -> str:
    """Return the allowed folder that holds both a source and what the links on its path lead to.

    Raises:
        InvalidError: there is no such folder.
    """
    for allowed in policy.allowed:
        if source.startswith(allowed.rstrip("/") + "/") or (source == allowed and policy.whole):
            real, limit = os.path.realpath(source), os.path.realpath(allowed)
            if real.startswith(limit.rstrip("/") + "/") or (real == limit and policy.whole):
                return allowed
    listed = ", ".join(policy.allowed) or "no folder"
    real = os.path.realpath(source)
    leads = "" if real == source else f", which by its links is {real},"
    raise InvalidError(
        f"mounts: {source}{leads} is not beneath {listed}, where sources may lie",
        "move it there, or list its folder in mounts.allowedSources of sandboxd.yaml",
    )


def read_tmp(prop: Property, policy: MountPolicy) -> TmpSettings | None:
    """Read `tmp`.

    Raises:
        InvalidError: the value is not such a mapping, or a number is out of range.
    """
    root = _parsed(prop)
    if root is None:
        return None
    entries = _entries(root, "tmp", _TMP_KEYS, _TMP_EXAMPLE)
    size = _number(entries, "size", _SIZE, 16 * MIB)
    if size > policy.max_tmp_bytes:
        raise InvalidError(
            f"tmp.size {Unit.SIZE.format(size)} is above the operator's ceiling of "
            f"{Unit.SIZE.format(policy.max_tmp_bytes)}",
            "lower it, or raise mounts.maxTmpSize in sandboxd.yaml",
        )
    return TmpSettings(
        target=_target(_text(entries, "target", "tmp", _TMP_EXAMPLE), "tmp"),
        size=size,
        files=_number(entries, "files", _FILES, 1_000),
    )


def _parsed(prop: Property) -> Node | None:
    try:
        root = parse(prop.value).root
    except YamlError as error:
        raise InvalidError(f"{prop.name} is neither YAML nor JSON: {error.message}") from None
    return None if isinstance(root, Scalar) and root.value in (None, "") else root


def _entries(node: Node, name: str, known: Sequence[str], example: str) -> dict[str, Node]:
    if not isinstance(node, Mapping):
        raise InvalidError(f"{name}: {describe(node)} where a mapping is expected", example)
    for key in node.entries:
        if key not in known:
            raise InvalidError(f"{name}: {key} is unknown", did_you_mean(key, known) or example)
    return dict(node.entries)


def _text(entries: dict[str, Node], key: str, name: str, example: str) -> str:
    node = entries.get(key)
    if not (isinstance(node, Scalar) and isinstance(node.value, str) and node.value):
        raise InvalidError(f"{name}: {key} is {'missing' if node is None else describe(node) + ', not text'}", example)
    if any(ord(char) < 0x20 or 0xD800 <= ord(char) <= 0xDFFF for char in node.value):
        raise InvalidError(f"{name}: {key} contains a control character")
    return node.value


def _target(text: str, name: str) -> str:
    if not text.startswith("/") or ".." in text.split("/"):
        raise InvalidError(f"{name}: the target {text!r} is not an absolute path", "write a path such as /data")
    return posixpath.normpath("/" + text.lstrip("/"))


def _flag(entries: dict[str, Node], key: str, *, default: bool) -> bool:
    node = entries.get(key)
    if node is None:
        return default
    if not (isinstance(node, Scalar) and isinstance(node.value, bool)):
        raise InvalidError(f"mounts: {key} is {describe(node)}", "write true or false")
    return node.value


def _number(entries: dict[str, Node], key: str, about: About, default: int) -> int:
    node = entries.get(key)
    if node is None:
        return default
    if not isinstance(node, Scalar) or isinstance(node.value, bool) or not isinstance(node.value, int | str):
        raise InvalidError(f"tmp: {key} is {describe(node)} where a number is expected", _TMP_EXAMPLE)
    try:
        value = node.value if isinstance(node.value, int) else about.unit.parse(node.value)
        about.check(value)
    except ValueError as error:
        raise InvalidError(f"tmp: {key}: {error}", _TMP_EXAMPLE) from None
    return value
