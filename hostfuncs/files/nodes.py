"""What a folder in memory is made of: files, folders and links, and the room that they share."""

import errno
import time
from collections.abc import Callable
from typing import Final

from hostfuncs.files.base import Kind, Stat
from hostfuncs.files.host_file import FIXED_NS

_DEVICE: Final = 1


class Space:
    """The room of one folder in memory.

    Parameters:
        size: bytes of all files together.
        files: files, folders and links together.
        strict: fixed times, no inode numbers.
    """

    __slots__ = ("bytes_left", "files_left", "last_inode", "now", "strict")

    def __init__(self, size: int, files: int, strict: bool) -> None:
        self.bytes_left = size
        self.files_left = files
        self.last_inode = 0
        self.strict = strict
        self.now: Callable[[], int] = (lambda: FIXED_NS) if strict else time.time_ns

    def __repr__(self) -> str:
        return f"<Space bytes_left={self.bytes_left} files_left={self.files_left}>"

    def take(self, size: int) -> None:
        """Take bytes, all or none; a negative number gives some back. Raises ENOSPC."""
        if size > self.bytes_left:
            raise OSError(errno.ENOSPC, "the folder in memory is full")
        self.bytes_left -= size


class Node:
    """A file, folder or link."""

    __slots__ = ("accessed_ns", "changed_ns", "inode", "links", "modified_ns", "space")
    kind = Kind.UNKNOWN

    def __init__(self, space: Space) -> None:
        if not space.files_left:
            raise OSError(errno.ENOSPC, "the folder in memory has no room for another file")
        space.files_left -= 1
        space.last_inode += 1
        self.space = space
        self.inode = space.last_inode
        self.links = 1
        self.accessed_ns = self.modified_ns = self.changed_ns = space.now()

    def size(self) -> int:
        return 0

    def changed(self) -> None:
        self.modified_ns = self.changed_ns = self.space.now()

    def lost_name(self) -> None:
        """One of its names was removed."""
        self.links -= 1
        self.changed_ns = self.space.now()
        if self.links == 0:
            self.space.files_left += 1

    def stat(self) -> Stat:
        inode, device = (0, 0) if self.space.strict else (self.inode, _DEVICE)
        times = (self.accessed_ns, self.modified_ns, self.changed_ns)
        return Stat(device, inode, self.kind, self.links, self.size(), *times)

    def set_times(self, accessed_ns: int | None, modified_ns: int | None) -> None:
        if self.space.strict:
            return
        self.changed_ns = self.space.now()
        if accessed_ns is not None:
            self.accessed_ns = accessed_ns
        if modified_ns is not None:
            self.modified_ns = modified_ns


class FileNode(Node):
    __slots__ = ("data", "opened")
    kind = Kind.REGULAR_FILE

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.data = bytearray()
        self.opened = 0

    def size(self) -> int:
        return len(self.data)

    def resize(self, size: int) -> None:
        growth = size - len(self.data)
        self.space.take(growth)
        if growth < 0:
            del self.data[size:]
        else:
            self.data.extend(bytes(growth))
        self.changed()

    def lost_name(self) -> None:
        super().lost_name()
        self.forget()

    def forget(self) -> None:
        """Give its bytes back if nobody can reach them any more."""
        if not self.links and not self.opened:
            self.space.take(-len(self.data))
            self.data = bytearray()


class LinkNode(Node):
    __slots__ = ("target",)
    kind = Kind.SYMBOLIC_LINK

    def __init__(self, space: Space, target: bytes) -> None:
        space.take(len(target))
        super().__init__(space)
        self.target = target

    def size(self) -> int:
        return len(self.target)

    def lost_name(self) -> None:
        super().lost_name()
        if not self.links:
            self.space.take(-len(self.target))


class FolderNode(Node):
    __slots__ = ("nodes", "parent")
    kind = Kind.DIRECTORY

    def __init__(self, space: Space, parent: "FolderNode | None") -> None:
        super().__init__(space)
        self.nodes: dict[bytes, Node] = {}
        self.parent = parent
        self.links = 1

    def put(self, name: bytes, node: Node) -> None:
        self.nodes[name] = node
        self.changed()

    def remove(self, name: bytes) -> None:
        node = self.nodes.pop(name)
        self.changed()
        node.lost_name()

    def discard(self) -> None:
        """Unlink everything in it from everything else, however deep, so that no cycle waits for the collector."""
        todo = [self]
        while todo:
            folder = todo.pop()
            todo.extend(node for node in folder.nodes.values() if isinstance(node, FolderNode))
            folder.nodes.clear()
            folder.parent = None

    def is_within(self, folder: "FolderNode") -> bool:
        at: FolderNode | None = self
        while at is not None and at is not folder:
            at = at.parent
        return at is not None
