"""The values that go into the outbound client and come out of it. All are frozen and have no behaviour."""

from dataclasses import dataclass

Fields = tuple[tuple[bytes, bytes], ...]
"""Header or trailer lines in wire order. The names keep their case."""

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings for every invocation of a worker."""

    ca_files: tuple[str, ...] = ()
    """The paths of PEM bundles that are trusted beside the system's store."""
    client_certificates: tuple[tuple[str, str, str], ...] = ()
    """(host pattern as in `Policy`, PEM certificate chain file, PEM key file). The first that matches is used."""
    proxy: str | None = None
    """`http://[user:password@]host:port` of a proxy for all requests; None connects directly. The environment is never
    read. The proxy resolves names, so it must check their addresses; here only addresses in URLs are checked. Trailers
    and client certificates are not passed on."""
    no_proxy: tuple[str, ...] = ()
    """The hosts that are connected to without the proxy: `example.com` (with its subdomains), an address, a CIDR, each
    with `:port` if only that port is meant, or `*`."""
    http2: bool = False
    """Whether to offer HTTP/2 to https origins (ALPN)."""
    connections: int = 64
    """The most connections that a worker may hold, over all origins. At least 1."""
    idle_connections: int = 32
    """The most of them that may be idle."""
    keepalive_ms: int = 15_000
    """The longest time for which an idle connection is kept. Milliseconds."""
    connect_timeout_ms: int = 10_000
    """The default of `Options.connect_timeout_ns`, and its highest value. It covers name resolution, TCP and TLS.
    Milliseconds."""
    first_byte_timeout_ms: int = 60_000
    """From the established connection to the end of the response's header section. Milliseconds."""
    between_bytes_timeout_ms: int = 60_000
    """Between two pieces of the response's body. Milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboundLimits:
    """The limits of one invocation, inclusive."""

    requests: int = 1_000
    """The most requests that are started."""
    concurrency: int = 64
    """The most requests in flight, until the response's body has ended or is dropped. Further ones wait."""
    header_bytes: int = 64 * 1024
    """The most bytes of a header section or trailer section: names, values, and 4 bytes per line for separators."""
    header_count: int = 128
    """The most lines of a header section or trailer section."""
    body_bytes: int = 64 * MIB
    """The most bytes of a request's body, and of a response's."""
    uri_bytes: int = 16 * 1024
    """The most bytes of a path with query."""
    buffer_bytes: int = 256 * 1024
    """The most bytes of a body that are held in memory in each direction, before the other side must wait."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request of a guest, unchecked."""

    method: str
    scheme: str
    """`http` or `https`, in any case. Others are refused."""
    authority: str
    """host[:port], as the guest gave it."""
    path_with_query: str = "/"
    """Empty means `/`; `?a=b` means `/?a=b`."""
    headers: Fields = ()
    """The header lines without Host, which is made from the authority."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """A guest's request-options, in nanoseconds. None means the server's value, which is also the highest."""

    connect_timeout_ns: int | None = None
    first_byte_timeout_ns: int | None = None
    between_bytes_timeout_ns: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseHead:
    """The status and header lines of a response."""

    status: int
    """200 to 999 over HTTP/1.1, otherwise 200 to 599. Guests do not see interim responses."""
    headers: Fields


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageRecord:
    """The result of one outbound request, for metrics and logs."""

    rule: str
    """The pattern of the allow list that matched; `default` without a list; empty if nothing matched."""
    outcome: str
    """`ok`, `dropped` (the guest dropped the exchange before its end), or the name of the error code."""
    duration_ns: int
    """From `start` to the end of the response's body, or to the failure."""
    denied: str = ""
    """If it was refused: `host`, `address`, `scheme`, `method` or `limit`."""
    target: str = ""
    """If it was refused: the scheme and authority of the request, cut to `texts.TARGET_CHARS`. The guest chose them.
    Only the first refusals of an invocation have a target."""
