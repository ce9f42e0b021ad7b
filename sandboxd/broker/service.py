"""The work of the broker: answers the workers, one task for each connection that is asked for."""

import array
import asyncio
import errno
import itertools
import socket
import time
from typing import Final

import msgspec

from hostfuncs.outbound.addresses import Address
from hostfuncs.outbound.authority import parse_authority
from hostfuncs.outbound.connector import AddressDenied, permitted
from hostfuncs.outbound.errors import Unresolved
from hostfuncs.outbound.inline_task import InlineTask
from hostfuncs.outbound.network import open_socket, parse_addresses
from hostfuncs.outbound.policy import Denied, Policy
from hostfuncs.outbound.proxy import parse_proxy
from sandboxd.broker import messages as b
from sandboxd.broker.lookups import LookUps
from sandboxd.broker.policies import policy_for
from sandboxd.broker.running import RunningView

SPARE_DIALS: Final = 16
"""Dials that a worker may have under way beside one for each connection: some that it gave up may not be over."""
DIALS_A_SECOND: Final = 2000
"""A worker that asks more often than this, over some time, is read more slowly."""
BURST: Final = 4000
PAUSE_S: Final = 0.05
PACKETS_AT_ONCE: Final = 32
"""After so many packets of one worker the others have their turn."""

_decode = msgspec.msgpack.Decoder(b.FromWorker).decode
_encode = msgspec.msgpack.Encoder().encode


class Generation:
    """The policies of one generation.

    Parameters:
        learned: as the front told them.

    Raises:
        ValueError: a pattern is wrong.
    """

    def __init__(self, learned: b.Learn) -> None:
        self.dials = learned.outbound.connections + SPARE_DIALS
        self.proxy: tuple[str, int] | None = None
        if learned.outbound.proxy is not None:
            host, port, _ = parse_proxy(learned.outbound.proxy)
            self.proxy = (host.decode("ascii"), port)
        self.policies: dict[str, Policy] = {
            policy.binding: policy_for(
                policy.binding, policy.allowed_outbound_hosts, policy.own_ports, learned.outbound
            )
            for policy in learned.policies
        }
        self.bindings = tuple(policy.binding for policy in learned.policies)
        """In the zygote's order."""


class Front:
    """The front, as far as the service asks something of it. Implemented by `sandboxd.broker.main`."""

    def ask(self, question: int, serial: int, invocation: int) -> None:
        """Ask which binding a worker runs an invocation for. `Service.told` follows."""
        raise NotImplementedError

    def report_fault(self, serial: int, what: str) -> None:
        """Report that a worker broke the protocol."""
        raise NotImplementedError


class Service:
    """Serves the workers of a cell.

    Parameters:
        front: is asked who asks.
    """

    def __init__(self, front: Front) -> None:
        self._front = front
        self._loop = asyncio.get_running_loop()
        self.look_ups = LookUps()
        self._generations: dict[int, Generation] = {}
        self._questions: dict[int, asyncio.Future[str]] = {}
        self._numbers = itertools.count(1)
        self._running: RunningView | None = None
        self.workers: set[ServedWorker] = set()

    def __repr__(self) -> str:
        return f"<Service of {len(self.workers)} workers>"

    def see(self, running: RunningView) -> None:
        """Know from now on what the workers run, as far as the front has noted it."""
        self._running = running

    def learn(self, learned: b.Learn) -> None:
        """Know the policies of a generation from now on."""
        self._generations[learned.generation] = Generation(learned)

    def forget(self, number: int) -> None:
        """Forget a generation whose workers have ended."""
        self._generations.pop(number, None)

    def attach(self, serial: int, generation: int, place: int, channel: socket.socket) -> None:
        """Serve a worker from now on. The socket becomes this object's."""
        self.workers.add(ServedWorker(self, serial, self._generations[generation], place, channel))

    def told(self, answer: b.BindingAnswer) -> None:
        """The front has answered."""
        question = self._questions.pop(answer.question, None)
        if question is not None and not question.done():
            question.set_result(answer.binding)

    async def binding_of(self, worker: "ServedWorker", invocation: int) -> str:
        """Return the binding that a worker runs an invocation for, by what the front says; empty if it does not."""
        guest = self._running.guest_run_by(worker.place, invocation) if self._running is not None else None
        if guest is not None and guest < len(worker.generation.bindings):
            return worker.generation.bindings[guest]
        # The worker may be ahead of the front, which has not read the result of the invocation before.
        number = next(self._numbers)
        question: asyncio.Future[str] = self._loop.create_future()
        self._questions[number] = question
        try:
            self._front.ask(number, worker.serial, invocation)
            return await question
        finally:
            self._questions.pop(number, None)

    def report_fault(self, worker: "ServedWorker", what: str) -> None:
        """Close the socket of a worker that broke the protocol, and tell the front."""
        worker.close()
        self._front.report_fault(worker.serial, what)


class ServedWorker:
    """One worker and its socket pair. Everything that arrives on it is checked.

    Parameters:
        service: answers.
        serial: the worker's.
        generation: the worker's.
        place: of the worker's word in the page of what runs.
        channel: the broker's end.
    """

    def __init__(
        self, service: Service, serial: int, generation: Generation, place: int, channel: socket.socket
    ) -> None:
        channel.setblocking(False)
        # The kernel makes it its least: some five answers. What a worker does not read waits here, and counts.
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.serial = serial
        self.generation = generation
        self.place = place
        self._service = service
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._dials: dict[int, InlineTask] = {}
        self._budget = float(BURST)
        self._counted_at = time.monotonic()
        self._pause: asyncio.TimerHandle | None = None
        self._writing = asyncio.Lock()
        self._open = True
        self._loop.add_reader(channel.fileno(), self._readable)

    def __repr__(self) -> str:
        return f"<ServedWorker {self.serial}, {len(self._dials)} dials>"

    def close(self) -> None:
        """Hang up, and give up what the worker has asked for."""
        if not self._open:
            return
        self._open = False
        if self._pause is None:
            self._loop.remove_reader(self._channel.fileno())
        else:
            self._pause.cancel()
        self._loop.remove_writer(self._channel.fileno())
        dials, self._dials = self._dials, {}
        for dial in dials.values():
            dial.cancel()
        self._channel.close()
        self._service.workers.discard(self)

    def _readable(self) -> None:
        for _ in range(PACKETS_AT_ONCE):
            if not self._open:
                return
            if not self._may_ask():
                self._loop.remove_reader(self._channel.fileno())
                self._pause = self._loop.call_later(PAUSE_S, self._go_on)
                return
            try:
                # Without room for them, the kernel drops descriptors that a worker attaches.
                data, _, flags, _ = self._channel.recvmsg(b.PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data, flags = b"", 0
            if flags & socket.MSG_CTRUNC:
                self._service.report_fault(self, "descriptors to the egress broker")
            elif flags & socket.MSG_TRUNC:
                self._service.report_fault(self, f"a packet to the egress broker of more than {b.PACKET_BYTES} bytes")
            elif not data:
                self.close()
            else:
                self._take(data)

    def _may_ask(self) -> bool:
        now = time.monotonic()
        self._budget = min(BURST, self._budget + (now - self._counted_at) * DIALS_A_SECOND)
        self._counted_at = now
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._channel.fileno(), self._readable)

    def _take(self, data: bytes) -> None:
        try:
            message = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._service.report_fault(self, "a packet to the egress broker that is not a request")
            return
        if isinstance(message, b.Cancel):
            # It counts no more from now on: the worker may ask for another one before this one's task has ended.
            dial = self._dials.pop(message.id, None)
            if dial is not None:
                dial.cancel()
        elif message.id in self._dials:
            self._service.report_fault(self, "two requests to the egress broker with one number")
        elif len(self._dials) >= self.generation.dials:
            self._service.report_fault(self, f"more than {self.generation.dials} connections asked for at once")
        else:
            # Inline: an address that the kernel connects at once is answered without a further turn of the loop.
            dial = self._dials[message.id] = InlineTask(self._loop, self._serve(message))
            dial.begin()

    async def _serve(self, message: b.Dial) -> None:
        own = self._dials[message.id]
        try:
            await self._dial(message)
        finally:
            if self._dials.get(message.id) is own:
                del self._dials[message.id]

    async def _dial(self, dial: b.Dial) -> None:
        try:
            sock = await self._connected(dial)
        except AddressDenied as error:
            failed = b.Failed(dial.id, b.Failure.DENIED, reason=error.denied.reason, text=error.denied.rule)
        except Denied as error:
            failed = b.Failed(dial.id, b.Failure.DENIED, reason=error.reason, text=error.rule)
        except Unresolved:
            failed = b.Failed(dial.id, b.Failure.UNRESOLVED)
        except socket.gaierror as error:
            failed = b.Failed(dial.id, b.Failure.LOOK_UP, error.errno or socket.EAI_FAIL)
        except OSError as error:
            failed = b.Failed(dial.id, b.Failure.CONNECT, error.errno or 0)
        except _NotRunningError:
            failed = b.Failed(dial.id, b.Failure.NOT_RUNNING)
        else:
            with sock:
                await self._send(b.Dialled(dial.id), sock)
            return
        await self._send(failed)

    async def _connected(self, dial: b.Dial) -> socket.socket:
        """Return the socket that a worker asked for, if the binding that it works for may have it."""
        binding = await self._service.binding_of(self, dial.invocation)
        policy = self.generation.policies.get(binding)
        if policy is None:
            raise _NotRunningError
        if not dial.scheme:
            if (dial.host, dial.port) != self.generation.proxy:
                raise Denied("host")
            addresses = parse_addresses([dial.host])
            if addresses:
                return await open_socket(addresses, dial.port)
            return await open_socket(await self._resolved(dial, binding, dial.host), dial.port)
        if dial.scheme not in ("http", "https"):
            raise Denied("scheme")
        host = f"[{dial.host}]" if ":" in dial.host else dial.host
        try:
            authority = parse_authority(f"{host}:{dial.port}", dial.scheme)
        except ValueError:
            raise Denied("host") from None
        rule = policy.admit(dial.scheme, authority)
        if authority.address is not None:
            addresses = [authority.address]
        else:
            addresses = await self._resolved(dial, binding, authority.host)
        return await open_socket(permitted(policy, rule, dial.scheme, authority.port, addresses), authority.port)

    async def _resolved(self, dial: b.Dial, binding: str, host: str) -> list[Address]:
        """Look a name up, and tell the worker that connecting comes now."""
        addresses = await self._service.look_ups.resolve(binding, host, dial.port)
        if not addresses:
            raise Unresolved
        await self._send(b.Resolved(dial.id))
        return addresses

    async def _send(self, message: b.ToWorker, sock: socket.socket | None = None) -> None:
        """Send a packet, waiting while the worker does not read. Does nothing once the worker is gone."""
        data = _encode(message)
        rights: list[tuple[int, int, array.array[int]]] = (
            [] if sock is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))]
        )
        async with self._writing:
            while self._open:
                try:
                    self._channel.sendmsg([data], rights, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    await self._writable()
                except OSError as error:
                    if error.errno != errno.ETOOMANYREFS or not isinstance(message, b.Dialled):
                        self.close()
                        return
                    # unix(7): as many descriptors are on their way unread as this user may have.
                    data, rights = _encode(b.Failed(message.id, b.Failure.CONNECT, errno.ENOBUFS)), []
                else:
                    return

    async def _writable(self) -> None:
        room = asyncio.Event()
        descriptor = self._channel.fileno()
        self._loop.add_writer(descriptor, room.set)
        try:
            await room.wait()
        finally:
            if self._open:
                self._loop.remove_writer(descriptor)


class _NotRunningError(Exception):
    """The worker does not run the invocation that it named."""
