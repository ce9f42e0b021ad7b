"""A writable folder in memory, which exists for one run. It makes no system calls.

It behaves as a Linux tmpfs. As in `hostfuncs.files.host`, a path cannot leave the folder to which it is relative.
"""

import errno
from collections.abc import Sequence
from typing import Final

from hostfuncs.files import base
from hostfuncs.files.base import Entry, File, Folder, Stat
from hostfuncs.files.nodes import FileNode, FolderNode, LinkNode, Node, Space
from hostfuncs.files.quota import Quota

_MOST_LINKS: Final = 40
"""The most symbolic links through which one path may lead, as in Linux."""
_NAME_MAX: Final = 255


def _names(parts: Sequence[bytes]) -> int:
    """Return the number of parts of a path that are not empty."""
    return len(parts) - parts.count(b"")


class MemoryFile(File):
    """An open file in memory.

    Parameters:
        node: the file.
        how: the flags with which it was opened.
    """

    __slots__ = ("_append", "_node")

    def __init__(self, node: FileNode, how: int) -> None:
        self._node = node
        self._append = bool(how & base.APPEND)
        self.how = how
        node.opened += 1

    def __repr__(self) -> str:
        return f"<MemoryFile of {len(self._node.data)} bytes>"

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """See File."""
        if self.how & (base.READ | base.WRITE) == base.WRITE:
            raise OSError(errno.EBADF, "the file was opened for writing only")
        at = offset
        with memoryview(self._node.data) as data:
            for view in views:
                piece = data[at : at + len(view)]
                view[: len(piece)] = piece
                at += len(piece)
                if len(piece) < len(view):
                    break
        return max(0, at - offset)

    def write(self, views: Sequence[memoryview], offset: int) -> int:
        """See File."""
        self._expect_writable(errno.EBADF)
        node = self._node
        data = node.data
        if self._append:
            offset = len(data)
        wanted = sum(map(len, views))
        if not wanted:
            return 0
        granted = min(wanted, len(data) + node.space.bytes_left - offset)
        if granted <= 0:
            raise OSError(errno.ENOSPC, "the folder in memory is full")
        if offset > len(data):
            node.resize(offset)
        node.space.take(max(0, offset + granted - len(data)))
        at, left = offset, granted
        for view in views:
            piece = view[:left]
            data[at : at + len(piece)] = piece
            at += len(piece)
            left -= len(piece)
        node.changed()
        return granted

    def _expect_writable(self, number: int) -> None:
        """Raise the error that Linux has for a change through a descriptor that is open for reading."""
        if not self.how & base.WRITE:
            raise OSError(number, "the file was opened for reading only")

    def size(self) -> int:
        """See File."""
        return len(self._node.data)

    def truncate(self, size: int) -> None:
        """See File."""
        self._expect_writable(errno.EINVAL)
        self._node.resize(size)

    def allocate(self, offset: int, size: int) -> None:
        """See File."""
        self._expect_writable(errno.EBADF)
        if offset + size > len(self._node.data):
            self._node.resize(offset + size)

    def advise(self, offset: int, size: int, advice: int) -> None:
        """See File. It has no effect in memory."""

    def sync(self, *, data_only: bool) -> None:
        """See File. It has no effect in memory."""

    def set_append(self, append: bool) -> None:
        """See File."""
        self._append = append

    def stat(self) -> Stat:
        """See File."""
        return self._node.stat()

    def set_times(self, accessed_ns: int | None, modified_ns: int | None) -> None:
        """See File."""
        self._node.set_times(accessed_ns, modified_ns)

    def close(self) -> None:
        """See File."""
        self._node.opened -= 1
        self._node.forget()


class MemoryFolder(Folder):
    """An open folder in memory.

    Parameters:
        quota: bounds paths and listings.
        space: bounds the bytes and files.
        node: the folder; None makes a new root.
    """

    __slots__ = ("_node", "_quota", "_space")

    def __init__(self, quota: Quota, space: Space, node: FolderNode | None = None) -> None:
        self._quota = quota
        self._space = space
        self.read_only = False
        if node is None:
            space.files_left += 1  # the root is not the guest's
            node = FolderNode(space, None)
        self._node = node

    def __repr__(self) -> str:
        return f"<MemoryFolder of {len(self._node.nodes)} entries>"

    def discard(self) -> None:
        """Break the reference cycles between its folders and their parents. Nothing may use it afterwards."""
        self._node.discard()

    def _find(self, path: bytes, *, follow: bool) -> tuple[list[FolderNode], bytes, Node | None, bool]:
        """Look a path up.

        Returns:
            the folders from this one to the entry's, the entry's name (empty for `.` and `..`), its node, and whether
            it must be a folder because a slash follows.
        """
        self._quota.check_path(path)
        stack = [self._node]
        todo = path.split(b"/")[::-1]
        names_left = _names(todo)
        links = 0
        name = b""
        found: Node | None = None
        while todo:
            part = todo.pop()
            names_left -= part != b""
            last = not names_left  # slashes at the end do not count
            if part in (b"", b"."):
                name, found = b"", stack[-1]
                continue
            if part == b"..":
                if len(stack) == 1:
                    raise OSError(errno.EPERM, "the path leads out of the folder")
                stack.pop()
                name, found = b"", stack[-1]
                continue
            if len(part) > _NAME_MAX:
                raise OSError(errno.ENAMETOOLONG, "a name is too long")
            name, found = part, stack[-1].nodes.get(part)
            if isinstance(found, LinkNode) and (not last or follow or todo):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, "too many symbolic links")
                if found.target.startswith(b"/"):
                    raise OSError(errno.EPERM, "the link leads out of the folder")
                parts = found.target.split(b"/")[::-1]
                names_left += _names(parts)
                todo.extend(parts)
            elif last:
                break
            elif found is None:
                raise OSError(errno.ENOENT, "a folder of the path does not exist")
            elif not isinstance(found, FolderNode):
                raise OSError(errno.ENOTDIR, "a part of the path is not a folder")
            else:
                stack.append(found)
        slash = bool(todo) or path.endswith(b"/")
        return stack, name, found, slash

    def _existing(self, path: bytes, *, follow: bool) -> tuple[list[FolderNode], bytes, Node]:
        stack, name, found, slash = self._find(path, follow=follow)
        if found is None:
            raise OSError(errno.ENOENT, "no such file or folder")
        if slash and not isinstance(found, FolderNode):
            raise OSError(errno.ENOTDIR, "not a folder")
        return stack, name, found

    def _entry(self, path: bytes) -> tuple[list[FolderNode], bytes, Node | None, bool]:
        """Look up an entry that will be changed. As in Linux, a slash after its name does not follow a link.

        Returns:
            see `_find`.
        """
        stripped = self._quota.check_path(path).rstrip(b"/")
        stack, name, found, _ = self._find(stripped, follow=False)
        slash = len(stripped) != len(path)
        return stack, name, found, slash

    def _changed_entry(self, path: bytes) -> tuple[list[FolderNode], bytes, Node]:
        stack, name, found, slash = self._entry(path)
        if found is None:
            raise OSError(errno.ENOENT, "no such file or folder")
        if slash and not isinstance(found, FolderNode):
            raise OSError(errno.ENOTDIR, "not a folder")
        return stack, name, found

    def _vacant(self, path: bytes, *, folder: bool) -> tuple[FolderNode, bytes]:
        """Return the folder of a new entry, and the entry's name."""
        stack, name, found, slash = self._entry(path)
        if found is not None or not name:
            raise OSError(errno.EEXIST, "the name is taken")
        if slash and not folder:
            raise OSError(errno.ENOENT, "a slash ends the name, and there is no such folder")
        if not stack[-1].links:
            raise OSError(errno.ENOENT, "the folder was removed")
        return stack[-1], name

    def open(self, path: bytes, how: int) -> File | Folder:
        """See Folder."""
        if how & base.DIRECTORY and how & base.WRITE:
            raise OSError(errno.EISDIR, "a folder cannot be opened for writing")
        if how & base.CREATE and how & base.DIRECTORY:
            raise OSError(errno.EINVAL, "a folder cannot be created by opening it")
        follow = bool(how & base.FOLLOW) and not how & base.EXCLUSIVE
        stack, name, found, slash = self._find(path, follow=follow)
        if found is None:
            if not how & base.CREATE:
                raise OSError(errno.ENOENT, "no such file or folder")
            if slash:
                raise OSError(errno.EISDIR, "a slash ends the name")
            if not stack[-1].links:
                raise OSError(errno.ENOENT, "the folder was removed")
            found = FileNode(self._space)
            stack[-1].put(name, found)
        elif how & base.CREATE and how & base.EXCLUSIVE:
            raise OSError(errno.EEXIST, "the name is taken")
        if isinstance(found, FolderNode):
            if how & (base.WRITE | base.TRUNCATE | base.CREATE):
                raise OSError(errno.EISDIR, "it is a folder")
            return MemoryFolder(self._quota, self._space, found)
        if how & base.DIRECTORY or slash:
            raise OSError(errno.ENOTDIR, "it is not a folder")
        if not isinstance(found, FileNode):
            raise OSError(errno.ELOOP, "it is a symbolic link")
        if how & base.TRUNCATE:
            found.resize(0)
        return MemoryFile(found, how)

    def stat(self, path: bytes, *, follow: bool) -> Stat:
        """See Folder."""
        return self._existing(path, follow=follow)[2].stat()

    def own_stat(self) -> Stat:
        """See Folder."""
        return self._node.stat()

    def set_times(self, path: bytes, accessed_ns: int | None, modified_ns: int | None, *, follow: bool) -> None:
        """See Folder."""
        self._existing(path, follow=follow)[2].set_times(accessed_ns, modified_ns)

    def make_folder(self, path: bytes) -> None:
        """See Folder."""
        folder, name = self._vacant(path, folder=True)
        folder.put(name, FolderNode(self._space, folder))

    def remove_folder(self, path: bytes) -> None:
        """See Folder."""
        stack, name, found = self._changed_entry(path)
        if not name:
            raise OSError(errno.EINVAL, "the path names no entry")
        if not isinstance(found, FolderNode):
            raise OSError(errno.ENOTDIR, "it is not a folder")
        if found.nodes:
            raise OSError(errno.ENOTEMPTY, "the folder is not empty")
        stack[-1].remove(name)

    def unlink(self, path: bytes) -> None:
        """See Folder."""
        stack, name, found = self._changed_entry(path)
        if isinstance(found, FolderNode) or not name:
            raise OSError(errno.EISDIR, "it is a folder")
        stack[-1].remove(name)

    def symlink(self, target: bytes, path: bytes) -> None:
        """See Folder."""
        self._quota.check_path(target)
        folder, name = self._vacant(path, folder=False)
        folder.put(name, LinkNode(self._space, target))

    def read_link(self, path: bytes) -> bytes:
        """See Folder."""
        found = self._existing(path, follow=False)[2]
        if not isinstance(found, LinkNode):
            raise OSError(errno.EINVAL, "not a symbolic link")
        return found.target

    def _within(self, to: Folder) -> "MemoryFolder":
        if not isinstance(to, MemoryFolder) or to._space is not self._space:
            raise OSError(errno.EROFS if to.read_only else errno.EXDEV, "the two are kept in different places")
        return to

    def link(self, path: bytes, to: Folder, new: bytes) -> None:
        """See Folder."""
        there = self._within(to)
        found = self._existing(path, follow=False)[2]
        folder, name = there._vacant(new, folder=False)
        if isinstance(found, FolderNode):
            raise OSError(errno.EPERM, "only files can have a second name")
        found.links += 1
        folder.put(name, found)

    def rename(self, path: bytes, to: Folder, new: bytes) -> None:
        """See Folder."""
        there = self._within(to)
        stack, name, node = self._changed_entry(path)
        new_stack, new_name, former, slash = there._entry(new)
        if not name or not new_name:
            raise OSError(errno.EBUSY, "the path names no entry")
        target = new_stack[-1]
        if not target.links:
            raise OSError(errno.ENOENT, "the folder was removed")
        if isinstance(node, FolderNode):
            if target.is_within(node):
                raise OSError(errno.EINVAL, "a folder cannot be moved into itself")
            if former is not None and not isinstance(former, FolderNode):
                raise OSError(errno.ENOTDIR, "a file has the new name")
        elif slash or isinstance(former, FolderNode):
            raise OSError(errno.EISDIR if isinstance(former, FolderNode) else errno.ENOTDIR, "it is not a folder")
        if former is node:
            return
        if isinstance(former, FolderNode) and former.nodes:
            raise OSError(errno.ENOTEMPTY, "the folder is not empty")
        if former is not None:
            target.remove(new_name)
        del stack[-1].nodes[name]
        stack[-1].changed()
        target.put(new_name, node)
        if isinstance(node, FolderNode):
            node.parent = target

    def entries(self) -> list[Entry]:
        """See Folder."""
        nodes = self._node.nodes
        self._quota.check_listing(len(nodes))
        strict = self._space.strict
        found = [Entry(name, node.kind, 0 if strict else node.inode) for name, node in nodes.items()]
        return sorted(found) if strict else found

    def sync(self) -> None:
        """See Folder. It has no effect in memory."""

    def close(self) -> None:
        """See Folder."""
