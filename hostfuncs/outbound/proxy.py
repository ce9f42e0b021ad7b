"""How a proxy is written in the settings."""


def parse_proxy(url: str) -> tuple[bytes, int, tuple[bytes, bytes] | None]:
    """Read `http://[user:password@]host:port`.

    Returns:
        Host, port, and user and password if they are given.

    Raises:
        ValueError: it is something else.
    """
    scheme, separator, rest = url.partition("://")
    credentials, _, address = rest.rpartition("@")
    host, _, port = address.rstrip("/").rpartition(":")
    if not separator or scheme != "http" or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("the outbound proxy is not http://[user:password@]host:port")
    user, _, password = credentials.partition(":")
    return host.encode("idna"), int(port), (user.encode(), password.encode()) if credentials else None
