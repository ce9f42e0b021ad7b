"""The types of wasi:filesystem/types."""

from hostfuncs.wasip2.clocks import DATETIME
from hostfuncs.wasip2.types import STRING, U64, Enum, Flags, Option, Record, Variant

ERROR_CODE = Enum(
    (
        *("access", "would-block", "already", "bad-descriptor", "busy", "deadlock", "quota", "exist", "file-too-large"),
        *("illegal-byte-sequence", "in-progress", "interrupted", "invalid", "io", "is-directory", "loop"),
        *("too-many-links", "message-size", "name-too-long", "no-device", "no-entry", "no-lock"),
        *("insufficient-memory", "insufficient-space", "not-directory", "not-empty", "not-recoverable", "unsupported"),
        *("no-tty", "no-such-device", "overflow", "not-permitted", "pipe", "read-only", "invalid-seek"),
        *("text-file-busy", "cross-device"),
    )
)
DESCRIPTOR_TYPE = Enum(
    (
        *("unknown", "block-device", "character-device", "directory", "fifo", "symbolic-link", "regular-file"),
        "socket",
    )
)
DESCRIPTOR_FLAGS = Flags(
    ("read", "write", "file-integrity-sync", "data-integrity-sync", "requested-write-sync", "mutate-directory")
)
PATH_FLAGS = Flags(("symlink-follow",))
OPEN_FLAGS = Flags(("create", "directory", "exclusive", "truncate"))
ADVICE = Enum(("normal", "sequential", "random", "will-need", "dont-need", "no-reuse"))
NEW_TIMESTAMP = Variant((("no-change", None), ("now", None), ("timestamp", DATETIME)))
DESCRIPTOR_STAT = Record(
    (
        ("type", DESCRIPTOR_TYPE),
        ("link-count", U64),
        ("size", U64),
        ("data-access-timestamp", Option(DATETIME)),
        ("data-modification-timestamp", Option(DATETIME)),
        ("status-change-timestamp", Option(DATETIME)),
    )
)
METADATA_HASH = Record((("lower", U64), ("upper", U64)))
DIRECTORY_ENTRY = Record((("type", DESCRIPTOR_TYPE), ("name", STRING)))
