"""Code that has escaped into a worker tries what would hurt others, with both layers of the wall and with each alone.

The attempts are those of a review of this server, and the kinds they belong to. What must happen follows from the
manual pages: EPERM from a seccomp filter, EACCES from Landlock, SIGSYS where a filter kills.
"""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandboxd.errors import ExitCode
from sandboxd.wall import landlock, seccomp
from sandboxd.wall.syscalls import this_machine
from tests.conftest import guest_component
from tests.running import RunningServer, write_components

HOOK = Path(__file__).parent / "hook"
KILLED = f"killed {int(signal.SIGSYS)}"

pytestmark = pytest.mark.skipif(
    this_machine() is None or not seccomp.available() or landlock.abi() < 6,
    reason="needs seccomp and Landlock ABI 6 of a machine that the wall knows",
)

NUMBERS = {} if (machine := this_machine()) is None else machine.numbers


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One thing that escaped code tries.

    Parameters:
        code: Python that prints what it got. FRONT, ZYGOTE, WORKERS, PORT (the server's), FILE (an artifact), FOLDER
            (the test's own) and N (numbers of system calls) are set.
        wall: what must come out with both layers: a pattern for all of the output.
        seccomp: the same with seccomp alone; None if that layer does not concern it.
        landlock: the same with Landlock alone.
    """

    code: str
    wall: str
    seccomp: str | None = None
    landlock: str | None = None


REFUSED = "EPERM|EACCES"
EPERM = str(-1)

ATTEMPTS = {
    "read the environment of the front": Attempt(
        code="print(os.open(f'/proc/{FRONT}/environ', os.O_RDONLY))", wall=REFUSED, seccomp="EPERM", landlock="EACCES"
    ),
    "write the memory of the front": Attempt(
        code="print(os.open(f'/proc/{FRONT}/mem', os.O_RDWR))", wall=REFUSED, seccomp="EPERM", landlock="EACCES"
    ),
    "take the front's socket": Attempt(
        code="fd = syscall(N['pidfd_open'], FRONT, 0); print(fd); print(syscall(N['pidfd_getfd'], fd, 3, 0))",
        wall=KILLED,
        seccomp=KILLED,
    ),
    "open an artifact for writing": Attempt(
        code="print(os.open(FILE, os.O_RDWR))", wall=REFUSED, seccomp="EPERM", landlock="EACCES"
    ),
    "open an artifact through its descriptor": Attempt(
        code="""
for fd in descriptors(lambda size: size > 4096):
    try:
        os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        print("opened")
    except OSError as error:
        print(errno.errorcode[error.errno])
""",
        wall="((EPERM|EACCES)\n?)+",
        seccomp="(EPERM\n?)+",
        landlock="(EACCES\n?)+",
    ),
    "map an artifact for writing": Attempt(
        code="""
for fd in descriptors(lambda size: size > 4096):
    try:
        mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        print("mapped")
    except OSError as error:
        print(errno.errorcode[error.errno])
""",
        wall="(EACCES\n?)+",
        seccomp="(EACCES\n?)+",
        landlock="(EACCES\n?)+",
    ),
    "rename an artifact": Attempt(
        code="os.rename(FILE, FILE + 'x')", wall=REFUSED, seccomp="EPERM", landlock="EACCES|EXDEV"
    ),
    "remove an artifact": Attempt(code="os.unlink(FILE)", wall=REFUSED, seccomp="EPERM", landlock="EACCES"),
    "make a file": Attempt(
        code="os.open(FOLDER + '/made', os.O_CREAT | os.O_WRONLY)", wall=REFUSED, seccomp="EPERM", landlock="EACCES"
    ),
    "make a link to a file": Attempt(
        code="os.link('/etc/passwd', FOLDER + '/link')", wall=REFUSED, seccomp="EPERM", landlock="EACCES|EXDEV"
    ),
    "make a folder": Attempt(code="os.mkdir(FOLDER + '/made')", wall=REFUSED, seccomp="EPERM", landlock="EACCES"),
    "change a file's rights": Attempt(code="os.chmod(FILE, 0o777)", wall="EPERM", seccomp="EPERM"),
    "list a folder": Attempt(code="print(os.listdir('/'))", wall=REFUSED, seccomp="EPERM", landlock="EACCES"),
    "read a file": Attempt(code="print(open('/etc/passwd').read())", wall=REFUSED, seccomp="EPERM", landlock="EACCES"),
    "read the key of the store": Attempt(
        code="print(os.open(os.path.join(os.path.dirname(FILE), '..', 'index.key'), os.O_RDONLY))",
        wall=REFUSED,
        seccomp="EPERM",
        landlock="EACCES",
    ),
    "cut the status page off": Attempt(
        code="""
for fd in descriptors(lambda size: size == 4096):
    os.ftruncate(fd, 0)
    print("cut")
""",
        wall="EPERM",
        seccomp="EPERM",
        landlock="EPERM",
    ),
    "run a program": Attempt(
        code="os.execv('/bin/sh', ['sh', '-c', 'true'])", wall=KILLED, seccomp=KILLED, landlock="EACCES"
    ),
    "run a program from memory": Attempt(
        code="print(syscall(N['execveat'], 3, b'', None, None, 0x1000))", wall=KILLED, seccomp=KILLED
    ),
    "fork": Attempt(code="print(os.fork())", wall="EPERM", seccomp="EPERM"),
    "fork by clone3": Attempt(
        code="print(syscall(N['clone3'], struct.pack('=11Q', 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88))",
        wall="-38",
        seccomp="-38",
    ),
    "enter a new user namespace": Attempt(code="print(syscall(N['unshare'], 0x10000000))", wall=KILLED, seccomp=KILLED),
    "clone into a new namespace": Attempt(
        code="print(syscall(N['clone'], 0x10000000 | 17, 0, 0, 0, 0))", wall=KILLED, seccomp=KILLED
    ),
    "trace the zygote": Attempt(code="print(syscall(N['ptrace'], 16, ZYGOTE, 0, 0))", wall=KILLED, seccomp=KILLED),
    "read another's memory": Attempt(
        code="print(syscall(N['process_vm_readv'], FRONT, 0, 0, 0, 0, 0))", wall=KILLED, seccomp=KILLED
    ),
    "kill the front": Attempt(code="os.kill(FRONT, 9)", wall="EPERM", seccomp="EPERM", landlock="EPERM"),
    "kill another worker": Attempt(
        code="os.kill(next(pid for pid in WORKERS if pid != os.getpid()), 9)",
        wall="EPERM",
        seccomp="EPERM",
        landlock="EPERM",
    ),
    "kill everybody": Attempt(code="os.kill(-1, 0)", wall="EPERM", seccomp="EPERM", landlock=None),
    "kill a thread of the zygote": Attempt(
        code="print(syscall(N['tgkill'], ZYGOTE, ZYGOTE, 9))", wall=EPERM, seccomp=EPERM, landlock=EPERM
    ),
    "signal through a descriptor's owner": Attempt(
        code="fcntl.fcntl(3, fcntl.F_SETOWN, FRONT)", wall="EPERM|EBADF", seccomp="EPERM|EBADF"
    ),
    "connect to the server": Attempt(
        code="socket.create_connection(('127.0.0.1', PORT), 5); print('connected')",
        wall=REFUSED,
        seccomp="EPERM",
        landlock="EACCES",
    ),
    "connect to a metadata service": Attempt(
        code="s = socket.socket(); s.settimeout(2); s.connect(('169.254.169.254', 80)); print('connected')",
        wall=REFUSED,
        seccomp="EPERM",
        landlock="EACCES",
    ),
    "send a datagram": Attempt(
        code="socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9)); print('sent')",
        wall="EPERM",
        seccomp="EPERM",
    ),
    "listen": Attempt(
        code="s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('listening')",
        wall=REFUSED,
        seccomp="EPERM",
        landlock="EACCES",
    ),
    "open a Unix socket": Attempt(code="socket.socket(socket.AF_UNIX); print('opened')", wall="EPERM", seccomp="EPERM"),
    "open a netlink socket": Attempt(
        code="socket.socket(16, socket.SOCK_RAW); print('opened')", wall="EPERM", seccomp="EPERM"
    ),
    "set up io_uring": Attempt(code="print(syscall(N['io_uring_setup'], 8, bytes(120)))", wall=KILLED, seccomp=KILLED),
    "load a BPF program": Attempt(code="print(syscall(N['bpf'], 0, bytes(64), 64))", wall=KILLED, seccomp=KILLED),
    "watch page faults": Attempt(code="print(syscall(N['userfaultfd'], 0))", wall=KILLED, seccomp=KILLED),
    "map memory as code": Attempt(code="mmap.mmap(-1, 4096, prot=7); print('mapped')", wall="EPERM", seccomp="EPERM"),
    "make memory code": Attempt(
        code="""
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0))
print(libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(4096), 5), ctypes.get_errno())
""",
        wall="-1 1",
        seccomp="-1 1",
    ),
    "make a file of memory": Attempt(code="print(os.memfd_create('x'))", wall="EPERM", seccomp="EPERM"),
    "use a capability of root's": Attempt(
        # SO_MARK needs CAP_NET_ADMIN or CAP_NET_RAW (socket(7)).
        code="socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, 36, 1)",
        wall="EPERM",
        seccomp="EPERM",
        landlock="EPERM",
    ),
    "take capabilities back": Attempt(
        code="""
every = struct.pack("=6I", *[0xFFFFFFFF] * 6)
print(syscall(N["capset"], struct.pack("=Ii", 0x20080522, 0), every))
""",
        wall=EPERM,
        seccomp=EPERM,
        landlock=EPERM,
    ),
    "be traceable again": Attempt(code="print(libc.prctl(4, 1, 0, 0, 0))", wall="-1", seccomp="-1"),
    "take keys": Attempt(code="print(syscall(N['keyctl'], 0, -3, 1))", wall=KILLED, seccomp=KILLED),
    "raise the limit of memory": Attempt(
        code="resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", wall="EPERM|ValueError.*", seccomp="EPERM|ValueError.*"
    ),
    "limit another process": Attempt(
        code="resource.prlimit(FRONT, resource.RLIMIT_CPU, (0, 0))", wall="EPERM|PermissionError.*", seccomp="EPERM|P.*"
    ),
    "be preferred": Attempt(
        code="os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", wall="EPERM", seccomp="EPERM"
    ),
    "take the wall down": Attempt(code="print(libc.prctl(22, 0, 0, 0, 0))", wall="-1", seccomp="-1"),
    "use the calls of another machine": Attempt(
        code="print(syscall(N['getpid'] | 0x40000000))", wall=KILLED, seccomp=KILLED
    )
    if os.uname().machine == "x86_64"
    else Attempt(code="print(syscall(9999))", wall=EPERM, seccomp=EPERM),
    "make an unknown call": Attempt(code="print(syscall(9999))", wall=EPERM, seccomp=EPERM),
}


class Escaped:
    """A server whose workers run what they are sent.

    Parameters:
        folder: for its resources.
        without: a layer that the kernel seems not to have.
        settings: variables for the server.
    """

    def __init__(self, folder: Path, without: str = "", **settings: str) -> None:
        self.folder = folder
        resources = write_components(folder / "resources", [guest_component("echo"), guest_component("upper")])
        environ = {
            "PYTHONPATH": str(HOOK),
            "PYTHON_WITHOUT_LAYER": without,
            "SANDBOXD_CACHE_FOLDER": str(folder / "cache"),
        }
        self.server = RunningServer(resources, "--workers", "2", environ={**environ, **settings})

    def attempt(self, code: str) -> str:
        """Return what the code printed, or how its worker was killed."""
        front = self.server.process.pid
        below = [pid for pid in self.server.processes() if pid != front]
        zygote = next(pid for pid in below if parent(pid) == front)
        workers = [pid for pid in below if parent(pid) == zygote]
        artifact = next(
            path for path in (self.folder / "cache").rglob("*") if path.is_file() and path.stat().st_size > 4096
        )
        names = {"FRONT": front, "ZYGOTE": zygote, "WORKERS": workers, "PORT": self.server.port, "N": NUMBERS}
        names |= {"FILE": str(artifact), "FOLDER": str(self.folder)}
        since = len(self.server.lines)
        lines = "\n".join(f"{name} = {value!r}" for name, value in names.items())
        reply = self.server.invoke("echo", f"#!escaped\n{lines}\n{DESCRIPTORS}\n{code}")
        if reply.status_code == 200:
            return reply.text.strip()
        ended = self.server.wait_for(lambda line: bool(re.search(r"signal|SIG", str(line))), since=since)
        return f"killed {int(signal.SIGSYS)}" if "SIGSYS" in str(ended) or " 31" in str(ended) else str(ended)


DESCRIPTORS = """
def descriptors(wanted):
    for fd in range(3, 256):
        try:
            found = os.fstat(fd)
        except OSError:
            continue
        if found.st_mode & 0o170000 == 0o100000 and wanted(found.st_size):
            yield fd
"""
"""The regular files among the descriptors of the process, by size."""


def parent(pid: int) -> int:
    """Process id of a process's parent; 0 if it is gone."""
    try:
        found = re.search(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return 0
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Escaped]:
    escaped = Escaped(tmp_path_factory.mktemp("wall"), SANDBOXD_POOL_WALL="required")
    with escaped.server:
        yield escaped


@pytest.fixture(scope="module")
def filters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Escaped]:
    escaped = Escaped(tmp_path_factory.mktemp("seccomp"), without="landlock", SANDBOXD_POOL_WALL="auto")
    with escaped.server:
        yield escaped


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Escaped]:
    escaped = Escaped(tmp_path_factory.mktemp("landlock"), without="seccomp", SANDBOXD_POOL_WALL="auto")
    with escaped.server:
        yield escaped


def test_the_hole_is_there(wall: Escaped) -> None:
    """Without it nothing of the rest would mean anything."""
    assert wall.attempt("print(1 + 1, len(os.listdir.__name__))") == "2 7"


@pytest.mark.parametrize("what", ATTEMPTS)
def test_the_wall_stands(wall: Escaped, what: str) -> None:
    found = wall.attempt(ATTEMPTS[what].code)
    assert re.fullmatch(ATTEMPTS[what].wall, found, re.DOTALL), found


@pytest.mark.parametrize("what", [what for what, attempt in ATTEMPTS.items() if attempt.seccomp is not None])
def test_the_filters_alone(filters: Escaped, what: str) -> None:
    found = filters.attempt(ATTEMPTS[what].code)
    assert re.fullmatch(str(ATTEMPTS[what].seccomp), found, re.DOTALL), found


@pytest.mark.parametrize("what", [what for what, attempt in ATTEMPTS.items() if attempt.landlock is not None])
def test_landlock_alone(files: Escaped, what: str) -> None:
    found = files.attempt(ATTEMPTS[what].code)
    assert re.fullmatch(str(ATTEMPTS[what].landlock), found, re.DOTALL), found


def test_after_all_that_the_server_serves(wall: Escaped) -> None:
    reply = wall.server.invoke("upper", "abc")
    assert (reply.status_code, reply.text) == (200, '"ABC"')


def test_a_required_layer_that_is_missing_ends_the_start(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    environ = {"PYTHONPATH": str(HOOK), "PYTHON_WITHOUT_LAYER": "landlock", "SANDBOXD_POOL_WALL": "required"}
    with RunningServer(resources, environ=environ, wait=False) as server:
        assert server.process.wait(60) == ExitCode.WORKERS
        assert "landlock: the kernel has no Landlock" in server.text()


@pytest.mark.parametrize(("setting", "stands"), [("auto", 1.0), ("off", 0.0)])
def test_what_stands_is_told(tmp_path: Path, setting: str, stands: float) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    with RunningServer(resources, environ={"SANDBOXD_POOL_WALL": setting}) as server:
        assert server.invoke("echo", "x").status_code == 200
        for layer in ("seccomp", "landlock"):
            assert server.metric("sandboxd_worker_wall", layer=layer) == stands
        line = server.wait_for(lambda line: line.get("event") == "wall")
        assert (line["level"], "seccomp landlock" in line["message"]) == ("info", bool(stands))


def test_the_page_on_security_has_every_attempt() -> None:
    from tests.escape.table import PAGE, renewed

    assert renewed(PAGE.read_text()) == PAGE.read_text(), "run python -m tests.escape.table"
