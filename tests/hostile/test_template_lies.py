"""What a template may say to the zygote: it has run guest code, so it is believed in nothing."""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator

import pytest

from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.zygote.children import Child, Ends, make_ends
from sandboxd.zygote.templates import PENDING_MAX, Templates


class Zygote:
    """The zygote's side, with a template that this test plays."""

    def __init__(self) -> None:
        self.forked: list[Child] = []
        self.failed: list[tuple[int, str]] = []
        self.known: set[int] = set()
        self.templates = Templates(select.poll(), self._forked, self._failed, self.known.__contains__)
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            signal.pause()
        os.setpgid(pid, pid)
        self.process = Child(1, pid, os.pidfd_open(pid))
        self.known.add(pid)
        ours, self.control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fd = ours.fileno()
        self.templates.add(self.process, ours, calls_out=False)

    def _forked(self, child: Child, ends: Ends) -> None:
        self.forked.append(child)

    def _failed(self, serial: int, why: str) -> None:
        self.failed.append((serial, why))

    def ask(self, serial: int) -> None:
        stack = contextlib.ExitStack()
        self.templates.ask(serial, 1, make_ends(stack, brokered=False), stack)

    def hear(self, data: bytes) -> None:
        self.control.send(data)
        assert self.templates.on_readable(self.fd)

    def template_is_dead(self) -> bool:
        return bool(select.select([self.process.pidfd], [], [], 60)[0])


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    for child in made.forked:
        child.kill()
        os.waitpid(child.pid, 0)
        os.close(child.pidfd)
    made.templates.end_all()
    made.control.close()
    os.close(made.process.pidfd)


def forked(serial: int, pid: int) -> bytes:
    return codec.encode(m.Forked(serial, pid))


@pytest.mark.parametrize("pid", ["its own", "the parent's", 1, 0, -1, 2**31])
def test_a_process_that_is_no_unknown_child_is_not_believed(zygote: Zygote, pid: int | str) -> None:
    named = {"its own": zygote.process.pid, "the parent's": os.getppid()}
    zygote.ask(2)
    zygote.hear(forked(2, named[pid] if isinstance(pid, str) else pid))
    assert not zygote.forked
    assert [serial for serial, _ in zygote.failed] == [2]
    assert zygote.template_is_dead()


LONG = codec.HEADER.pack(1 << 20) + bytes(4000)


@pytest.mark.parametrize("data", [b"\xff" * 8, LONG, forked(99, 1), codec.encode(m.Fork(2))])
def test_what_no_honest_template_says_ends_it(zygote: Zygote, data: bytes) -> None:
    zygote.ask(2)
    zygote.hear(data)
    assert [serial for serial, _ in zygote.failed] == [2]
    assert zygote.template_is_dead()


def test_a_child_that_it_names_is_watched(zygote: Zygote) -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    zygote.ask(2)
    zygote.hear(forked(2, pid))
    assert [child.pid for child in zygote.forked] == [pid]
    zygote.forked[0].kill()
    assert zygote.templates.on_reaped(zygote.forked[0])


def test_what_it_forked_in_secret_ends_with_it(zygote: Zygote) -> None:
    reader, writer = os.pipe()
    hidden = os.fork()
    if hidden == 0:
        os.setpgid(0, zygote.process.pid)
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    zygote.process.kill()
    assert zygote.template_is_dead()
    assert not zygote.templates.on_reaped(zygote.process)
    with pytest.raises(ChildProcessError):
        os.waitpid(hidden, 0)


def test_no_more_children_are_asked_for_than_it_can_be_trusted_with(zygote: Zygote) -> None:
    for serial in range(2, 3 + PENDING_MAX):
        zygote.ask(serial)
    assert zygote.failed == [(2 + PENDING_MAX, "too many children of the template are pending")]


def test_a_child_that_was_given_up_is_ended_when_it_comes(zygote: Zygote) -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    zygote.ask(2)
    zygote.templates.cancel(2)
    assert [serial for serial, _ in zygote.failed] == [2]
    zygote.hear(forked(2, pid))
    assert not zygote.forked
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_a_template_whose_end_is_seen_before_that_of_its_socket(zygote: Zygote) -> None:
    # As where a child that it was forking still holds the socket. The zygote has closed the pidfd by then.
    os.kill(zygote.process.pid, signal.SIGKILL)
    assert zygote.template_is_dead()
    zygote.ask(2)
    os.close(zygote.process.pidfd)
    assert not zygote.templates.on_reaped(zygote.process)
    assert zygote.failed == [(2, "the template has ended")]
    zygote.process = Child(1, zygote.process.pid, os.dup(0))  # for the fixture to close
