"""The attributes that callers set at run time, with SetMetadata or PUT /v1.0/metadata/{key}."""

from typing import Final

from sandboxd.front.ports import Cells

MAX_ATTRIBUTES: Final = 64
MAX_ATTRIBUTE_BYTES: Final = 4096
"""The most attributes that callers may set, and the longest key and value. Dapr has no bounds."""
TOO_MANY: Final = f"at most {MAX_ATTRIBUTES} attributes of at most {MAX_ATTRIBUTE_BYTES} bytes can be set"


class Attributes:
    """The attributes of one server.

    Parameters:
        cells: of the server, if it has several; each of them knows every attribute.
    """

    def __init__(self, cells: Cells | None = None) -> None:
        self._cells = cells
        self.values: dict[str, str] = {} if cells is None else cells.attributes

    def __repr__(self) -> str:
        return f"<Attributes {len(self.values)} set>"

    def set(self, key: str, value: str) -> bool:
        """Set one. Return whether there was room for it."""
        full = key not in self.values and len(self.values) >= MAX_ATTRIBUTES
        if full or max(len(key.encode()), len(value.encode())) > MAX_ATTRIBUTE_BYTES:
            return False
        self.values[key] = value
        if self._cells is not None:
            self._cells.share_attribute(key, value)
        return True
