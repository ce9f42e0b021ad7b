"""The limits of an invocation as operators write them: one table for sandboxd.yaml, component metadata and the docs."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from sandboxd.limits import KIB, MIB, TABLE_ELEMENTS_MAX, Limits
from sandboxd.units import format_duration_ms, format_size, parse_duration_ms, parse_size


class Unit(Enum):
    """How a number is written."""

    DURATION = auto()
    """Milliseconds, written `250ms`, `30s`, `1m30s`."""
    SIZE = auto()
    """Bytes, written `65536`, `64Ki`, `4MiB`."""
    COUNT = auto()
    """A whole number."""

    def parse(self, text: str) -> int:
        """The number `text` stands for.

        Raises:
            ValueError: it stands for none; the text says what was expected.
        """
        if self is Unit.DURATION:
            return parse_duration_ms(text)
        if self is Unit.SIZE:
            return parse_size(text)
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise ValueError("not a whole number such as 64")
        return int(text)

    def format(self, value: int) -> str:
        """The text `parse` reads back as `value`."""
        if self is Unit.DURATION:
            return format_duration_ms(value)
        return format_size(value) if self is Unit.SIZE else str(value)

    def show(self, value: int) -> str:
        """As in a message to people: `16 MiB`, `1000 bytes`, `30s`, `64`."""
        text = self.format(value)
        if self is not Unit.SIZE:
            return text
        return f"{value} bytes" if text.isdigit() else f"{text[:-2]} {text[-2:]}B"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounded:
    """A number an operator may set."""

    field: str
    """Field of the dataclass it belongs to."""
    key: str
    """Key in YAML, camelCase."""
    unit: Unit
    low: int
    """Least value, inclusive."""
    high: int
    """Greatest value, inclusive."""
    meaning: str

    def check(self, value: int) -> None:
        """Raise ValueError, naming the bound, unless low <= value <= high."""
        if value < self.low:
            raise ValueError(f"{self.unit.format(value)} is below the least allowed, {self.unit.format(self.low)}")
        if value > self.high:
            raise ValueError(f"{self.unit.format(value)} is above the most allowed, {self.unit.format(self.high)}")


def _row(field: str, key: str, unit: Unit, low: int, high: int, meaning: str) -> Bounded:
    return Bounded(field=field, key=key, unit=unit, low=low, high=high, meaning=meaning)


_D, _S, _C = Unit.DURATION, Unit.SIZE, Unit.COUNT
_DAY_MS: Final = 86_400_000

# What an invocation may use in the end is bounded by the frame that carries it (256 MiB) and by 32-bit memories.
LIMITS: Final = (
    _row("timeout_ms", "timeout", _D, 1, _DAY_MS, "from the request to its result, waiting for a worker included"),
    _row("memory_bytes", "memoryLimit", _S, 64 * KIB, 4096 * MIB, "each linear memory of the guest"),
    _row("table_elements", "tableElements", _C, 1, TABLE_ELEMENTS_MAX, "elements of each table of the guest"),
    _row("args_bytes", "argsLimit", _S, 1, 16 * MIB, "arguments, each with its terminating zero"),
    _row("env_bytes", "envLimit", _S, 1, 16 * MIB, "environment, each `NAME=VALUE` with its terminating zero"),
    _row("stdout_bytes", "stdoutLimit", _S, 0, 240 * MIB, "what the guest may write to stdout"),
    _row("stderr_bytes", "stderrLimit", _S, 0, 8 * MIB, "how much of the end of stderr is kept"),
    _row("host_entries", "hostEntries", _C, 8, 1_000_000, "host objects (requests, streams, pollables) alive at once"),
    _row("outbound_requests", "outboundRequests", _C, 0, 10_000_000, "outbound HTTP requests of one invocation"),
    _row("outbound_concurrency", "outboundConcurrency", _C, 1, 10_000, "outbound HTTP requests in flight at once"),
    _row("outbound_header_bytes", "outboundHeaderLimit", _S, 256, 8 * MIB, "header block of an outbound message"),
    _row("outbound_header_count", "outboundHeaderCount", _C, 1, 10_000, "header lines of an outbound message"),
    _row("outbound_body_bytes", "outboundBodyLimit", _S, 0, 64 * 1024 * MIB, "body of an outbound message"),
    _row("http_body_bytes", "httpBodyLimit", _S, 0, 1024 * 1024 * MIB, "body streamed through `/v1.0/http/`, each way"),
)
"""Limits, in the order of the documentation."""

ENGINE: Final = (
    _row("wasm_stack_bytes", "stack", _S, 64 * KIB, 64 * MIB, "stack of WebAssembly code"),
    _row("max_memory_bytes", "maxMemory", _S, 64 * KIB, 4096 * MIB, "address space of each linear memory"),
    _row("max_memories", "maxMemories", _C, 1, 1_000, "linear memories alive at once in one worker"),
    _row("keep_resident_bytes", "keepResident", _S, 0, 256 * MIB, "memory kept between invocations, zeroed by hand"),
)
"""Settings of the WebAssembly engine. Changing one recompiles every module."""

_KEYS: Final = {row.field: (row, row.key) for row in LIMITS} | {row.field: (row, f"wasm.{row.key}") for row in ENGINE}


def key_of(field: str) -> str:
    """The key that sets a limit: in component metadata, or, with a dot, in sandboxd.yaml."""
    return _KEYS[field][1]


def shown(field: str, value: int) -> str:
    """An amount in the unit of a limit, for people."""
    return _KEYS[field][0].unit.show(value)


def named(field: str, value: int) -> str:
    """A limit in a message to a caller: its value and the key that raises it, `16 MiB (stdoutLimit)`.

    Parameters:
        field: of Limits or EngineSettings.
        value: what it is set to.
    """
    return f"{shown(field, value)} ({key_of(field)})"


BODY_KEY: Final = "listen.maxBodySize"
CONNECTIONS_KEY: Final = "egress.connections"

ALL_KEYS: Final = frozenset((*(key for _, key in _KEYS.values()), BODY_KEY, CONNECTIONS_KEY))
"""Every key `sandboxd_limits_reached_total` can have as its label."""

_BY_ERROR_CODE: Final = {
    "HTTP-request-denied": "outbound_requests",
    "HTTP-request-body-size": "outbound_body_bytes",
    "HTTP-response-body-size": "outbound_body_bytes",
    **dict.fromkeys(
        (
            "HTTP-request-header-section-size",
            "HTTP-request-header-size",
            "HTTP-request-trailer-section-size",
            "HTTP-request-trailer-size",
            "HTTP-response-header-section-size",
            "HTTP-response-trailer-section-size",
        ),
        "outbound_header_bytes",
    ),
}
_NOT_ALWAYS: Final = frozenset(("HTTP-request-denied", "HTTP-request-body-size"))
"""Codes that have other causes too: they count only where the engine says that a limit was the reason."""


def outbound_limit(code: str, denied: str) -> str:
    """The key of the limit an outbound request met; empty if it met none.

    Parameters:
        code: how it ended: `ok` or the name of a wasi-http error code. A header section can have too many bytes or too
            many lines; both are told as the limit of bytes.
        denied: why it was refused, if it was.
    """
    if code == "connection-limit-reached":
        return CONNECTIONS_KEY
    field = _BY_ERROR_CODE.get(code, "")
    if not field or (code in _NOT_ALWAYS and denied != "limit"):
        return ""
    return key_of(field)


DEFAULT_CEILINGS: Final = Limits(
    timeout_ms=3_600_000,
    memory_bytes=4096 * MIB,
    table_elements=TABLE_ELEMENTS_MAX,
    args_bytes=1 * MIB,
    env_bytes=1 * MIB,
    stdout_bytes=128 * MIB,
    stderr_bytes=1 * MIB,
    host_entries=65_536,
    outbound_requests=100_000,
    outbound_concurrency=1_024,
    outbound_header_bytes=1 * MIB,
    outbound_header_count=1_024,
    outbound_body_bytes=1024 * MIB,
    http_body_bytes=64 * 1024 * MIB,
)
"""What a component may ask for unless sandboxd.yaml says otherwise."""
