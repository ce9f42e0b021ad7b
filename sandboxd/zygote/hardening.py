"""What zygote and workers give up before they touch a guest."""

import ctypes
import os
import resource

_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_new_privileges() -> None:
    """Set `no_new_privs`: no exec from here on gains rights. Inherited by every worker.

    Raises:
        OSError: the kernel refused.
    """
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")


def confine_worker() -> None:
    """Called in a new worker: no core files, private files, root as working directory, nothing on stdin and stdout."""
    os.umask(0o077)
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
