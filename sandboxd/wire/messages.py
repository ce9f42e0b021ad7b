"""What the processes say to each other: frozen structs, encoded as MessagePack arrays by `sandboxd.wire.codec`.

Two conversations share them: front <-> worker (one stream socket per worker) and front <-> zygote
(one seqpacket socket). Every instant is CLOCK_MONOTONIC nanoseconds, which all processes of a machine share.
"""

import msgspec

from sandboxd.limits import MIB, EngineSettings, Limits
from sandboxd.outcome import Outcome


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages."""


class GuestSpec(Message, frozen=True, kw_only=True, tag="guest"):
    """One binding as a worker needs it."""

    binding: str
    kind: str
    """`module` (core WebAssembly), or `component`."""
    artifact: str
    """Path of the compiled artifact in the store."""
    argv0: bytes
    env: tuple[tuple[bytes, bytes], ...] = ()
    strict_sandbox: bool = False
    limits: Limits = Limits()
    allowed_outbound_hosts: tuple[str, ...] | None = None


class OutboundSettings(Message, frozen=True, kw_only=True, tag="outbound"):
    """Server-wide settings of outbound HTTP."""

    block_networks: tuple[str, ...] = ()
    """CIDRs, or the names private, loopback, link-local, metadata: never connected to, whatever a binding allows."""
    default_allowed_hosts: tuple[str, ...] | None = None
    """Used by bindings without a list of their own; None allows public and private addresses, as Dapr does."""
    ca_files: tuple[str, ...] = ()
    """Extra CA bundles (PEM) trusted beside the system store."""
    client_certificates: tuple[tuple[str, str, str], ...] = ()
    """(origin pattern, certificate chain file, key file)."""
    proxy: str | None = None
    http2: bool = False
    connections: int = 64
    """Connections a worker may hold."""
    connect_timeout_ms: int = 10_000
    first_byte_timeout_ms: int = 60_000
    between_bytes_timeout_ms: int = 60_000


# front -> worker -----------------------------------------------------------------------------------------------------


class HttpRequest(Message, frozen=True, kw_only=True, tag="http-request"):
    """The request a `wasi:http/proxy` guest gets."""

    method: str
    scheme: str
    authority: str
    path: str
    """With query."""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Invoke(Message, frozen=True, kw_only=True, tag="invoke"):
    """Run a guest once."""

    id: int
    guest: int
    """Index into the list of guests the zygote loaded."""
    deadline_ns: int
    args: tuple[bytes, ...] = ()
    """argv without argv[0]."""
    env: tuple[tuple[bytes, bytes], ...] = ()
    """From the request; names the operator set have been removed."""
    stdin: bytes = b""
    http: HttpRequest | None = None
    """Set for guests that handle requests instead of running a command."""
    streaming: bool = False
    """The response is to flow: ResponseHead, ResponseBody ..., and then a Result without it."""
    body_follows: bool = False
    """Of a streaming invocation: its request's body is not `stdin` but comes as RequestBody, after RequestCredit."""
    poll_ns: int = 0
    """After the result, look for the next frame for this long before going to sleep: one is likely to come."""


class RequestBody(Message, frozen=True, tag="request-body"):
    """A piece of a streaming invocation's request body. Never more than the worker gave credit for."""

    id: int
    data: bytes
    last: bool
    """Nothing follows. `data` may be empty."""


# worker -> front -----------------------------------------------------------------------------------------------------


class Ready(Message, frozen=True, tag="ready"):
    """The worker can take frames."""

    pid: int


class OutboundUsage(Message, frozen=True, kw_only=True, tag="outbound-usage"):
    """One outbound request of an invocation. `rule` is the matched pattern, never the raw host."""

    rule: str
    outcome: str
    """`ok`, or the wasi-http error code's name."""
    duration_ns: int
    denied: str = ""
    """If the policy refused it: host, address, scheme, method or limit."""


class HttpResponse(Message, frozen=True, kw_only=True, tag="http-response"):
    """The head a `wasi:http/proxy` guest answered with; its body is the result's stdout."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Result(Message, frozen=True, kw_only=True, tag="result"):
    """How an invocation ended."""

    id: int
    outcome: Outcome
    stdout: bytes = b""
    exit_code: int = 0
    detail: str = ""
    """For the caller: the trap's text, or which limit was passed. Never host paths or tracebacks."""
    stderr: bytes = b""
    """The end of what the guest wrote there, at most `stderr_bytes`."""
    stderr_total: int = 0
    instantiate_ns: int = 0
    guest_ns: int = 0
    memory_bytes: int = 0
    outbound: tuple[OutboundUsage, ...] = ()
    http: HttpResponse | None = None
    limit: str = ""
    """Key of the limit that was passed (see `sandboxd.limit_keys.key_of`); empty if none was."""
    retire: bool = False
    """The worker asks to be replaced: it holds a state it cannot vouch for."""
    queue_ns: int = 0
    """Time the invocation waited for the worker. Set by the pool, not by the worker."""


class RequestCredit(Message, frozen=True, tag="request-credit"):
    """A streaming invocation takes this many bytes more of its request's body. The first says that it has begun."""

    id: int
    size: int


class ResponseHead(Message, frozen=True, tag="response-head"):
    """A streaming invocation's guest has answered. At most one, before any ResponseBody."""

    id: int
    status: int
    headers: tuple[tuple[bytes, bytes], ...]


class ResponseBody(Message, frozen=True, tag="response-body"):
    """A piece of a streaming invocation's response body. That it is complete is told by a `completed` Result."""

    id: int
    data: bytes


class Skipped(Message, frozen=True, tag="skipped"):
    """The worker found this frame revoked on its status page and did not run it."""

    id: int


# front -> zygote -----------------------------------------------------------------------------------------------------


class Confinement(Message, frozen=True, kw_only=True, tag="confinement"):
    """What workers give up beyond what all of them do."""

    uid: int | None = None
    """Change to this user; None keeps the server's."""
    gid: int | None = None
    host_memory_bytes: int = 4096 * MIB
    """Address space a worker may take beside guests' memories and the copies of their output."""


class Load(Message, frozen=True, kw_only=True, tag="load"):
    """Build the engine and deserialise these artifacts. Sent once, first."""

    engine: EngineSettings
    outbound: OutboundSettings
    guests: tuple[GuestSpec, ...]
    confinement: Confinement = Confinement()


class Spawn(Message, frozen=True, tag="spawn"):
    """Fork a worker. Answered by Spawned, with its socket attached, or SpawnFailed."""

    serial: int


class Kill(Message, frozen=True, tag="kill"):
    """SIGKILL a worker. Answered, as every death is, by Exited."""

    serial: int


# zygote -> front -----------------------------------------------------------------------------------------------------


class Loaded(Message, frozen=True, kw_only=True, tag="loaded"):
    """The engine stands; workers can be spawned. `failed` guests are not available."""

    failed: tuple[tuple[str, str], ...] = ()
    """(binding, why)."""


class LoadFailed(Message, frozen=True, tag="load-failed"):
    """The engine could not be built; the zygote exits."""

    detail: str


class Spawned(Message, frozen=True, tag="spawned"):
    """A worker was forked. Attached: the front's end of its socket, and its status page (a memfd)."""

    serial: int
    pid: int


class SpawnFailed(Message, frozen=True, tag="spawn-failed"):
    """fork, socketpair or memfd_create failed."""

    serial: int
    detail: str


class Exited(Message, frozen=True, tag="exited"):
    """A worker was reaped. `status` as in os.waitstatus_to_exitcode: negative for a signal."""

    serial: int
    pid: int
    status: int
