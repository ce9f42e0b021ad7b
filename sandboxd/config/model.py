"""The settings of the server with their defaults and bounds. `sandboxd.config.load` reads them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sandboxd.config.machine import cpu_count
from sandboxd.limits import EngineSettings, Limits, OutboundSettings
from sandboxd.limits.about import choice, flag, number, path, text, texts
from sandboxd.limits.keys import DEFAULT_CEILINGS
from sandboxd.limits.units import DAY_MS, HOUR_MS, KIB, MIB, Unit

KEYS: Final = "keys"
"""In the metadata of a section: its keys in sandboxd.yaml, where they are not its name."""

_D, _S, _C = Unit.DURATION, Unit.SIZE, Unit.COUNT


@dataclass(frozen=True, kw_only=True, slots=True)
class Listen:
    """The address of the server, and the bounds of a request."""

    host: str = text("host", "127.0.0.1", "address to listen on; `0.0.0.0` for every IPv4 address")
    port: int = number("port", _C, 0, 65_535, "TCP port; 0 takes a free one", default=3500)
    unix_socket: str | None = text("unixSocket", None, "serve HTTP on this Unix socket instead of host and port")
    grpc_port: int = number(
        "grpcPort",
        _C,
        0,
        65_535,
        "TCP port of the gRPC API, Dapr's own by default; 0 = none",
        default=50_001,
    )
    grpc_unix_socket: str | None = text(
        "grpcUnixSocket", None, "also serve gRPC on this Unix socket; with several cells, the first one does"
    )
    grpc_health: bool = flag(
        "grpcHealth", False, "also serve grpc.health.v1 and reflection, which are unknown methods for daprd"
    )
    dapr_only: bool = flag(
        "daprOnly", False, "answer requests to /v1.0/bindings/NAME/raw and /v1.0/http/ as Dapr does: 404"
    )
    when_ready: bool = flag(
        "whenReady",
        True,
        "listen only once the guests are loaded, so that callers and proxies find a closed port instead of a 503; "
        "off where a probe asks /livez or /readyz meanwhile",
    )
    max_body_bytes: int = number(
        "maxBodySize", _S, 1, 128 * MIB, "longest request body; over gRPC, longest message in and out", default=4 * MIB
    )
    max_header_bytes: int = number(
        "maxHeaderSize", _S, 1 * KIB, 1 * MIB, "longest request head: request line and headers", default=16 * KIB
    )
    header_timeout_ms: int = number(
        "headerTimeout", _D, 100, HOUR_MS, "how long a request head may take", default=10_000
    )
    body_timeout_ms: int = number(
        "bodyTimeout",
        _D,
        100,
        HOUR_MS,
        "the longest pause within a request's body; a longer one is answered with 408",
        default=30_000,
    )
    send_timeout_ms: int = number(
        "sendTimeout",
        _D,
        100,
        HOUR_MS,
        "how long a caller may read nothing of a response; then it is cut off",
        default=30_000,
    )
    min_rate: int = number(
        "minRate",
        _S,
        0,
        1 * MIB,
        "least bytes per second of a body or response, once bodyTimeout or sendTimeout is over; 0 = any",
        default=1 * KIB,
    )
    max_connections: int = number(
        "maxConnections",
        _C,
        1,
        1_000_000,
        "open connections, of each cell; at most three quarters of the descriptors the process may have",
        default=1_024,
    )
    max_peer_connections: int = number(
        "maxPeerConnections",
        _C,
        1,
        1_000_000,
        "open connections of one address, or of one IPv6 /64; not on a Unix socket",
        default=768,
    )
    max_unread_bytes: int = number(
        "maxUnread",
        _S,
        1 * MIB,
        1024 * 1024 * MIB,
        "bytes of responses held for callers who have not read them yet, in all, of each cell",
        default=256 * MIB,
    )
    allowed_origins: tuple[str, ...] = texts(
        "allowedOrigins", (), "origins that get CORS headers; `*` for all; empty sends none"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """The HTTP server."""

    kind: str = choice(
        "kind", ("auto", "hypercorn", "uvicorn"), "`auto` is uvicorn where the `fast` extra is installed and TLS is off"
    )
    http2: bool = flag("http2", True, "offer HTTP/2 (hypercorn only): by ALPN with TLS, h2c without")
    tls_certificate: str | None = text("tlsCertificate", None, "PEM file of the certificate chain (hypercorn only)")
    tls_key: str | None = text("tlsKey", None, "PEM file of its private key")


WORKERS_PER_CELL: Final = 4
"""The kernel spreads connections over the cells, not requests. With one worker each, callers of one cell would wait
while workers of other cells are idle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """The worker processes of the server. With several cells, each has its share."""

    workers: int = number(
        "workers",
        _C,
        1,
        4_096,
        "worker processes, each running one invocation; divided over the cells, at least one each",
        factory=cpu_count,
        text="CPUs available",
    )
    queue_limit: int = number(
        "queueLimit", _C, 0, 1_000_000, "requests that may wait for a worker; divided over the cells", default=1_000
    )
    queue_timeout_ms: int = number(
        "queueTimeout", _D, 1, HOUR_MS, "how long a request may wait for a worker", default=10_000
    )
    load_timeout_ms: int = number(
        "loadTimeout",
        _D,
        100,
        DAY_MS,
        "how long loading all compiled modules may take before it counts as hung",
        default=120_000,
    )
    look_ahead: int = number(
        "lookAhead", _C, 0, 16, "requests sent ahead to a busy worker whose guest runs briefly; 0 = none", default=8
    )
    polling: bool = flag(
        "polling",
        True,
        "look for the next frame up to 0.5 ms before sleeping, while requests come one at a time; "
        "never where there is one CPU or a CPU quota",
    )
    recycle_after: int = number(
        "recycleAfter", _C, 0, 1_000_000_000, "invocations after which a worker is replaced; 0 = never", default=0
    )
    user: str | None = text(
        "user", None, "workers run as this user, a name or a number; needs root", text="the server's own"
    )
    group: str | None = text(
        "group", None, "workers run as this group and no other; needs root", text="that of `user`, or the server's own"
    )
    host_memory_bytes: int = number(
        "hostMemory",
        _S,
        1024 * MIB,
        1024 * 1024 * MIB,
        "address space a worker may take beside guests' memories: its own, input and bodies in flight",
        default=4096 * MIB,
    )
    wall: str = choice(
        "wall",
        ("auto", "required", "off"),
        "filters of system calls and Landlock around workers and compilers: `auto` where the kernel has them, "
        "`required` starts nothing without them",
    )
    warm_start: bool = flag(
        "warmStart",
        False,
        "start guests ahead of requests, up to their first read of stdin; a component's `warmStart` takes precedence",
    )
    warm_memory_bytes: int = number(
        "warmMemory",
        _S,
        0,
        1024 * 1024 * MIB,
        "memory that all guests started ahead may take, without those that run for requests; for each cell",
        default=1024 * MIB,
    )
    max_binding_share: int = number(
        "maxBindingShare",
        _C,
        1,
        100,
        "percentage of the workers that one of several bindings may hold while others wait; 100 protects nobody",
        default=75,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Mounts:
    """The folders that components may mount."""

    allowed_sources: tuple[str, ...] | None = texts(
        "allowedSources",
        None,
        "folders in and beneath which the sources of `mounts` may lie; an empty list allows none",
        text="what lies beneath the folders of component files",
    )
    max_tmp_bytes: int = number(
        "maxTmpSize", _S, 0, 4096 * MIB, "the greatest `size` of a component's `tmp`", default=256 * MIB
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """The folder of compiled modules."""

    folder: Path = path(  # noqa: RUF009  (it returns a dataclasses.field with a default_factory)
        "folder",
        "compiled and downloaded modules, private to the user",
        factory=lambda: default_cache_folder(os.environ),
        text="`$XDG_CACHE_HOME/sandboxd` or `~/.cache/sandboxd`",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Modules:
    """Downloading and compiling modules."""

    max_download_bytes: int = number(
        "maxDownloadSize", _S, 1 * KIB, 4096 * MIB, "largest module accepted", default=256 * MIB
    )
    connect_timeout_ms: int = number("connectTimeout", _D, 1, HOUR_MS, "connecting to an origin", default=10_000)
    download_timeout_ms: int = number(
        "downloadTimeout", _D, 1, DAY_MS, "one download from first to last byte", default=300_000
    )
    retries: int = number("retries", _C, 0, 100, "further tries of a failed download", default=3)
    retry_backoff_ms: int = number(
        "retryBackoff", _D, 0, HOUR_MS, "pause before the first further try; doubles each time", default=500
    )
    revalidate_ms: int = number(
        "revalidatePeriod", _D, 0, 30 * DAY_MS, "how often http(s) modules are asked for changes; 0 = never", default=0
    )
    compile_timeout_ms: int = number("compileTimeout", _D, 100, DAY_MS, "compiling one module", default=120_000)
    compile_memory_bytes: int = number(
        "compileMemory", _S, 64 * MIB, 1024 * 1024 * MIB, "address space of one compiler process", default=4096 * MIB
    )
    compile_parallelism: int = number(
        "compileParallelism", _C, 1, 1_024, "compilers at once", factory=cpu_count, text="CPUs available"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Logging:
    """Log lines on stderr."""

    format: str = choice("format", ("auto", "json", "text"), "`auto` is text on a terminal and JSON elsewhere")
    level: str = choice("level", ("info", "debug", "warning", "error"), "the least severity written")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drain:
    """The shutdown of the server."""

    timeout_ms: int = number(
        "timeout", _D, 0, DAY_MS, "how long SIGTERM lets running invocations finish", default=30_000
    )
    delay_ms: int = number(
        "delay",
        _D,
        0,
        HOUR_MS,
        "how long after SIGTERM connections are still accepted while /readyz answers 503, so that proxies notice",
        default=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reload:
    """Reloading while the server runs. SIGHUP reloads in any case."""

    watch: bool = flag(
        "watch", True, "reload when components, file:// modules or mounted folders change, as Dapr's HotReload does"
    )
    debounce_ms: int = number("debounce", _D, 0, HOUR_MS, "quiet time after a change before it is read", default=500)


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsConfig:
    """The metrics at /metrics."""

    dapr_compatibility: bool = flag(
        "daprCompatibility", False, "also daprd's `dapr_component_output_binding_*` names, labels and buckets"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Admin:
    """The status page and the status document, on an address of their own."""

    listen: str | None = text(
        "listen",
        None,
        "where the status document and the page /ui are served: `host:port`, the path of a Unix socket, or `off`; "
        "never on the port of the API",
        text="`127.0.0.1:3501`, if nobody else has it",
    )
    invoke: bool = flag("invoke", False, "let the page run guests (Try it)")
    hosts: tuple[str, ...] = texts(
        "hosts", (), "hosts by which the page may be requested, beside addresses and `localhost`; needed behind a proxy"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings. A section is a key of sandboxd.yaml."""

    app_id: str = text("appId", "sandboxd", "Dapr's app id: `scopes`, the `{appID}` template, /v1.0/metadata")
    namespace: str | None = text(
        "namespace", None, "components of other namespaces are skipped", text="`$NAMESPACE`; else no comparison"
    )
    resources_paths: tuple[str, ...] = texts("resourcesPaths", (), "folders of component files")
    strict_sandbox: bool = flag("strictSandbox", False, "run every binding with `strictSandbox: true`")
    cells: int = number(
        "cells",
        _C,
        0,
        256,
        "independent fronts, each with a zygote and a pool, on one port; 0 = one per 4 CPUs and per 4 workers",
        default=0,
    )
    listen: Listen = field(default_factory=Listen)
    engine: Engine = field(default_factory=Engine)
    pool: PoolConfig = field(default_factory=PoolConfig)
    limits: Limits = field(default_factory=Limits)
    """Limits of bindings that do not set their own."""
    ceilings: Limits = field(default=DEFAULT_CEILINGS, metadata={KEYS: ("limits", "ceilings")})
    """The most a binding may set."""
    wasm: EngineSettings = field(default_factory=EngineSettings)
    cache: Cache = field(default_factory=Cache)
    modules: Modules = field(default_factory=Modules)
    mounts: Mounts = field(default_factory=Mounts)
    egress: OutboundSettings = field(default_factory=OutboundSettings)
    logging: Logging = field(default_factory=Logging)
    drain: Drain = field(default_factory=Drain)
    reload: Reload = field(default_factory=Reload)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    admin: Admin = field(default_factory=Admin)
    api_token: str | None = field(default=None, repr=False)
    """From DAPR_API_TOKEN only, so that it is in no file and in no printed configuration."""

    @property
    def cell_count(self) -> int:
        """The number of cells: `cells`, or if that is 0, one for each WORKERS_PER_CELL CPUs and workers."""
        return self.cells or max(1, min(cpu_count(), self.pool.workers) // WORKERS_PER_CELL)


def default_cache_folder(environ: Mapping[str, str]) -> Path:
    """Return `$XDG_CACHE_HOME/sandboxd`, or `~/.cache/sandboxd`.

    Source: XDG Base Directory Specification 0.8; a relative XDG_CACHE_HOME is to be ignored.
    """
    base = environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "sandboxd"
    return home(environ) / ".cache" / "sandboxd"


def home(environ: Mapping[str, str]) -> Path:
    """Return `$HOME`, or the home folder of the user's passwd entry; `/` for a user without either."""
    if environ.get("HOME"):
        return Path(environ["HOME"])
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir or "/")
    except KeyError:
        return Path("/")
