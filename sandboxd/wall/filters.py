"""The system calls that the zygote, workers, templates, the compiler and the egress broker may make.

A call that none of them makes fails with EPERM, so that a new libc or Python costs a warning and not a server. A call
that only a hostile process makes ends the process. The lists come from tracing; tests/escape traces them again.
"""

import errno
from typing import Final

from sandboxd.wall.bpf import ALLOW, KILL, WHOLE, Check, Rule, refuse
from sandboxd.wall.seccomp import PR_SET_SECCOMP

_EPERM: Final = refuse(errno.EPERM)

DEFAULT: Final = _EPERM
"""The answer to a call without a rule, in the filters of the zygote, the compiler and the egress broker."""

PID_PLACEHOLDER: Final = 0x7FFFFFF1
"""Stands in the worker's filter for the worker's own process id, which is known only after the fork."""

_PROT_EXEC: Final = 4
_CLONE_THREAD: Final = 0x00010000
FORK_FLAGS: Final = 0x00008000 | 0x00200000 | 0x01000000 | 17
"""CLONE_PARENT, CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID and SIGCHLD: the flags with which a template forks."""
_CLONE_NEW: Final = 0x7E020000 | 0x80
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME."""
_FIONREAD: Final = 0x541B
_FIONBIO: Final = 0x5421
_AF_UNIX: Final = 1
_AF_INET: Final = 2
_AF_INET6: Final = 10
_SOCK_TYPE: Final = 0xF
_SOCK_STREAM: Final = 1
_SOCK_DGRAM: Final = 2
_SOCK_RAW: Final = 3
_AF_NETLINK: Final = 16
_NETLINK_ROUTE: Final = 0
_RLIMIT_CPU: Final = 0
_WRITING: Final = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, and O_TMPFILE without O_DIRECTORY."""
_FCNTL: Final = (0, 1, 2, 3, 4, 1030, 1033, 1034)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS."""

_HOSTILE: Final = """
    add_key bpf chroot delete_module execve execveat finit_module fsconfig fsmount fsopen init_module
    io_uring_enter io_uring_register io_uring_setup kcmp kexec_file_load kexec_load keyctl mount move_mount
    name_to_handle_at open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_vm_readv
    process_vm_writev ptrace reboot request_key setns swapon umount2 unshare userfaultfd
""".split()  # noqa: SIM905 -- a table of words

_COMPUTING: Final = """
    brk clock_getres clock_gettime clock_nanosleep exit exit_group futex getcpu getegid geteuid getgid getgroups
    getpid getppid getrandom getresgid getresuid getrusage gettid gettimeofday getuid madvise membarrier mremap
    munmap nanosleep restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity
    sched_getparam sched_getscheduler sched_yield set_robust_list set_tid_address sigaltstack uname
""".split()  # noqa: SIM905 -- a table of words

_DESCRIPTORS: Final = """
    close close_range dup dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 fstat getpeername
    getsockname getsockopt lseek newfstatat pipe2 poll ppoll pread64 read readlinkat readv recvfrom recvmmsg
    recvmsg sendmmsg sendmsg sendto setsockopt shutdown statx write writev
""".split()  # noqa: SIM905 -- a table of words

_READING_FILES: Final = "fadvise64 getdents64 openat2 preadv preadv2".split()  # noqa: SIM905 -- a table of words
_WRITING_FILES: Final = """
    fallocate fdatasync fsync ftruncate linkat mkdirat pwritev pwritev2 renameat renameat2 symlinkat unlinkat utimensat
""".split()  # noqa: SIM905 -- a table of words

_SETTING_UP: Final = """
    capset ftruncate kill landlock_add_rule landlock_create_ruleset landlock_restrict_self memfd_create pidfd_open
    pidfd_send_signal prctl sched_setscheduler seccomp setgroups setpgid setresgid setresuid tkill wait4 waitid
""".split()  # noqa: SIM905 -- a table of words
"""The calls that the zygote makes, and a worker only while it sets itself up."""

_SOCKETPAIR: Final = Rule("socketpair", ALLOW, ((Check(0, _AF_UNIX),),), otherwise=_EPERM)
_THREADS: Final = Rule("clone", ALLOW, ((Check(0, _CLONE_THREAD, _CLONE_THREAD),),), otherwise=_EPERM)
_NO_NEW_CODE: Final = tuple(
    Rule(name, ALLOW, ((Check(2, 0, _PROT_EXEC),),), otherwise=_EPERM) for name in ("mmap", "mprotect")
)
_COMMON: Final = (
    *(Rule(name, KILL) for name in _HOSTILE),
    *(Rule(name) for name in (*_COMPUTING, *_DESCRIPTORS)),
    # glibc falls back to clone, whose flags a filter can see. Those of clone3 are in memory.
    Rule("clone3", refuse(errno.ENOSYS)),
    Rule("fcntl", ALLOW, tuple((Check(1, command),) for command in _FCNTL), otherwise=_EPERM),
    Rule("ioctl", ALLOW, ((Check(1, _FIONBIO),), (Check(1, _FIONREAD),)), otherwise=_EPERM),
)

ZYGOTE: Final = (
    # All artifacts are deserialised before the filter is installed. From then on, no memory becomes executable.
    *_NO_NEW_CODE,
    *_COMMON,
    *(Rule(name) for name in _SETTING_UP),
    Rule("clone", ALLOW, ((Check(0, 0, _CLONE_NEW),),), otherwise=KILL),
    Rule("fork"),
    Rule("openat", ALLOW, ((Check(2, 0, _WRITING),),), otherwise=_EPERM),
    Rule("prlimit64"),
    _SOCKETPAIR,
    Rule("tgkill"),
)
"""For the zygote once it has loaded everything. Workers inherit it. Calls without a rule get DEFAULT."""


def zygote(*, files: bool, writing: bool) -> tuple[Rule, ...]:
    """Return ZYGOTE, with the calls that mounts of its workers' guests need.

    A filter cannot see what openat2 opens, nor for what: its arguments are in memory. Landlock bounds that.

    Parameters:
        files: whether there are mounts.
        writing: whether any of them is writable.
    """
    names = (*(_READING_FILES if files else ()), *(_WRITING_FILES if writing else ()))
    known = {rule.name for rule in ZYGOTE}
    return (*ZYGOTE, *(Rule(name) for name in names if name not in known))


def worker(*, writing: bool = False) -> tuple[Rule, ...]:
    """Return the rules that deny a worker what the zygote may do. The zygote's filter covers all other calls.

    Parameters:
        writing: whether its guests have writable mounts.
    """
    return (
        *_denied_to_guests(writing=writing),
        Rule("prctl", _EPERM),
        _THREADS,
        # The handler of fatal signals and abort() raise them anew.
        Rule("tgkill", ALLOW, ((Check(0, PID_PLACEHOLDER),),), otherwise=_EPERM),
    )


def template(*, writing: bool = False) -> tuple[Rule, ...]:
    """Return the rules that deny a template what the zygote may do.

    They are those of a worker, except that a template may fork, and that its children may narrow their filters.

    Parameters:
        writing: whether its guest has writable mounts.
    """
    return (
        *_denied_to_guests(writing=writing),
        Rule("prctl", ALLOW, ((Check(0, PR_SET_SECCOMP),),), otherwise=_EPERM),
        Rule(
            "clone",
            ALLOW,
            ((Check(0, _CLONE_THREAD, _CLONE_THREAD),), (Check(0, FORK_FLAGS, WHOLE), Check(1, 0, WHOLE))),
            otherwise=_EPERM,
        ),
        # Its children have this filter, too, but other process ids. Without the call, abort() ends them by a fault.
        Rule("tgkill", _EPERM),
    )


def template_child() -> tuple[Rule, ...]:
    """Return the rules that deny a template's child what the template may do."""
    return (Rule("prctl", _EPERM), _THREADS)


def _denied_to_guests(*, writing: bool) -> tuple[Rule, ...]:
    """Return the rules that deny every process with a guest, worker or template, what the zygote may do."""
    names = (
        *(name for name in _SETTING_UP if name != "prctl" and not (writing and name == "ftruncate")),
        "fork",
        "openat",
    )
    return (
        *(Rule(name, _EPERM) for name in names),
        # A worker raises the limit of its own CPU time while it works. A limit is read with a null pointer.
        Rule(
            "prlimit64",
            ALLOW,
            ((Check(0, 0), Check(1, _RLIMIT_CPU)), (Check(0, 0), Check(2, 0, WHOLE))),
            otherwise=_EPERM,
        ),
    )


COMPILER: Final = (
    *_COMMON,
    # The engine maps what it has compiled as code before it can be serialised.
    *(Rule(name) for name in ("mmap", "mprotect")),
    _THREADS,
    Rule("prlimit64", ALLOW, ((Check(0, 0), Check(2, 0, WHOLE)),), otherwise=_EPERM),
)
"""For the compiler: two descriptors, threads of its own, and nothing else. Calls without a rule get DEFAULT."""

BROKER: Final = (
    *_NO_NEW_CODE,
    *_COMMON,
    _SOCKETPAIR,
    _THREADS,
    Rule("connect"),
    # For the resolver's files. Landlock allows no others.
    Rule("openat", ALLOW, ((Check(2, 0, _WRITING),),), otherwise=_EPERM),
    Rule("prlimit64", ALLOW, ((Check(0, 0), Check(2, 0, WHOLE)),), otherwise=_EPERM),
    Rule(
        "socket",
        ALLOW,
        (
            *(
                (Check(0, family), Check(1, kind, _SOCK_TYPE))
                for family in (_AF_INET, _AF_INET6)
                for kind in (_SOCK_STREAM, _SOCK_DGRAM)
            ),
            # The route to an address tells whether it is one of the machine's own.
            (Check(0, _AF_NETLINK), Check(1, _SOCK_RAW, _SOCK_TYPE), Check(2, _NETLINK_ROUTE)),
        ),
        otherwise=_EPERM,
    ),
)
"""For the egress broker: name look-ups, connections, and nothing else. Calls without a rule get DEFAULT."""
