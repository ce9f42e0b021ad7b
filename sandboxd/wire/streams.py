"""The kinds of a guest's stdin and of the reply made of its stdout, as components and requests name them."""

from enum import StrEnum


class StdinKind(StrEnum):
    """The kinds of text that a guest reads from stdin."""

    JSON = "json"
    """`data` as JSON text, as in Dapr."""
    TEXT = "text"
    """The characters of `data`, which is a JSON string."""
    BASE64 = "base64"
    """The bytes that `data`, a JSON string in base64, encodes."""


class StdoutKind(StrEnum):
    """The kinds of reply that a guest's stdout becomes."""

    RAW = "raw"
    """The bytes as they are, as in Dapr."""
    BASE64 = "base64"
    """A JSON string that holds them in base64."""
    JSON = "json"
    """A JSON string of their text."""
