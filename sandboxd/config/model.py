"""The settings of the server: what they are, their defaults and their bounds. Reading them is sandboxd.config.load."""

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from sandboxd.config.machine import cpu_count
from sandboxd.limit_keys import DEFAULT_CEILINGS, Unit
from sandboxd.limits import KIB, MIB, EngineSettings, Limits


class Kind(Enum):
    """How the value of a setting is written."""

    NUMBER = auto()
    FLAG = auto()
    TEXT = auto()
    CHOICE = auto()
    TEXTS = auto()
    CERTIFICATES = auto()
    FOLDER = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What is known of a setting beside its field: travels in the field's metadata."""

    key: str
    """Key in YAML, camelCase."""
    kind: Kind
    meaning: str
    unit: Unit = Unit.COUNT
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()
    optional: bool = False
    """`null` is a value."""
    default_text: str = ""
    """The default in words, where it is computed."""


ABOUT: Final = "about"


# The helpers below return dataclass fields and are typed Any for the reason dataclasses.field is: they stand where
# a default value of the field's own type is expected.
def _setting(about: About, default: Any = MISSING, factory: Any = MISSING) -> Any:
    metadata = {ABOUT: about}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def _number(
    key: str,
    unit: Unit,
    low: int,
    high: int,
    meaning: str,
    *,
    default: Any = MISSING,
    factory: Any = MISSING,
    text: str = "",
) -> Any:
    about = About(key=key, kind=Kind.NUMBER, unit=unit, low=low, high=high, meaning=meaning, default_text=text)
    return _setting(about, default, factory)


def _flag(key: str, default: bool, meaning: str) -> Any:
    return _setting(About(key=key, kind=Kind.FLAG, meaning=meaning), default)


def _text(key: str, default: str | None, meaning: str, *, text: str = "") -> Any:
    about = About(key=key, kind=Kind.TEXT, meaning=meaning, optional=default is None, default_text=text)
    return _setting(about, default)


def _choice(key: str, choices: tuple[str, ...], meaning: str) -> Any:
    return _setting(About(key=key, kind=Kind.CHOICE, choices=choices, meaning=meaning), choices[0])


def _texts(key: str, default: tuple[str, ...] | None, meaning: str, *, text: str = "") -> Any:
    about = About(key=key, kind=Kind.TEXTS, meaning=meaning, optional=default is None, default_text=text)
    return _setting(about, default)


def _folder(key: str, meaning: str, *, factory: Any, text: str) -> Any:
    return _setting(About(key=key, kind=Kind.FOLDER, meaning=meaning, default_text=text), factory=factory)


def _certificates(key: str, meaning: str) -> Any:
    return _setting(About(key=key, kind=Kind.CERTIFICATES, meaning=meaning), ())


_D, _S, _C = Unit.DURATION, Unit.SIZE, Unit.COUNT
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


@dataclass(frozen=True, kw_only=True, slots=True)
class Listen:
    """Where callers reach the server."""

    host: str = _text("host", "127.0.0.1", "address to listen on; `0.0.0.0` for every IPv4 address")
    port: int = _number("port", _C, 0, 65_535, "TCP port; 0 takes a free one", default=3500)
    max_body_bytes: int = _number("maxBodySize", _S, 1, 128 * MIB, "longest request body", default=4 * MIB)
    max_header_bytes: int = _number(
        "maxHeaderSize", _S, 1 * KIB, 1 * MIB, "longest request head: request line and headers", default=16 * KIB
    )
    header_timeout_ms: int = _number(
        "headerTimeout", _D, 100, _HOUR_MS, "how long a request head may take", default=10_000
    )
    allowed_origins: tuple[str, ...] = _texts(
        "allowedOrigins", (), "origins that get CORS headers; `*` for all; empty sends none"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """Which HTTP server runs."""

    kind: str = _choice(
        "kind", ("auto", "hypercorn", "uvicorn"), "`auto` is uvicorn where the `fast` extra is installed and TLS is off"
    )
    http2: bool = _flag("http2", True, "offer HTTP/2 (hypercorn only): by ALPN with TLS, h2c without")
    tls_certificate: str | None = _text("tlsCertificate", None, "PEM file of the certificate chain (hypercorn only)")
    tls_key: str | None = _text("tlsKey", None, "PEM file of its private key")


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """The worker processes of the server. With several cells, each has its share."""

    workers: int = _number(
        "workers",
        _C,
        1,
        4_096,
        "worker processes, each running one invocation; divided over the cells, at least one each",
        factory=cpu_count,
        text="CPUs available",
    )
    queue_limit: int = _number(
        "queueLimit", _C, 0, 1_000_000, "requests that may wait for a worker; divided over the cells", default=1_000
    )
    queue_timeout_ms: int = _number(
        "queueTimeout", _D, 1, _HOUR_MS, "how long a request may wait for a worker", default=10_000
    )
    look_ahead: int = _number(
        "lookAhead", _C, 0, 16, "requests sent ahead to a busy worker whose guest runs briefly; 0 = none", default=8
    )
    polling: bool = _flag(
        "polling",
        True,
        "look for the next frame up to 0.5 ms before sleeping, while requests come one at a time; "
        "never where there is one CPU or a CPU quota",
    )
    recycle_after: int = _number(
        "recycleAfter", _C, 0, 1_000_000_000, "invocations after which a worker is replaced; 0 = never", default=0
    )
    user: str | None = _text(
        "user", None, "workers run as this user, a name or a number; needs root", text="the server's own"
    )
    group: str | None = _text(
        "group", None, "workers run as this group and no other; needs root", text="that of `user`, or the server's own"
    )
    host_memory_bytes: int = _number(
        "hostMemory",
        _S,
        1024 * MIB,
        1024 * 1024 * MIB,
        "address space a worker may take beside guests' memories: its own, input and bodies in flight",
        default=4096 * MIB,
    )
    max_binding_share: int = _number(
        "maxBindingShare",
        _C,
        1,
        100,
        "percentage of the workers that one binding may hold where several are served",
        default=75,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """Where compiled modules are kept."""

    folder: Path = _folder(  # noqa: RUF009  (it returns a dataclasses.field with a default_factory)
        "folder",
        "compiled and downloaded modules, private to the user",
        factory=lambda: default_cache_folder(os.environ),
        text="`$XDG_CACHE_HOME/sandboxd` or `~/.cache/sandboxd`",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Modules:
    """Downloading and compiling modules."""

    max_download_bytes: int = _number(
        "maxDownloadSize", _S, 1 * KIB, 4096 * MIB, "largest module accepted", default=256 * MIB
    )
    connect_timeout_ms: int = _number("connectTimeout", _D, 1, _HOUR_MS, "connecting to an origin", default=10_000)
    download_timeout_ms: int = _number(
        "downloadTimeout", _D, 1, _DAY_MS, "one download from first to last byte", default=300_000
    )
    retries: int = _number("retries", _C, 0, 100, "further tries of a failed download", default=3)
    retry_backoff_ms: int = _number(
        "retryBackoff", _D, 0, _HOUR_MS, "pause before the first further try; doubles each time", default=500
    )
    revalidate_ms: int = _number(
        "revalidatePeriod", _D, 0, 30 * _DAY_MS, "how often http(s) modules are asked for changes; 0 = never", default=0
    )
    compile_timeout_ms: int = _number("compileTimeout", _D, 100, _DAY_MS, "compiling one module", default=120_000)
    compile_memory_bytes: int = _number(
        "compileMemory", _S, 64 * MIB, 1024 * 1024 * MIB, "address space of one compiler process", default=4096 * MIB
    )
    compile_parallelism: int = _number(
        "compileParallelism", _C, 1, 1_024, "compilers at once", factory=cpu_count, text="CPUs available"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Egress:
    """Outbound HTTP of guests, for all bindings."""

    default_allowed_hosts: tuple[str, ...] | None = _texts(
        "defaultAllowedHosts",
        None,
        "patterns for bindings without `allowedOutboundHosts`; an empty list allows nothing",
        text="public and private addresses, as Dapr",
    )
    block_networks: tuple[str, ...] = _texts(
        "blockNetworks", (), "never connected to: CIDRs, or `private`, `loopback`, `link-local`, `metadata`"
    )
    ca_files: tuple[str, ...] = _texts("caFiles", (), "PEM files of CAs trusted beside the system's")
    client_certificates: tuple[tuple[str, str, str], ...] = _certificates(
        "clientCertificates",
        "list of `{origin, certificate, key}`: PEM files presented to origins matching the pattern",
    )
    proxy: str | None = _text(
        "proxy", None, "`http://[user:password@]host:port` of a proxy; the environment's proxies are ignored"
    )
    http2: bool = _flag("http2", False, "speak HTTP/2 where an origin offers it")
    connections: int = _number("connections", _C, 1, 65_535, "connections a worker may hold", default=64)
    connect_timeout_ms: int = _number("connectTimeout", _D, 1, _HOUR_MS, "connecting to an origin", default=10_000)
    first_byte_timeout_ms: int = _number(
        "firstByteTimeout", _D, 1, _HOUR_MS, "from the request's end to the response head", default=60_000
    )
    between_bytes_timeout_ms: int = _number(
        "betweenBytesTimeout", _D, 1, _HOUR_MS, "the longest pause within a response body", default=60_000
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Logging:
    """Log lines on stderr."""

    format: str = _choice("format", ("auto", "json", "text"), "`auto` is text on a terminal and JSON elsewhere")
    level: str = _choice("level", ("info", "debug", "warning", "error"), "the least severity written")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drain:
    """The end of the server."""

    timeout_ms: int = _number(
        "timeout", _D, 0, _DAY_MS, "how long SIGTERM lets running invocations finish", default=30_000
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reload:
    """Changes while the server runs. SIGHUP reloads in any case."""

    watch: bool = _flag("watch", True, "reload when components or file:// modules change, as Dapr's HotReload does")
    debounce_ms: int = _number("debounce", _D, 0, _HOUR_MS, "quiet time after a change before it is read", default=500)


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsConfig:
    """What /metrics says."""

    dapr_compatibility: bool = _flag(
        "daprCompatibility", False, "also daprd's `dapr_component_output_binding_*` names, labels and buckets"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings. Sections are keys of sandboxd.yaml; `limits` and `wasm` stand in limit_keys."""

    app_id: str = _text("appId", "sandboxd", "Dapr's app id: `scopes`, the `{appID}` template, /v1.0/metadata")
    namespace: str | None = _text(
        "namespace", None, "components of other namespaces are skipped", text="`$NAMESPACE`; else no comparison"
    )
    resources_paths: tuple[str, ...] = _texts("resourcesPaths", (), "folders of component files")
    strict_sandbox: bool = _flag("strictSandbox", False, "run every binding with `strictSandbox: true`")
    cells: int = _number(
        "cells",
        _C,
        0,
        256,
        "independent fronts, each with a zygote and a pool, on one port; 0 = one per 4 CPUs, at most one per worker",
        default=0,
    )
    listen: Listen = field(default_factory=Listen)
    engine: Engine = field(default_factory=Engine)
    pool: PoolConfig = field(default_factory=PoolConfig)
    limits: Limits = field(default_factory=Limits)
    """Limits of bindings that do not set their own."""
    ceilings: Limits = DEFAULT_CEILINGS
    """The most a binding may set."""
    wasm: EngineSettings = field(default_factory=EngineSettings)
    cache: Cache = field(default_factory=Cache)
    modules: Modules = field(default_factory=Modules)
    egress: Egress = field(default_factory=Egress)
    logging: Logging = field(default_factory=Logging)
    drain: Drain = field(default_factory=Drain)
    reload: Reload = field(default_factory=Reload)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    api_token: str | None = field(default=None, repr=False)
    """From DAPR_API_TOKEN only, so that it stands in no file and in no printed configuration."""

    @property
    def cell_count(self) -> int:
        """Cells to run: `cells`, or if that is 0 one per 4 CPUs, at least 1 and at most one per worker."""
        return self.cells or max(1, min(cpu_count() // 4, self.pool.workers))


def default_cache_folder(environ: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/sandboxd`, or `~/.cache/sandboxd`.

    Source: XDG Base Directory Specification 0.8; a relative XDG_CACHE_HOME is to be ignored.
    """
    base = environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "sandboxd"
    return home(environ) / ".cache" / "sandboxd"


def home(environ: Mapping[str, str]) -> Path:
    """`$HOME`, or the home folder of the user's passwd entry; `/` for a user without either."""
    if environ.get("HOME"):
        return Path(environ["HOME"])
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir or "/")
    except KeyError:
        return Path("/")
