"""Fork a process for its parent: the child's parent is that of the process that forks.

A template forks so. The zygote, its parent, is then the parent of its children, too. It reaps them, nobody can use
their process ids again before it has, and it can make sure that a process id that a template names is its own child's.

libc offers no such fork. Python's part of one is called here. libc's part is done by the kernel (the thread id that
libc keeps) or is not needed, because the process has only one thread, which holds no lock of libc's. `Cloner` makes
sure of that.
"""

import ctypes
import os
import platform
import time
from typing import Final

from sandboxd.wall.filters import FORK_FLAGS
from sandboxd.wall.syscalls import this_machine

_PR_GET_TID_ADDRESS: Final = 40
_THREAD_END_S: Final = 2.0
"""The longest wait for the last instructions of a thread that has ended for Python."""

# `PyDLL` keeps the interpreter's lock, so that no state of the interpreter changes around the call.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (ctypes.c_long,) * 6


class Cloner:
    """Forks this process for its parent. Make it before the process is walled in: it opens a file.

    Raises:
        OSError: this machine, or its /proc, does not offer what is needed.
    """

    def __init__(self) -> None:
        machine = this_machine()
        if machine is None:
            raise OSError(f"no template can be forked on {platform.machine()}")
        self._number = machine.numbers["clone"]
        self._threads = os.open("/proc/self/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        address = ctypes.c_size_t()
        # Where libc keeps the thread's id; the kernel writes the child's there. Without CONFIG_CHECKPOINT_RESTORE it
        # stays the template's, and only abort() would use it.
        _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0)
        self._tid = address.value
        self._order = (0, self._tid, 0) if platform.machine() == "x86_64" else (0, 0, self._tid)

    def __repr__(self) -> str:
        return f"<Cloner threads={self.threads()}>"

    def threads(self) -> int:
        """Return the number of threads of this process: proc(5) counts them as links of its `task` folder."""
        return os.fstat(self._threads).st_nlink - 2

    def wait_until_alone(self) -> None:
        """Wait until this process has one thread. The others have ended for Python already.

        Raises:
            OSError: a thread goes on running.
        """
        until = time.monotonic() + _THREAD_END_S
        while self.threads() > 1:
            if time.monotonic() > until:
                raise OSError("the process has another thread and cannot be forked")
            os.sched_yield()

    def fork(self) -> int:
        """Fork. Call it with one thread only.

        Returns:
            the child's process id; 0 in the child.

        Raises:
            OSError: the kernel refused.
        """
        before, after_child, after_parent = (
            getattr(ctypes.pythonapi, name)
            for name in ("PyOS_BeforeFork", "PyOS_AfterFork_Child", "PyOS_AfterFork_Parent")
        )
        before()
        pid: int = _libc.syscall(self._number, FORK_FLAGS, 0, *self._order)
        if pid == 0:
            after_child()
            return 0
        number = ctypes.get_errno()
        after_parent()
        if pid < 0:
            raise OSError(number, f"fork: {os.strerror(number)}")
        return pid

    def close(self) -> None:
        """Close what the constructor opened. In a child, which does not fork."""
        os.close(self._threads)
