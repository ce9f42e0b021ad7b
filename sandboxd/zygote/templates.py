"""The zygote's side of templates: it has them fork, checks their messages, and ends the processes they leave behind.

A template runs guest code before it forks, so it may be compromised. Nothing that it says is believed: a process id
that it names must be that of an unknown child of the zygote, and all processes of its group end with it.
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
"""The most children of a template that may be pending at once. The front requests far fewer."""


def _decoder() -> codec.Decoder:
    decoder = codec.Decoder(codec.FromTemplate)
    # Otherwise a template that announces a long frame would have the zygote keep what it sends for it.
    decoder.most_bytes = CONTROL_BYTES
    return decoder


@dataclass(slots=True)
class _Template:
    process: Child
    control: socket.socket
    decoder: codec.Decoder = field(default_factory=_decoder)
    pending: dict[int, tuple[Ends, contextlib.ExitStack]] = field(default_factory=dict)
    """The descriptors of the children that were requested and are not forked yet."""
    cancelled: set[int] = field(default_factory=set)
    """The children that were requested and are no longer wanted."""
    calls_out: bool = False
    children: int = 0
    """The number of its known children that are not reaped yet."""
    dead: bool = False


class Templates:
    """All templates of the zygote.

    Parameters:
        poll: the zygote's poll object. The sockets to the templates are registered with it.
        forked: called with a new child and its descriptors.
        failed: called with the serial of a child that could not be forked, and the reason.
        known: returns whether a process id is that of a known process.
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
        """Add a new template.

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
        """Close all sockets to templates and their pending children: at the end, and in a process just forked."""
        for template in self._by_control.values():
            template.control.close()
            for _, stack in template.pending.values():
                stack.close()

    def ask(self, serial: int, template_serial: int, ends: Ends, stack: contextlib.ExitStack) -> None:
        """Request a child from a template. `forked` or `failed` is called, now or later.

        Parameters:
            serial: the child's serial.
            template_serial: the template's serial.
            ends: the child's descriptors.
            stack: closes them.
        """
        template = self._templates.get(template_serial)
        if template is None or template.dead or len(template.pending) >= PENDING_MAX:
            stack.close()
            ended = template is None or template.dead
            self._failed(serial, "the template has ended" if ended else "too many children of the template are pending")
            return
        try:
            socket.send_fds(template.control, [codec.encode(m.Fork(serial))], ends.for_process())
        except OSError as error:
            stack.close()
            self._failed(serial, f"the template takes no messages: {error}")
            return
        template.pending[serial] = ends, stack

    def cancel(self, serial: int) -> None:
        """Cancel a pending child. `failed` is called."""
        for template in self._templates.values():
            found = template.pending.pop(serial, None)
            if found is not None:
                template.cancelled.add(serial)
                found[1].close()  # if the child is still forked, it finds its socket closed and ends
                self._failed(serial, "it was cancelled before the template had forked it")
                return

    def on_readable(self, fd: int) -> bool:
        """Read the messages of a template. Return False if `fd` is not the socket of a template."""
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
            self._on_forked(template, message)
        return True

    def _on_forked(self, template: _Template, message: m.Forked) -> None:
        found = template.pending.pop(message.serial, None)
        if found is None and message.serial in template.cancelled:
            template.cancelled.discard(message.serial)
            if not self._known(message.pid) and _is_child(message.pid):
                os.kill(message.pid, signal.SIGKILL)
                os.waitpid(message.pid, 0)
            return
        if found is None:
            self._distrust(template, "forked a child that was not requested")
            return
        ends, stack = found
        with stack:
            if self._known(message.pid) or not _is_child(message.pid):
                self._failed(message.serial, "the template named a process that is not a new child of the zygote")
                self._distrust(template, "named a process that is not a new child of the zygote")
                return
            try:
                child = Child(message.serial, message.pid, open_pidfd(message.pid), template.process.serial)
            except OSError as error:
                self._failed(message.serial, f"{error}")
                return
            template.children += 1
            self._forked(child, ends)

    def _distrust(self, template: _Template, why: str) -> None:
        """Kill a template that violates the protocol, or whose socket has closed."""
        self._disconnect(template, why)
        if not template.dead:
            template.process.kill()

    def _disconnect(self, template: _Template, why: str) -> None:
        """Close the socket to a template. Its pending children fail."""
        if template.control.fileno() in self._by_control:
            del self._by_control[template.control.fileno()]
            self._poll.unregister(template.control)
            template.control.close()
            for serial, (_, stack) in template.pending.items():
                stack.close()
                self._failed(serial, f"the template {why}")
            template.pending.clear()

    def on_reaped(self, child: Child) -> bool:
        """Record that a process has ended.

        Returns:
            whether the caller may reap it. A template stays a zombie while it has children, so that its process group's
            id is not used again.
        """
        template = self._templates.get(child.serial)
        if template is None:
            owner = self._templates.get(child.template)
            if owner is not None:
                owner.children -= 1
                if owner.dead and not owner.children:
                    os.waitpid(child.pid, 0)
                    self._remove(owner)
                    return False
            return True
        # Its pidfd is closed already. Its socket may still be open: a child that it was forking holds that, too.
        template.dead = True
        self._disconnect(template, "has ended")
        if not template.children:
            self._remove(template)
        return False

    def _remove(self, template: _Template) -> None:
        """Forget a template. Kill and reap it with its process group."""
        del self._templates[template.process.serial]
        end_group(template.process.pid)

    def end_all(self) -> None:
        """Kill and reap every template with its group. The known children are killed already."""
        self.close()
        for template in list(self._templates.values()):
            # Not by the pidfd, which is closed once a template is dead. The process id is its own until it is reaped.
            with contextlib.suppress(ProcessLookupError):
                os.kill(template.process.pid, signal.SIGKILL)
            self._remove(template)


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
