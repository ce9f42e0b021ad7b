"""The rules for HTTP fields of guests: the names that they cannot set, and the most bytes.

The host functions hold guests to it, and a server that trusts no worker holds its workers to it.
"""

from typing import Final

FORBIDDEN_FIELDS: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
        b"host",
        b"http2-settings",
    }
)
"""The fields that no guest may set, in lower case."""

FIELDS_BYTES: Final = 128 * 1024
"""The most bytes of names and values in one `fields`, counting `LINE_COST` for each line besides. As in wasmtime."""
LINE_COST: Final = 64
"""The bytes that are counted for each line beside its name and value."""
