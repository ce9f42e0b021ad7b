"""The nodes of a folder in memory: files, folders and symbolic links, and the space that they share."""

import errno
import time
from collections.abc import Callable
from typing import Final

from hostfuncs.files.base import Kind, Stat
from hostfuncs.files.host_file import FIXED_NS

_DEVICE: Final = 1


class Space:
    """The space of one folder in memory.

    Parameters:
        size: the most bytes of all files together.
        files: the most files, folders and links together.
        strict: whether times are fixed, and inode numbers are 0.
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
        """Take bytes, all or none. A negative number returns some. Raises ENOSPC."""
        if size > self.bytes_left:
            raise OSError(errno.ENOSPC, "the folder in memory is full")
        self.bytes_left -= size


class Node:
    """A file, a folder or a symbolic link.

    Raises:
        OSError: ENOSPC if the space has as many of them as it may.
    """

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
        """Return its size in bytes, as `stat` reports it."""
        return 0

    def changed(self) -> None:
        """Record that its content has changed."""
        self.modified_ns = self.changed_ns = self.space.now()

    def lost_name(self) -> None:
        """Record that one of its names was removed."""
        self.links -= 1
        self.changed_ns = self.space.now()
        if self.links == 0:
            self.space.files_left += 1

    def stat(self) -> Stat:
        """Return its attributes."""
        inode, device = (0, 0) if self.space.strict else (self.inode, _DEVICE)
        times = (self.accessed_ns, self.modified_ns, self.changed_ns)
        return Stat(device, inode, self.kind, self.links, self.size(), *times)

    def set_times(self, accessed_ns: int | None, modified_ns: int | None) -> None:
        """Set its times; None leaves one as it is. In strict mode it has no effect."""
        if self.space.strict:
            return
        self.changed_ns = self.space.now()
        if accessed_ns is not None:
            self.accessed_ns = accessed_ns
        if modified_ns is not None:
            self.modified_ns = modified_ns


class FileNode(Node):
    """A regular file."""

    __slots__ = ("data", "opened")
    kind = Kind.REGULAR_FILE

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.data = bytearray()
        self.opened = 0

    def size(self) -> int:
        return len(self.data)

    def resize(self, size: int) -> None:
        """Make it `size` bytes long. Raises ENOSPC."""
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
        """Free its bytes if it has no name and is not open."""
        if not self.links and not self.opened:
            self.space.take(-len(self.data))
            self.data = bytearray()


class LinkNode(Node):
    """A symbolic link."""

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
    """A folder."""

    __slots__ = ("nodes", "parent")
    kind = Kind.DIRECTORY

    def __init__(self, space: Space, parent: "FolderNode | None") -> None:
        super().__init__(space)
        self.nodes: dict[bytes, Node] = {}
        self.parent = parent
        self.links = 1

    def put(self, name: bytes, node: Node) -> None:
        """Add an entry."""
        self.nodes[name] = node
        self.changed()

    def remove(self, name: bytes) -> None:
        """Remove an entry."""
        node = self.nodes.pop(name)
        self.changed()
        node.lost_name()

    def discard(self) -> None:
        """Break the reference cycles of all folders beneath it, so that no cycle waits for the garbage collector."""
        todo = [self]
        while todo:
            folder = todo.pop()
            todo.extend(node for node in folder.nodes.values() if isinstance(node, FolderNode))
            folder.nodes.clear()
            folder.parent = None

    def is_within(self, folder: "FolderNode") -> bool:
        """Return whether it is a folder, or lies beneath it."""
        at: FolderNode | None = self
        while at is not None and at is not folder:
            at = at.parent
        return at is not None
