"""The filters, run by an interpreter of classic BPF: on any machine, for every machine the wall knows.

The interpreter follows Linux, Documentation/networking/filter.rst. Numbers and flags are those of the kernel's headers.
"""

import errno
import struct

import pytest

from sandboxd.wall import filters
from sandboxd.wall.bpf import ALLOW, KILL, Check, Rule, assemble, refuse
from sandboxd.wall.syscalls import AARCH64, X86_64, Machine

EPERM = refuse(errno.EPERM)
MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}


def run(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """Return the answer of a filter to one call: `struct seccomp_data` is its packet."""
    words = [argument & 0xFFFFFFFFFFFFFFFF for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number, arch, 0, *words)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    for _ in range(len(instructions)):
        code, yes, no, constant = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x54:
                accumulator &= constant
            case 0x15:
                at += yes if accumulator == constant else no
            case 0x35:
                at += yes if accumulator >= constant else no
            case 0x06:
                return constant
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")
    raise AssertionError("the program does not end")


class Filtered:
    """The zygote's filter and the worker's, one behind the other as in the kernel: the strictest answer counts."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.wide = assemble(machine, filters.ZYGOTE, filters.DEFAULT)
        self.narrow = assemble(machine, filters.worker(), ALLOW)

    def zygote(self, name: str, *arguments: int) -> int:
        return run(self.wide, self.machine.audit_arch, self.machine.numbers[name], *arguments)

    def worker(self, name: str, *arguments: int) -> int:
        number = self.machine.numbers[name]
        answers = [run(program, self.machine.audit_arch, number, *arguments) for program in (self.wide, self.narrow)]
        return min(answers, key=(KILL, EPERM, refuse(errno.ENOSYS), ALLOW).index)


@pytest.fixture(params=MACHINES)
def filtered(request: pytest.FixtureRequest) -> Filtered:
    return Filtered(MACHINES[request.param])


@pytest.mark.parametrize("name", ["read", "write", "sendto", "recvfrom", "futex", "madvise", "exit_group", "sendmsg"])
def test_what_a_worker_lives_by(filtered: Filtered, name: str) -> None:
    assert filtered.worker(name) == ALLOW


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mmap", (0, 4096, 3, 0x22), ALLOW),
        ("mmap", (0, 4096, 7, 0x22), EPERM),
        ("mmap", (0, 4096, 4, 0x22), EPERM),
        ("mprotect", (4096, 4096, 1), ALLOW),
        ("mprotect", (4096, 4096, 5), EPERM),
        ("mprotect", (4096, 4096, 0x01000005), EPERM),  # with PROT_GROWSDOWN
        ("pkey_mprotect", (4096, 4096, 1, 0), EPERM),
        ("clone", (0x3D0F00,), ALLOW),  # what pthread_create gives
        ("clone", (17,), EPERM),
        ("clone", (0x10000000 | 0x10000,), KILL),  # a thread in a new user namespace
        ("clone3", (0, 88), refuse(errno.ENOSYS)),
        ("ioctl", (3, 0x5421), ALLOW),
        ("ioctl", (3, 0x5412), EPERM),  # TIOCSTI
        ("fcntl", (3, 4), ALLOW),
        ("fcntl", (3, 8), EPERM),  # F_SETOWN
        ("fcntl", (3, 1024), EPERM),  # F_SETLEASE
        ("prlimit64", (0, 0, 4096, 0), ALLOW),
        ("prlimit64", (0, 7, 0, 4096), ALLOW),
        ("prlimit64", (0, 7, 4096, 0), EPERM),
        ("prlimit64", (1, 0, 4096, 0), EPERM),
        ("prlimit64", (0, 7, 1 << 32, 0), EPERM),  # a pointer whose low half is 0
        ("tgkill", (filters.PID_PLACEHOLDER, 1, 6), ALLOW),
        ("tgkill", (1, 1, 6), EPERM),
        ("socket", (2, 1, 0), EPERM),
        ("connect", (3,), EPERM),
        ("socketpair", (1, 1, 0), ALLOW),
        ("openat", (-100, 4096, 0), EPERM),
        ("execve", (), KILL),
        ("ptrace", (16, 1), KILL),
    ],
)
def test_calls_that_depend_on_their_arguments(
    filtered: Filtered, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    assert filtered.worker(name, *arguments) == expected


def test_the_upper_half_of_an_int_does_not_count(filtered: Filtered) -> None:
    """The kernel looks at the lower half of an `int`, so must the filter: garbage above hides nothing."""
    assert filtered.worker("ioctl", 3, 0xDEADBEEF_00005412) == EPERM
    assert filtered.worker("mmap", 0, 4096, 0xFFFFFFFF_00000007) == EPERM


class Broker:
    """The filter of the egress broker."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.program = assemble(machine, filters.BROKER, filters.DEFAULT)

    def ask(self, name: str, *arguments: int) -> int:
        return run(self.program, self.machine.audit_arch, self.machine.numbers[name], *arguments)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(0, ALLOW), (0o2000000, ALLOW), (1, EPERM), (2, EPERM), (0o100, EPERM), (0o1000, EPERM), (0o20000000, EPERM)],
)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_broker_opens_files_only_to_read(machine: str, flags: int, expected: int) -> None:
    assert Broker(MACHINES[machine]).ask("openat", -100, 4096, flags) == expected


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "expected"),
    [
        (2, 1, 0, ALLOW),
        (10, 2 | 0o2000000, 0, ALLOW),
        (2, 3, 0, EPERM),
        (1, 1, 0, EPERM),
        (16, 3 | 0o2000000, 0, ALLOW),  # NETLINK_ROUTE
        (16, 3, 4, EPERM),  # NETLINK_SOCK_DIAG
        (16, 2, 0, EPERM),
        (17, 3, 0, EPERM),
    ],
)
@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_of_the_broker(machine: str, family: int, kind: int, protocol: int, expected: int) -> None:
    assert Broker(MACHINES[machine]).ask("socket", family, kind, protocol) == expected


def test_what_the_broker_does_not_do() -> None:
    for machine in MACHINES.values():
        broker = Broker(machine)
        assert {broker.ask(name) for name in ("bind", "listen", "accept4", "kill", "memfd_create", "prctl")} == {EPERM}
        assert (broker.ask("clone", 17), broker.ask("execve"), broker.ask("ptrace")) == (EPERM, KILL, KILL)
        assert (broker.ask("mmap", 0, 4096, 7), broker.ask("connect"), broker.ask("sendmsg")) == (EPERM, ALLOW, ALLOW)


def test_what_only_the_zygote_does(filtered: Filtered) -> None:
    for name in ("memfd_create", "pidfd_open", "pidfd_send_signal", "setresuid", "seccomp", "prctl", "wait4", "kill"):
        assert (filtered.zygote(name), filtered.worker(name)) == (ALLOW, EPERM), name
    assert (filtered.zygote("clone", 17), filtered.worker("clone", 17)) == (ALLOW, EPERM)


def test_a_call_without_a_rule_is_refused(filtered: Filtered) -> None:
    known = set(filtered.machine.numbers.values())
    for number in set(range(600)) - known:
        assert run(filtered.wide, filtered.machine.audit_arch, number) == EPERM, number


def test_calls_of_another_machine_kill() -> None:
    for machine in MACHINES.values():
        other = next(m for m in MACHINES.values() if m is not machine)
        program = assemble(machine, filters.ZYGOTE, filters.DEFAULT)
        assert run(program, other.audit_arch, machine.numbers["read"]) == KILL
        assert run(program, 0x40000003, 1) == KILL  # AUDIT_ARCH_I386
    wide = assemble(X86_64, filters.ZYGOTE, filters.DEFAULT)
    assert run(wide, X86_64.audit_arch, 0x40000000 | X86_64.numbers["read"]) == KILL  # x32


def test_the_compiler_reads_and_writes_and_no_more() -> None:
    for machine in MACHINES.values():
        program = assemble(machine, filters.COMPILER, filters.DEFAULT)

        def ask(name: str, *arguments: int, program: bytes = program, machine: Machine = machine) -> int:
            return run(program, machine.audit_arch, machine.numbers[name], *arguments)

        assert {ask(name) for name in ("read", "write", "mmap", "futex", "exit_group")} == {ALLOW}
        assert {ask(name) for name in ("openat", "socket", "connect", "memfd_create", "kill", "ftruncate")} == {EPERM}
        assert (ask("clone", 17), ask("execve")) == (EPERM, KILL)


def test_two_rules_for_one_call_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two rules for read"):
        assemble(X86_64, (Rule("read"), Rule("read", KILL)), ALLOW)


def test_a_conjunction_needs_all_of_its_checks() -> None:
    rule = Rule("socket", ALLOW, ((Check(0, 2), Check(1, 1)), (Check(0, 10), Check(1, 2))), otherwise=EPERM)
    program = assemble(X86_64, (rule,), KILL)
    answers = {pair: run(program, X86_64.audit_arch, 41, *pair) for pair in ((2, 1), (2, 2), (10, 1), (10, 2), (0, 0))}
    assert answers == {(2, 1): ALLOW, (2, 2): EPERM, (10, 1): EPERM, (10, 2): ALLOW, (0, 0): EPERM}
