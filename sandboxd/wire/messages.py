"""The messages between the processes: frozen structs, encoded as MessagePack arrays by `sandboxd.wire.codec`.

Two conversations share them, both over stream sockets: front and worker (one socket per worker), and front and zygote
(one socket, on which descriptors travel, too). Every instant is CLOCK_MONOTONIC nanoseconds, which all processes of a
machine share.
"""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from sandboxd.limits import KIB, MIB, EngineSettings, Limits, OutboundSettings
from sandboxd.outcome import Outcome


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages."""


class GuestKind(StrEnum):
    """The kinds of guests."""

    MODULE = "module"
    """Core WebAssembly."""
    COMPONENT = "component"


class GuestMount(Message, frozen=True, kw_only=True, tag="mount"):
    """A mount of a guest. See `sandboxd.components.mounts.MountSettings`."""

    anchor: str
    source: str
    target: str
    read_only: bool = True
    reach: str
    """The folder beneath which the source lies, wherever links lead. Workers need access to all of it."""


class GuestTmp(Message, frozen=True, kw_only=True, tag="tmp"):
    """A folder in memory that each run finds empty."""

    target: str
    size: int
    files: int


class GuestWarm(Message, frozen=True, kw_only=True, tag="warm"):
    """The settings of a guest's warm starts. See `sandboxd.pool.templates`."""

    instances: int = 0
    """The parked children that are kept ready for each template; 0 adapts their number to the demand."""
    templates: int = 8
    """The most templates of the binding: the most sets of arguments that are started warm at once."""


class GuestSpec(Message, frozen=True, kw_only=True, tag="guest"):
    """The part of a binding that a worker needs."""

    binding: str
    kind: GuestKind
    artifact: str
    """Path of the compiled artifact in the store."""
    argv0: bytes
    env: tuple[tuple[bytes, bytes], ...] = ()
    strict_sandbox: bool = False
    limits: Limits = Limits()
    allowed_outbound_hosts: tuple[str, ...] | None = None
    own_ports: tuple[int, ...] = ()
    """The server's own ports. Guests do not reach them unless the operator names address and port."""
    mounts: tuple[GuestMount, ...] = ()
    tmp: GuestTmp | None = None
    warm: GuestWarm | None = None
    """None: every run begins with a fresh instance."""
    initialize: str = ""
    """The exported function that every run calls before `_start`; empty for none."""


# front -> worker -----------------------------------------------------------------------------------------------------


class HttpRequest(Message, frozen=True, kw_only=True, tag="http-request"):
    """The request for a `wasi:http/proxy` guest."""

    method: str
    scheme: str
    authority: str
    path: str
    """With query."""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Call(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """The input of an invocation. The front makes it, the pool carries it, and the worker receives it unchanged."""

    deadline_ns: int
    """CLOCK_MONOTONIC instant by which the invocation must be over, waiting for a worker included."""
    args: tuple[bytes, ...] = ()
    """argv without argv[0]."""
    env: tuple[tuple[bytes, bytes], ...] = ()
    """Variables beside the operator's. Names that the operator set have been removed."""
    stdin: bytes = b""
    """All of standard input."""
    http: HttpRequest | None = None
    """The request for a guest that handles requests; None for a command."""


class Invoke(Message, frozen=True, kw_only=True, tag="invoke"):
    """Run a guest once."""

    id: int
    guest: int
    """Index into the list of guests that the zygote loaded."""
    call: Call
    streaming: bool = False
    """The response is sent as ResponseHead and ResponseBody messages; the Result that follows does not contain it."""
    body_follows: bool = False
    """The request's body is not in `stdin`: it comes as RequestBody messages, as RequestCredit allows."""
    poll_ns: int = 0
    """The time for which to poll for the next frame after the result, before sleeping. A frame is then likely."""


class RequestBody(Message, frozen=True, tag="request-body"):
    """A piece of a streaming invocation's request body, at most as long as the worker gave credit for."""

    id: int
    data: bytes
    last: bool
    """Whether the body ends here. `data` may then be empty."""


# worker -> front -----------------------------------------------------------------------------------------------------


class Ready(Message, frozen=True, tag="ready"):
    """The worker can take frames."""

    pid: int
    private_bytes: int = 0
    """Of a template's child: the memory that it has touched, estimated as for `Parked`."""
    cpu_ns: int = 0
    """Of a template's child: the processor time that it has used since it was forked."""


# The decoder refuses longer arrays before it decodes their elements. Otherwise a compromised worker could hold up the
# front for seconds with one frame of empty elements.
RECORDS_MAX: Final = 20_000
"""The most records of outbound requests in one result. A worker leaves out those that come after."""
FIELDS_MAX: Final = 2048
"""The most fields of a response: 128 KiB, with 64 bytes counted for each beside its name and value."""
ResponseFields = Annotated[tuple[tuple[bytes, bytes], ...], msgspec.Meta(max_length=FIELDS_MAX)]


class OutboundUsage(Message, frozen=True, kw_only=True, tag="outbound-usage"):
    """One outbound request of an invocation. `rule` is the matched pattern, never the raw host."""

    rule: str
    outcome: str
    """`ok`, or the wasi-http error code's name."""
    duration_ns: int
    denied: str = ""
    """If the policy refused it: host, address, scheme, method or limit."""
    target: str = ""
    """If the policy refused it: the scheme and authority that the guest asked for. Hostile: for texts, never labels."""


class HttpResponse(Message, frozen=True, kw_only=True, tag="http-response"):
    """The head of a `wasi:http/proxy` guest's response. The body is the result's stdout."""

    status: int
    headers: ResponseFields = ()


class Result(Message, frozen=True, kw_only=True, tag="result"):
    """The result of an invocation."""

    id: int
    outcome: Outcome
    stdout: bytes = b""
    exit_code: int = 0
    detail: str = ""
    """For the caller: the trap's text, or the limit that was passed. Never host paths or tracebacks."""
    trace: str = ""
    """The place where the guest trapped: its functions, to follow `detail`. See `hostfuncs.running.traps.trace`."""
    stderr: bytes = b""
    """The end of the guest's standard error, at most `stderr_bytes` long."""
    stderr_total: int = 0
    texts_cut: int = 0
    """The number of texts of this run that were cut to `hostfuncs.texts.MAX_BYTES`."""
    instantiate_ns: int = 0
    guest_ns: int = 0
    cpu_ns: int = -1
    """The processor time of the run; -1 if it was not measured. Of short runs only some are measured."""
    memory_bytes: int = 0
    outbound: Annotated[tuple[OutboundUsage, ...], msgspec.Meta(max_length=RECORDS_MAX)] = ()
    http: HttpResponse | None = None
    limit: str = ""
    """Key of the limit that was passed (see `sandboxd.limits.keys.key_of`); empty if none was."""
    retire: bool = False
    """The worker asks to be replaced, because its state may be damaged."""
    queue_ns: int = 0
    """Time the invocation waited for the worker. Set by the pool, not by the worker."""


WINDOW_BYTES: Final = 256 * KIB
"""The most bytes of a streaming invocation's request body that are in transit or unread in the worker."""


class RequestCredit(Message, frozen=True, tag="request-credit"):
    """The number of further bytes that a streaming invocation accepts. The first credit tells that it began."""

    id: int
    size: int


class ResponseHead(Message, frozen=True, tag="response-head"):
    """The head of a streaming invocation's response. At most one is sent, before any ResponseBody."""

    id: int
    status: int
    headers: ResponseFields


class ResponseBody(Message, frozen=True, tag="response-body"):
    """A piece of a streaming invocation's response body. A `completed` Result tells that the body is complete."""

    id: int
    data: bytes


class Skipped(Message, frozen=True, tag="skipped"):
    """The worker found this frame revoked on its status page and did not run it."""

    id: int


# template -> front ---------------------------------------------------------------------------------------------------


class Parked(Message, frozen=True, kw_only=True, tag="parked"):
    """The template's guest has run up to the first thing that depends on its input. Children can be forked from it."""

    at: str
    """See `hostfuncs.running.parking.ParkPoint`."""
    boot_ns: int
    """The time from the start of the run."""
    cpu_ns: int
    """The processor time of the same."""
    private_bytes: int
    """The memory that the template has touched since it was forked. An estimate: page faults times the page size."""


class NotParked(Message, frozen=True, kw_only=True, tag="not-parked"):
    """The template's guest ended without needing any input, or could not be parked. The template ends."""

    outcome: Outcome
    detail: str = ""


# front -> zygote -----------------------------------------------------------------------------------------------------


class Confinement(Message, frozen=True, kw_only=True, tag="confinement"):
    """The configurable part of the workers' confinement."""

    uid: int | None = None
    """Change to this user; None keeps the server's."""
    gid: int | None = None
    host_memory_bytes: int = 4096 * MIB
    """The address space that a worker may take beside guests' memories and the copies of their output. Bytes."""
    wall: str = "auto"
    """See `sandboxd.wall.Mode`."""


class Load(Message, frozen=True, kw_only=True, tag="load"):
    """Build the engine and deserialise these artifacts. Sent once, first."""

    engine: EngineSettings
    outbound: OutboundSettings
    guests: tuple[GuestSpec, ...]
    confinement: Confinement = Confinement()


class Spawn(Message, frozen=True, tag="spawn"):
    """Fork a worker. Answered by Spawned, with its socket attached, or SpawnFailed."""

    serial: int


class SpawnTemplate(Message, frozen=True, kw_only=True, tag="spawn-template"):
    """Fork a template: a process in which a guest runs until it needs its input. Answered as Spawn is."""

    serial: int
    guest: int
    """Index into the list of guests."""
    args: tuple[bytes, ...] = ()
    """argv without argv[0]."""
    env: tuple[tuple[bytes, bytes], ...] = ()
    """Variables on top of the operator's, without those of the trace context."""
    boot_ms: int
    """The longest time that the guest may run before it needs its input."""


class SpawnChild(Message, frozen=True, tag="spawn-child"):
    """Have a parked template fork a child. Answered as Spawn is."""

    serial: int
    template: int
    """The template's serial."""


class Kill(Message, frozen=True, tag="kill"):
    """SIGKILL a worker. Answered, as every death is, by Exited."""

    serial: int


# zygote -> front -----------------------------------------------------------------------------------------------------


class Loaded(Message, frozen=True, kw_only=True, tag="loaded"):
    """The engine is built and workers can be spawned."""

    failed: tuple[tuple[str, str], ...] = ()
    """The guests that are not available: (binding, reason)."""
    missing_layers: tuple[tuple[str, str], ...] = ()
    """The layers of the wall that workers do not have: (`sandboxd.wall.Layer`, reason)."""
    brokered: bool = False
    """Whether guests may call out. Each worker then has a socket pair to the egress broker."""
    native: bool = False
    """Whether the host functions in C were built here (`hostfuncs.native`)."""


class LoadFailed(Message, frozen=True, tag="load-failed"):
    """The engine could not be built, or the workers could not be prepared. The zygote exits."""

    detail: str
    remedy: str = ""
    setting: bool = False
    """Whether a setting is at fault."""


class Spawned(Message, frozen=True, tag="spawned"):
    """A worker was forked. Attached: the front's end of its socket, its status page (a memfd), its pidfd, and the
    egress broker's end of its socket pair if there is one."""

    serial: int
    pid: int


class SpawnFailed(Message, frozen=True, tag="spawn-failed"):
    """fork, socketpair or memfd_create failed."""

    serial: int
    detail: str


class Exited(Message, frozen=True, tag="exited"):
    """A worker was reaped. `status` is that of os.waitstatus_to_exitcode: negative for a signal."""

    serial: int
    pid: int
    status: int


# zygote <-> template -------------------------------------------------------------------------------------------------


class Fork(Message, frozen=True, tag="fork"):
    """Fork a child. Attached: its end of its socket to the front, its status page, and its end of the socket pair to
    the egress broker if there is one. Answered by Forked."""

    serial: int


class Forked(Message, frozen=True, tag="forked"):
    """A child was forked. The zygote must be its parent, and checks that it is."""

    serial: int
    pid: int
