"""The address of the status page and the status document."""

from dataclasses import dataclass
from typing import Final

OFF: Final = "off"
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 3501


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on: the path of a Unix socket, or a host and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str | None) -> Address | None:
    """Return the address that `admin.listen` names; None if the page is off.

    Parameters:
        text: the setting; None for the default address.

    Raises:
        ValueError: it is not an address.
    """
    if text is None:
        return Address(host=DEFAULT_HOST, port=DEFAULT_PORT)
    if text == OFF:
        return None
    if "/" in text:
        return Address(path=text)
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:3501")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise ValueError("write host:port, the path of a Unix socket, or off")
    return Address(host=host, port=int(port))
