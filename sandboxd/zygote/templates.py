"""The zygote's side of templates: it has them fork, makes sure of what they say, and ends what they leave behind.

A template runs guest code before it forks, so it may have been taken over. It is believed in nothing: a process id that
it names must be that of an unknown child of the zygote, and all processes of its group end with it.
"""

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.worker.template import CONTROL_BYTES
from sandboxd.zygote.children import Child, Ends, open_pidfd

_PID_MAX: Final = (1 << 31) - 1
"""The highest number that a `pid_t` holds."""
PENDING_MAX: Final = 64
"""The most children that a template may be asked for at once. The front asks for far fewer."""


@dataclass(slots=True)
class _Template:
    process: Child
    control: socket.socket
    decoder: codec.Decoder = field(default_factory=lambda: codec.Decoder(codec.FromTemplate))
    pending: dict[int, tuple[Ends, contextlib.ExitStack]] = field(default_factory=dict)
    """The descriptors of the children that it was asked for and has not forked yet."""
    cancelled: set[int] = field(default_factory=set)
    """The children that it was asked for and that nobody wants any more."""
    calls_out: bool = False
    children: int = 0
    """Its known children that are not reaped."""
    dead: bool = False


class Templates:
    """All templates of the zygote.

    Parameters:
        poll: is told of the sockets to the templates.
        forked: called with a new child and its descriptors.
        failed: called with the serial of a child that could not be forked, and why.
        known: returns whether a process id is that of a process that is known already.
    """

    def __init__(
        self,
        poll: select.poll,
        forked: Callable[[Child, Ends], None],
        failed: Callable[[int, str], None],
        known: Callable[[int], bool],
    ) -> None:
        self._poll = poll
        self._forked = forked
        self._failed = failed
        self._known = known
        self._templates: dict[int, _Template] = {}
        self._by_control: dict[int, _Template] = {}

    def __repr__(self) -> str:
        return f"<Templates {len(self._templates)}>"

    def __contains__(self, serial: int) -> bool:
        return serial in self._templates

    def add(self, process: Child, control: socket.socket, *, calls_out: bool) -> None:
        """Take over a new template.

        Parameters:
            process: the template.
            control: the zygote's end of the socket to it.
            calls_out: whether its guest can make outbound requests.
        """
        control.setblocking(False)
        template = _Template(process, control, calls_out=calls_out)
        self._templates[process.serial] = self._by_control[control.fileno()] = template
        self._poll.register(control, select.POLLIN)

    def calls_out(self, serial: int) -> bool:
        """Return whether the guest of a template can make outbound requests."""
        template = self._templates.get(serial)
        return template is not None and template.calls_out

    def close(self) -> None:
        """Close all sockets to templates and to their future children: at the end, and in a process just forked."""
        for template in self._by_control.values():
            template.control.close()
            for _, stack in template.pending.values():
                stack.close()

    def ask(self, serial: int, template_serial: int, ends: Ends, stack: contextlib.ExitStack) -> None:
        """Ask a template for a child. `forked` or `failed` is called, now or later.

        Parameters:
            serial: the child's.
            template_serial: the template's.
            ends: the child's descriptors.
            stack: closes them.
        """
        template = self._templates.get(template_serial)
        if template is None or template.dead or len(template.pending) >= PENDING_MAX:
            stack.close()
            self._failed(serial, "the template has ended" if template is None or template.dead else "too many at once")
            return
        try:
            socket.send_fds(template.control, [codec.encode(m.Fork(serial))], ends.of_process())
        except OSError as error:
            stack.close()
            self._failed(serial, f"the template takes no orders: {error}")
            return
        template.pending[serial] = ends, stack

    def cancel(self, serial: int) -> None:
        """Give up a child that was asked for and is not forked yet. `failed` is called."""
        for template in self._templates.values():
            found = template.pending.pop(serial, None)
            if found is not None:
                template.cancelled.add(serial)
                found[1].close()  # should it still be forked, it finds its socket closed and ends
                self._failed(serial, "it was given up before the template had forked it")
                return

    def on_readable(self, fd: int) -> bool:
        """Read what a template says. Return False if `fd` is no template's."""
        template = self._by_control.get(fd)
        if template is None:
            return False
        try:
            data = template.control.recv(CONTROL_BYTES)
            messages: list[m.Forked] = template.decoder.feed(data) if data else []
        except BlockingIOError:
            return True
        except (OSError, codec.ProtocolError):
            data, messages = b"", []
        if not data:
            self._distrust(template, "closed its socket or sent garbage")
        for message in messages:
            self._take(template, message)
        return True

    def _take(self, template: _Template, message: m.Forked) -> None:
        found = template.pending.pop(message.serial, None)
        if found is None and message.serial in template.cancelled:
            template.cancelled.discard(message.serial)
            if not self._known(message.pid) and _is_child(message.pid):
                os.kill(message.pid, signal.SIGKILL)
                os.waitpid(message.pid, 0)
            return
        if found is None:
            self._distrust(template, "forked without being asked")
            return
        ends, stack = found
        with stack:
            if self._known(message.pid) or not _is_child(message.pid):
                self._failed(message.serial, "the template named a process that is none of its children")
                self._distrust(template, "named a foreign process")
                return
            try:
                child = Child(message.serial, message.pid, open_pidfd(message.pid), template.process.serial)
            except OSError as error:
                self._failed(message.serial, f"{error}")
                return
            template.children += 1
            self._forked(child, ends)

    def _distrust(self, template: _Template, why: str) -> None:
        """Kill a template that does not do what it should, or whose socket has closed."""
        self._disconnect(template, why)
        if not template.dead:
            template.process.kill()

    def _disconnect(self, template: _Template, why: str) -> None:
        """Close the socket to a template. What it was asked for does not come any more."""
        if template.control.fileno() in self._by_control:
            del self._by_control[template.control.fileno()]
            self._poll.unregister(template.control)
            template.control.close()
            for serial, (_, stack) in template.pending.items():
                stack.close()
                self._failed(serial, f"the template {why}")
            template.pending.clear()

    def on_reaped(self, child: Child) -> bool:
        """Take note that a process has ended.

        Returns:
            whether the caller may reap it. A template stays a zombie while it has children, so that its process group
            cannot be another's.
        """
        template = self._templates.get(child.serial)
        if template is None:
            owner = self._templates.get(child.template)
            if owner is not None:
                owner.children -= 1
                if owner.dead and not owner.children:
                    os.waitpid(child.pid, 0)
                    self._bury(owner)
                    return False
            return True
        # Its pidfd is closed already. It may end before its socket: a child that it was forking holds that, too.
        template.dead = True
        self._disconnect(template, "has ended")
        if not template.children:
            self._bury(template)
        return False

    def _bury(self, template: _Template) -> None:
        """Reap a template, after all that may be left of its process group."""
        del self._templates[template.process.serial]
        end_group(template.process.pid)

    def end_all(self) -> None:
        """Kill and reap every template with its group. The known children are killed already."""
        self.close()
        for template in list(self._templates.values()):
            # Not by the pidfd, which is closed once a template is dead. The number is its own until it is reaped.
            with contextlib.suppress(ProcessLookupError):
                os.kill(template.process.pid, signal.SIGKILL)
            self._bury(template)


def end_group(group: int) -> None:
    """Kill and reap all children of the zygote in a process group, and its leader.

    Parameters:
        group: the leader's process id. The leader is not reaped yet.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(group, 0)
    try:
        while os.waitpid(-group, 0)[0]:
            print(f"zygote: a process that template {group} had left behind was ended", file=sys.stderr, flush=True)
    except ChildProcessError:
        return


def _is_child(pid: int) -> bool:
    """Return whether a process is a child of this one, dead or alive, that is not reaped."""
    if not 0 < pid <= _PID_MAX:
        return False
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
