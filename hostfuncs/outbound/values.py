"""The plain values that cross the border of the outbound client. All frozen; none does anything."""

from dataclasses import dataclass

Fields = tuple[tuple[bytes, bytes], ...]
"""Header or trailer lines in wire order, names in the case they were given."""

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings for every invocation of a worker."""

    ca_files: tuple[str, ...] = ()
    """PEM bundles trusted beside the system's store. Paths."""
    client_certificates: tuple[tuple[str, str, str], ...] = ()
    """(host pattern as in `Policy`, PEM certificate chain file, PEM key file); the first that matches is used."""
    proxy: str | None = None
    """`http://[user:password@]host:port` of a proxy all requests go through; None connects directly. The environment
    is never asked. The proxy then resolves names, so addresses are checked here only where the guest names one, and
    must be enforced there; trailers and client certificates are not passed on."""
    no_proxy: tuple[str, ...] = ()
    """Hosts that are connected to without the proxy: `example.com` (and what is below it), an address, a CIDR, each
    with `:port` if only that port is meant, or `*`."""
    http2: bool = False
    """Offer HTTP/2 to https origins (ALPN)."""
    connections: int = 64
    """Connections a worker may hold, over all origins. At least 1."""
    idle_connections: int = 32
    """Of these, how many may be idle."""
    keepalive_ms: int = 15_000
    """An idle connection older than this is not used again. Milliseconds."""
    connect_timeout_ms: int = 10_000
    """Default of `Options.connect_timeout_ns`, and its ceiling. Covers name resolution, TCP and TLS. Milliseconds."""
    first_byte_timeout_ms: int = 60_000
    """From the connection standing to the end of the response's header section. Milliseconds."""
    between_bytes_timeout_ms: int = 60_000
    """Between two pieces of the response's body. Milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboundLimits:
    """Ceilings of one invocation; inclusive."""

    requests: int = 1_000
    """Requests started."""
    concurrency: int = 64
    """Requests in flight at once (until the response's body has ended or was dropped). Further ones wait their turn."""
    header_bytes: int = 64 * 1024
    """All names and values of a header section or trailer section, 4 bytes added per line for its separators."""
    header_count: int = 128
    """Lines of a header section or trailer section."""
    body_bytes: int = 64 * MIB
    """A request's body, and a response's."""
    uri_bytes: int = 16 * 1024
    """Path with query."""
    buffer_bytes: int = 256 * 1024
    """What a body keeps in memory in each direction before the other side has to wait."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request as the guest wants it. Nothing in it has been checked."""

    method: str
    scheme: str
    """`http` or `https`, any case; all else is refused."""
    authority: str
    """host[:port], as the guest gave it."""
    path_with_query: str = "/"
    """Empty means `/`; `?a=b` means `/?a=b`."""
    headers: Fields = ()
    """Without Host: it is made from the authority."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """A guest's request-options, in nanoseconds. None means the server's value; a larger one than that is cut to it."""

    connect_timeout_ns: int | None = None
    first_byte_timeout_ns: int | None = None
    between_bytes_timeout_ns: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseHead:
    """Status and header lines of a response."""

    status: int
    """200 to 999 over HTTP/1.1, 200 to 599 else. Guests do not see interim responses."""
    headers: Fields


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageRecord:
    """The result of one outbound request, for metrics and logs."""

    rule: str
    """The pattern of the allow list that matched; `default` without a list; empty if nothing matched."""
    outcome: str
    """`ok`, `dropped` (the guest did not want the rest), or the name of the error code."""
    duration_ns: int
    """From `start` to the end of the response's body, or to the failure."""
    denied: str = ""
    """If it was refused: `host`, `address`, `scheme`, `method` or `limit`."""
    target: str = ""
    """If it was refused: the scheme and authority that the guest asked for, cut to `texts.TARGET_CHARS`.
    The guest chose it. Only the first refusals of an invocation have it."""
